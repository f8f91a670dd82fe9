//! The shim's own small cgroup, so that a pod at its memory limit cannot take its supervisor along, and so that the pod's
//! counters hold the pod alone.
//!
//! cgroup v2 only: `/bulkhead-shims/NAMESPACE:POD`, or what the option ShimCgroup names. Moving is slow in the kernel (it waits
//! for every CPU), so the server does it beside its first calls. Without it the shim stays where containerd started it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Where cgroups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// How long a killed process may stay in its cgroup.
const DEATH: Duration = Duration::from_millis(500);

/// Folder of all shims' cgroups.
const PARENT: &str = "bulkhead-shims";

/// A cgroup that the shim has joined.
#[derive(Debug)]
pub struct OwnCgroup {
    folder: PathBuf,
    /// Where the shim came from and goes back to, because a cgroup with a process in it cannot be removed.
    origin: PathBuf,
}

/// Joins the pod's cgroup for the shim, or the one that the option names (which must be there already).
pub fn join(namespace: &str, pod: &str, asked: Option<&str>) -> io::Result<Option<OwnCgroup>> {
    let root = Path::new(ROOT);
    if !statfs(root).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        return Ok(None);
    }
    if let Some(asked) = asked {
        let asked = Path::new(asked.trim_start_matches('/'));
        let is_below = asked.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_below || asked.as_os_str().is_empty() {
            let message = format!("ShimCgroup {asked:?} is no path below {ROOT}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        enter(&root.join(asked))?;
        return Ok(None);
    }
    let origin = current(root)?;
    let folder = folder(root, namespace, pod);
    make(&folder)?;
    let joined = OwnCgroup { folder, origin };
    match enter(&joined.folder) {
        Ok(()) => Ok(Some(joined)),
        Err(e) => {
            joined.leave();
            Err(e)
        }
    }
}

impl OwnCgroup {
    /// Goes back and removes the cgroup.
    pub fn leave(&self) {
        // Its former cgroup can be gone when containerd was restarted.
        if let Err(error) = enter(&self.origin).or_else(|_| enter(Path::new(ROOT))) {
            tracing::debug!(%error, "cannot leave the shim's cgroup");
        }
        remove_folder(&self.folder);
    }
}

/// Removes the cgroup of a shim that is dead. Twice is fine. Blocks as long as a killed one takes to be gone.
pub fn remove(namespace: &str, pod: &str) {
    let folder = folder(Path::new(ROOT), namespace, pod);
    let deadline = Instant::now() + DEATH;
    loop {
        remove_folder(&folder);
        if !folder.exists() || Instant::now() > deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn folder(root: &Path, namespace: &str, pod: &str) -> PathBuf {
    // Neither part can hold a colon.
    root.join(PARENT).join(format!("{namespace}:{pod}"))
}

fn make(folder: &Path) -> io::Result<()> {
    // The last shim that leaves removes the parent, perhaps between the two steps of making ours.
    let mut tries = 0;
    loop {
        match std::fs::create_dir_all(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && tries < 10 => tries += 1,
            done => return done,
        }
    }
}

fn remove_folder(folder: &Path) {
    let _ = std::fs::remove_dir(folder);
    // Only when no other shim's is left in it.
    if let Some(parent) = folder.parent() {
        let _ = std::fs::remove_dir(parent);
    }
}

fn enter(folder: &Path) -> io::Result<()> {
    let mut members = File::options().write(true).open(folder.join("cgroup.procs"))?;
    members.write_all(std::process::id().to_string().as_bytes())
}

fn current(root: &Path) -> io::Result<PathBuf> {
    own_path(&std::fs::read_to_string("/proc/self/cgroup")?)
        .map(|path| root.join(path))
        .ok_or(io::ErrorKind::NotFound.into())
}

/// The cgroup v2 line of /proc/PID/cgroup, without its leading slash.
pub fn own_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

#[cfg(test)]
#[path = "own_cgroup_test.rs"]
mod own_cgroup_test;
