//! What PID 1 does first: the file systems that programs expect, the pod's share, loopback.

use crate::container::cgroup;
use crate::error::chain;
use bulkhead_agent_protocol::{SHARE_MOUNT, SHARE_TAG};
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use std::path::Path;

/// Where the state of containers lives.
pub const STATE: &str = "/run/bulkhead/containers";

/// Descriptors that one process may have open: hard limit of containers whose spec sets none.
pub const MAX_DESCRIPTORS: u64 = 524_288;
/// The soft limit of those.
pub const USUAL_DESCRIPTORS: u64 = 1024;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file system.
    #[error("cannot mount {fstype} on {target}")]
    Mount {
        /// Type of the file system.
        fstype: &'static str,
        /// Mount point.
        target: &'static str,
        /// Why.
        source: nix::Error,
    },
    /// A directory or setting.
    #[error("cannot prepare {0}")]
    Prepare(&'static str, #[source] std::io::Error),
    /// The cgroup tree.
    #[error("cannot prepare the cgroup tree")]
    Cgroup(#[from] cgroup::CgroupError),
}

/// Source, mount point, type, flags, options.
type Entry = (&'static str, &'static str, &'static str, MsFlags, &'static str);

/// Everything but the share, in order. /dev is there already if the kernel mounts it by itself.
fn table() -> Vec<Entry> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    vec![
        ("proc", "/proc", "proc", safe, ""),
        ("sysfs", "/sys", "sysfs", safe, ""),
        ("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755"),
        (
            "devpts",
            "/dev/pts",
            "devpts",
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
            "mode=0620,ptmxmode=0666,gid=5",
        ),
        (
            "tmpfs",
            "/dev/shm",
            "tmpfs",
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            // As large as the one that the kubelet makes for a pod's containers.
            "mode=1777,size=64m",
        ),
        ("mqueue", "/dev/mqueue", "mqueue", safe, ""),
        (
            "cgroup2",
            cgroup::ROOT,
            "cgroup2",
            safe,
            "nsdelegate,memory_recursiveprot,favordynmods",
        ),
        (
            "tmpfs",
            "/run",
            "tmpfs",
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            "mode=0755",
        ),
        (
            "tmpfs",
            "/tmp",
            "tmpfs",
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            "mode=1777",
        ),
    ]
}

/// Mounts everything and sets PID 1 up. An error means that the guest cannot work.
pub fn prepare() -> Result<(), BootError> {
    for (source, target, fstype, flags, options) in table() {
        if matches!(target, "/dev/pts" | "/dev/shm" | "/dev/mqueue") {
            std::fs::create_dir_all(target).map_err(|error| BootError::Prepare(target, error))?;
        }
        match mount(Some(source), target, Some(fstype), flags, Some(options)) {
            // The kernel has mounted it before init.
            Err(nix::Error::EBUSY) if target == "/dev" => {}
            result => result.map_err(|source| BootError::Mount { fstype, target, source })?,
        }
    }
    for directory in [STATE, SHARE_MOUNT] {
        std::fs::create_dir_all(directory).map_err(|error| BootError::Prepare(directory, error))?;
    }
    links().map_err(|error| BootError::Prepare("/dev", error))?;
    // The agent goes last: without it nothing in the guest can be reached.
    std::fs::write("/proc/self/oom_score_adj", "-1000").map_err(|error| BootError::Prepare("oom_score_adj", error))?;
    limits().map_err(|errno| BootError::Prepare("resource limits", errno.into()))?;
    cgroup::prepare_tree(Path::new(cgroup::ROOT))?;
    loopback().map_err(|error| BootError::Prepare("loopback", error))?;
    Ok(())
}

/// Mounts the pod's share. A guest without one still answers, and says so on the console.
pub fn mount_share() {
    if let Err(source) = mount(
        Some(SHARE_TAG),
        SHARE_MOUNT,
        Some("virtiofs"),
        MsFlags::empty(),
        None::<&str>,
    ) {
        crate::kmsg::emergency(&chain(&BootError::Mount {
            fstype: "virtiofs",
            target: SHARE_MOUNT,
            source,
        }));
    }
}

/// Limits as a service manager gives them to containerd on a host; the kernel's own for PID 1 follow the guest's small memory.
/// The helper lowers the soft limit of descriptors again.
fn limits() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, MAX_DESCRIPTORS, MAX_DESCRIPTORS)?;
    setrlimit(Resource::RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY)?;
    setrlimit(Resource::RLIMIT_CORE, 0, RLIM_INFINITY)
}

fn links() -> std::io::Result<()> {
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "fd/0"),
        ("/dev/stdout", "fd/1"),
        ("/dev/stderr", "fd/2"),
    ] {
        match std::os::unix::fs::symlink(target, link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn loopback() -> std::io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(crate::sys::bring_loopback_up(any)?)
}
