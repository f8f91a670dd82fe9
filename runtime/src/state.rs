//! What a pod leaves on the host's disk while it lives, and how it is removed when its shim cannot.
//!
//! `STATE_DIR/NAMESPACE/POD/` (0700) holds `share/` (mount point), `pod.json` and, if asked for, `console.log`. Everything is
//! removed by name: nothing here deletes a tree, because a leftover mount below would lose a container's files.

use std::fs::DirBuilder;
use std::io::{ErrorKind as IoErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{ContainerId, validate_namespace};
use crate::pidfd::{PidFd, start_time_of};
use crate::pod::Undo;
use crate::rootfs::detach;
use crate::{cgroup, identity, mount_table};

const RECORD: &str = "pod.json";
const RECORD_NEW: &str = "pod.json.new";
const SHARE: &str = "share";
const CONSOLE: &str = "console.log";
/// Largest record, bytes.
const MAX_RECORD: u64 = 64 * 1024;
/// How long a killed vmm may take to vanish. `delete` has five seconds for everything.
const KILL_TIMEOUT: Duration = Duration::from_secs(3);

/// A living pod on disk, for `delete` and for `bulkhead ps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord {
    /// containerd's namespace.
    pub namespace: String,
    /// The sandbox's id.
    pub id: String,
    /// The shim's pid.
    pub shim_pid: u32,
    /// The vmm's pid and start time (clock ticks since the boot), once there is one.
    pub vmm: Option<ProcessRecord>,
    /// Host cgroup as the spec names it.
    pub cgroup: Option<String>,
    /// vCPUs.
    pub vcpus: u8,
    /// Guest memory, MiB.
    pub memory_mib: u32,
    /// First ids of the pod's own ranges on the host; empty: it runs with the host's ids.
    #[serde(default)]
    pub host_id_ranges: Vec<u32>,
    /// Seconds since the epoch.
    pub created: u64,
}

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Pid.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat.
    pub start_time: u64,
}

impl ProcessRecord {
    /// The process that has this pid now; `None` if there is none.
    pub(crate) fn of(pid: u32) -> Option<ProcessRecord> {
        Some(ProcessRecord {
            pid,
            start_time: start_time_of(pid)?,
        })
    }

    /// Whether that process still runs.
    pub fn is_alive(&self) -> bool {
        PidFd::open_recorded(self.pid, self.start_time).is_ok()
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// A pod's folder.
#[derive(Debug, Clone)]
pub(crate) struct PodFolder {
    path: PathBuf,
}

impl PodFolder {
    fn at(config: &Config, namespace: &str, id: &ContainerId) -> PodFolder {
        PodFolder {
            path: config.state_dir.join(namespace).join(id.as_str()),
        }
    }

    /// Makes the folder. What a dead pod of the same name left is removed first; a living one is an error.
    pub(crate) fn create(config: &Config, namespace: &str, id: &ContainerId, undo: &mut Undo) -> Result<PodFolder> {
        validate_namespace(namespace)?;
        let folder = PodFolder::at(config, namespace, id);
        if folder.path.exists() {
            let vmm = folder.read_record().ok().and_then(|record| record.vmm);
            if let Some(vmm) = vmm.filter(ProcessRecord::is_alive) {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!(
                        "pod {id} exists already in namespace {namespace}: its microVM runs as process {}",
                        vmm.pid
                    ),
                ));
            }
            cleanup(config, namespace, id)?;
        }
        make_folders(&folder.path).inspect_err(|_| folder.leave_namespace())?;
        let removed = folder.clone();
        undo.push(format!("folder {}", folder.path.display()), move || removed.remove());
        let share = folder.share();
        private_folder()
            .create(&share)
            .map_err(|e| Error::io("cannot create the folder", &share, e))?;
        Ok(folder)
    }

    pub(crate) fn share(&self) -> PathBuf {
        self.path.join(SHARE)
    }

    pub(crate) fn console_log(&self) -> PathBuf {
        self.path.join(CONSOLE)
    }

    /// Replaces the record; a reader sees the old or the new one. Blocks.
    pub(crate) fn write_record(&self, record: &PodRecord) -> Result<()> {
        let (new, path) = (self.path.join(RECORD_NEW), self.path.join(RECORD));
        let failed = |e| Error::io("cannot write the pod's record", &path, e);
        let bytes =
            serde_json::to_vec(record).map_err(|e| Error::internal("cannot encode the pod's record").caused_by(e))?;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        std::fs::rename(&new, &path).map_err(failed)
    }

    fn read_record(&self) -> Result<PodRecord> {
        let path = self.path.join(RECORD);
        let failed = |e| Error::io("cannot read the pod's record", &path, e);
        if std::fs::metadata(&path).map_err(failed)?.len() > MAX_RECORD {
            return Err(Error::internal(format!(
                "the pod's record {} is too large",
                path.display()
            )));
        }
        let bytes = std::fs::read(&path).map_err(failed)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::internal(format!("the pod's record {} is damaged", path.display())).caused_by(e))
    }

    /// Removes the folder with what belongs in it, and the namespace's when it is the last.
    fn remove(&self) -> Result<()> {
        for mount in mount_table::points_below(mount_table::read()?, &self.path) {
            detach(&mount)?;
        }
        for file in [RECORD_NEW, RECORD, CONSOLE] {
            remove(&self.path.join(file), |p| std::fs::remove_file(p))?;
        }
        remove(&self.path.join(SHARE), |p| std::fs::remove_dir(p))?;
        remove(&self.path, |p| std::fs::remove_dir(p))?;
        self.leave_namespace();
        Ok(())
    }

    /// Removes the namespace's folder, unless other pods keep it.
    fn leave_namespace(&self) {
        if let Some(namespace) = self.path.parent() {
            let _ = std::fs::remove_dir(namespace);
        }
    }
}

/// Removes what is left of a pod whose shim is gone: kills the vmm (never another process that got its pid), removes cgroup,
/// mounts and folder. Blocks for at most a few seconds. A pod that is not there is no error.
pub fn cleanup(config: &Config, namespace: &str, id: &ContainerId) -> Result<()> {
    validate_namespace(namespace)?;
    let folder = PodFolder::at(config, namespace, id);
    if !folder.path.exists() {
        return Ok(());
    }
    let mut removed = Ok(());
    match folder.read_record() {
        // Killed between making the folder and writing the record: there is no vmm yet.
        _ if !folder.path.join(RECORD).exists() => {}
        Ok(record) => {
            if let Some(vmm) = record.vmm {
                kill_recorded(&vmm)?;
            }
            if let Some(cgroup) = &record.cgroup {
                removed = cgroup::remove(cgroup);
            }
            for base in record.host_id_ranges {
                removed = removed.and(identity::release(&config.ids_dir, base));
            }
        }
        Err(error) => tracing::warn!("pod {id}: {error}"),
    }
    folder.remove().and(removed)
}

fn kill_recorded(vmm: &ProcessRecord) -> Result<()> {
    let Ok(process) = PidFd::open_recorded(vmm.pid, vmm.start_time) else {
        return Ok(());
    };
    if process.kill(KILL_TIMEOUT) {
        return Ok(());
    }
    Err(Error::timeout(format!(
        "the microVM's process {} did not end after SIGKILL",
        vmm.pid
    )))
}

/// All pods that have a record, in no order. Blocks.
pub fn list(config: &Config) -> Result<Vec<PodRecord>> {
    let mut records = Vec::new();
    for namespace in subfolders(&config.state_dir)? {
        for path in subfolders(&namespace)? {
            if let Ok(record) = (PodFolder { path }).read_record() {
                records.push(record);
            }
        }
    }
    Ok(records)
}

fn subfolders(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(path) {
        Err(e) if e.kind() == IoErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::io("cannot list", path, e))?,
    };
    Ok(entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.is_dir())
        .collect())
}

/// Makes folders that root alone can look into.
pub(crate) fn private_folder() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// The namespace's folder can vanish at any moment with its last pod, hence the second and third try.
fn make_folders(path: &Path) -> Result<()> {
    let failed = |e| Error::io("cannot create the pod's folder", path, e);
    let mut tries = 0;
    loop {
        if let Some(parent) = path.parent() {
            private_folder().recursive(true).create(parent).map_err(failed)?;
        }
        match private_folder().create(path) {
            Err(e) if e.kind() == IoErrorKind::NotFound && tries < 3 => tries += 1,
            Err(e) if e.kind() == IoErrorKind::AlreadyExists => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("pod folder {} exists already", path.display()),
                ));
            }
            result => return result.map_err(failed),
        }
    }
}

/// Removes something that may be gone already.
pub(crate) fn remove(path: &Path, with: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
    match with(path) {
        Err(e) if e.kind() != IoErrorKind::NotFound => Err(Error::io("cannot remove", path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "state_test.rs"]
mod state_test;
