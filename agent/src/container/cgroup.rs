//! One container's cgroup (v2): limits from the spec, counters, freezing and killing.
//!
//! All containers lie under one top group, and the name of each carries a suffix, so that no container id can be taken for
//! one of the kernel's own files. Limits that mean host hardware (cpuset's CPU and node numbers, io of host devices) act on the
//! host alone and are left out here.

use super::{cgroup_tree, limits};
use crate::apart::apart;
use crate::sys::send_signal;
use nix::libc;
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// Where the guest mounts the cgroup v2 tree.
pub const ROOT: &str = "/sys/fs/cgroup";
/// The group of all containers, below [`ROOT`].
const TOP: &str = "pod";
/// How many tasks the agent and the kernel may come to have besides those of containers.
const RESERVE: u64 = 1024;
/// How long a freeze, and the end of killed processes, may take: less than the host waits for an answer, so that it hears why.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 8000 });
/// The files that [`Cgroup::stats`] reads; those of hugetlb are added by what the directory holds.
const STATS: &[&str] = &[
    "cpu.stat",
    "cpu.max",
    "cpu.weight",
    "cpu.pressure",
    "memory.current",
    "memory.peak",
    "memory.max",
    "memory.high",
    "memory.low",
    "memory.stat",
    "memory.events",
    "memory.swap.current",
    "memory.swap.max",
    "memory.pressure",
    "pids.current",
    "pids.max",
    "pids.events",
    "io.stat",
    "io.pressure",
    "cgroup.events",
];

/// What failed on which file.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file or directory of the group.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// What was attempted.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A limit that the kernel refuses.
    #[error("cannot set {file} to {value:?}")]
    Limit {
        /// Name of the cgroup file.
        file: String,
        /// The refused value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// Limits that contradict each other, or limit what there is not.
    #[error("{0}")]
    Refused(String),
    /// The kernel does not act in time.
    #[error("{} processes are not {state} after {} s", path.display(), PATIENCE.as_secs())]
    Late {
        /// The group.
        path: PathBuf,
        /// What was waited for.
        state: &'static str,
    },
}

type Result<T> = std::result::Result<T, CgroupError>;

/// Turns every controller on for the groups of containers. Called once at boot.
pub fn prepare_tree(root: &Path) -> Result<()> {
    let top = top(root);
    make_directory(&top)?;
    for group in [root, &top] {
        let controllers = read(&group.join("cgroup.controllers"))?;
        let file = group.join("cgroup.subtree_control");
        for controller in controllers.split_whitespace() {
            // One at a time: a controller that cannot be delegated must not take the others along.
            if let Err(error) = fs::write(&file, format!("+{controller}")) {
                crate::kmsg::notice(&format!(
                    "controller {controller} stays off in {}: {error}",
                    group.display()
                ));
            }
        }
    }
    Ok(())
}

/// Leaves room for the agent's own threads and helpers, and for the kernel's: containers without a limit of their own can otherwise take
/// all that the kernel's settings allow. Called once these are as they stay.
pub fn leave_room(root: &Path) -> Result<()> {
    let number = |path: &str, field: usize| {
        let text = read(Path::new(path))?;
        let number = text
            .split(['/', ' ', '\n'])
            .nth(field)
            .and_then(|field| field.parse().ok());
        Ok::<u64, CgroupError>(number.unwrap_or(u64::MAX))
    };
    let most = number("/proc/sys/kernel/threads-max", 0)?.min(number("/proc/sys/kernel/pid_max", 0)?);
    // "0.00 0.00 0.00 1/95 120": the tasks that there are.
    let there = number("/proc/loadavg", 4)?;
    let limit = room_of(most, there).to_string();
    let file = top(root).join("pids.max");
    fs::write(&file, &limit).map_err(|source| CgroupError::Limit {
        file: file.display().to_string(),
        value: limit,
        source,
    })
}

/// What containers may have of `most` tasks in all, `there` of which there are already.
fn room_of(most: u64, there: u64) -> u64 {
    let reserve = there.saturating_add(RESERVE).min(most / 2);
    most - reserve
}

/// The group of all containers, whose tree is mounted at `root`.
pub fn top(root: &Path) -> PathBuf {
    root.join(TOP)
}

/// Does `work` in the group that `procs_file` is of, which then pays for the memory that it takes, and goes back. Called in the helper,
/// which is in the agent's group otherwise.
pub fn within<T>(procs_file: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let list = fs::read_to_string("/proc/self/cgroup")?;
    let own = list.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = Path::new(ROOT).join(own.unwrap_or_default()).join("cgroup.procs");
    let join = |group: &Path| fs::File::options().write(true).open(group)?.write_all(b"0");
    join(procs_file)?;
    let done = work();
    // Whoever removes a container kills what is in its group.
    join(&own)?;
    done
}

/// A container's group.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// As /proc/PID/cgroup shows it, and libcontainer wants it.
    name: PathBuf,
    /// Whoever holds it freezes and thaws.
    freezing: Arc<Mutex<()>>,
}

impl Cgroup {
    /// Makes the group of container `id`, empty and without limits but for the groups below it: the agent goes through them.
    pub fn create(root: &Path, id: &str) -> Result<Self> {
        let name = Path::new("/").join(TOP).join(format!("{id}.container"));
        let path = top(root).join(format!("{id}.container"));
        make_directory(&path)?;
        let freezing = Arc::default();
        let group = Self { path, name, freezing };
        group.write("cgroup.max.depth", &cgroup_tree::MAX_DEPTH.to_string())?;
        group.write("cgroup.max.descendants", &cgroup_tree::MAX_GROUPS.to_string())?;
        Ok(group)
    }

    /// Path below the mount point.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The group's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that a process is moved into the group with.
    pub fn procs_file(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// The same of the group that a process of the container is in, which may have been made by the container; a group with others
    /// below it takes none (cgroup v2, "No Internal Process Constraint").
    pub fn procs_file_of(&self, pid: Pid) -> PathBuf {
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::"));
        let below = own.and_then(|own| Path::new(own).strip_prefix(&self.name).ok());
        self.path
            .join(below.unwrap_or_else(|| "".as_ref()))
            .join("cgroup.procs")
    }

    /// The file that tells of out-of-memory kills.
    pub fn memory_events_file(&self) -> PathBuf {
        self.path.join("memory.events")
    }

    /// Writes the limits of a spec and binds the group to its rules for devices.
    pub fn apply(&self, resources: &LinuxResources) -> Result<()> {
        super::devices::restrict(self, resources.devices().as_deref().unwrap_or_default())?;
        self.update(resources)
    }

    /// Writes limits, those that are there.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        limits::check_usage(resources, || self.memory_usage()).map_err(CgroupError::Refused)?;
        let limits = limits::files(resources, |file| self.path.join(file).exists()).map_err(CgroupError::Refused)?;
        for limit in limits {
            let written = if limit.file.contains('/') {
                Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a file's name has no slash",
                ))
            } else {
                fs::write(self.path.join(&limit.file), &limit.value)
            };
            match written {
                Err(error) if limit.again && error.kind() == io::ErrorKind::InvalidInput => {}
                written => written.map_err(|source| CgroupError::Limit {
                    file: limit.file,
                    value: limit.value,
                    source,
                })?,
            }
        }
        Ok(())
    }

    /// Bytes.
    fn memory_usage(&self) -> Option<u64> {
        let text = fs::read_to_string(self.path.join("memory.current")).ok()?;
        text.trim().parse().ok()
    }

    /// Pids of all processes in the group and below.
    pub async fn pids(&self) -> Result<Vec<u32>> {
        self.apart("list", cgroup_tree::pids).await
    }

    /// Does with the group's directory what goes through those below it, on another thread.
    async fn apart<T: Send + 'static>(
        &self,
        verb: &'static str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.path.clone();
        let done = apart(move || work(&path)).await.and_then(|done| done);
        done.map_err(|source| CgroupError::File {
            verb,
            path: self.path.clone(),
            source,
        })
    }

    /// Contents of the counters and limits by file name, those that exist.
    pub fn stats(&self) -> HashMap<String, String> {
        let mut files = HashMap::new();
        let hugetlb = fs::read_dir(&self.path)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                name.starts_with("hugetlb.").then_some(name)
            });
        for name in STATS.iter().map(|name| (*name).to_string()).chain(hugetlb) {
            if let Ok(text) = fs::read_to_string(self.path.join(&name)) {
                files.insert(name, text);
            }
        }
        files
    }

    /// How many processes the out-of-memory killer has ended in this group and below.
    pub fn oom_kills(&self) -> u64 {
        fs::read_to_string(self.memory_events_file()).map_or(0, |text| field(&text, "oom_kill"))
    }

    /// True if the group was frozen by request.
    pub fn is_frozen(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
    }

    /// Freezes or thaws every process and waits until that is so. A freeze that does not finish is taken back.
    pub async fn set_frozen(&self, frozen: bool) -> Result<()> {
        let _freezing = self.freezing.lock().await;
        self.freeze_or_thaw(frozen).await
    }

    async fn freeze_or_thaw(&self, frozen: bool) -> Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
        let result = self
            .until("frozen", u64::from(frozen), if frozen { "frozen" } else { "thawed" })
            .await;
        if frozen && result.is_err() {
            self.write("cgroup.freeze", "0")?;
        }
        result
    }

    /// Sends `signal` to every process. None may escape by forking: the group stands still meanwhile, if it can.
    pub async fn signal(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL {
            return self.kill();
        }
        let _freezing = self.freezing.lock().await;
        let was_frozen = self.is_frozen();
        if !was_frozen && let Err(error) = self.freeze_or_thaw(true).await {
            // A process that waits for a file system cannot stand still, but hear signals.
            crate::kmsg::notice(&format!("signal {signal}: {}", crate::error::chain(&error)));
        }
        let sent = self.apart("list", move |group| {
            for pid in cgroup_tree::pids(group)? {
                // One that has ended meanwhile needs no signal.
                let _gone = send_signal(Pid::from_raw(pid.cast_signed()), signal);
            }
            Ok(())
        });
        let sent = sent.await;
        if !was_frozen {
            self.freeze_or_thaw(false).await?;
        }
        sent
    }

    /// Kills every process in the group and below, frozen ones too.
    pub fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Kills what is left, waits for it to be gone and removes the group with those below it. Twice is fine.
    pub async fn remove(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        self.kill()?;
        self.until("populated", 0, "gone").await?;
        let deadline = std::time::Instant::now() + PATIENCE;
        self.apart("remove", move |group| cgroup_tree::remove(group, deadline))
            .await
    }

    /// Waits until `key` in cgroup.events is `value`.
    async fn until(&self, key: &str, value: u64, state: &'static str) -> Result<()> {
        let events = self.path.join("cgroup.events");
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(200);
        while field(&read(&events)?, key) != value {
            if Instant::now() >= deadline {
                return Err(CgroupError::Late {
                    path: self.path.clone(),
                    state,
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(())
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(|source| CgroupError::File {
            verb: "write",
            path,
            source,
        })
    }
}

/// The number behind `key` in a flat keyed file; 0 if it is not there.
pub fn field(text: &str, key: &str) -> u64 {
    let mut values = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| *name == key);
    values
        .next()
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| CgroupError::File {
        verb: "read",
        path: path.to_owned(),
        source,
    })
}

fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(|source| CgroupError::File {
            verb: "make",
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
#[path = "cgroup_test.rs"]
mod tests;
