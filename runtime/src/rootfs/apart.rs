//! Mounting where nobody else sees it: on a thread in a mount namespace of its own, from which the result comes back as a mount in no
//! tree. Whatever else was mounted there vanishes with the thread.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount as mount_at};
use nix::sched::{CloneFlags, unshare};

/// Runs `work` on such a thread, in an empty folder that it may fill. `scratch` is a folder of the host, which only this thread sees
/// covered.
pub(super) fn mount(scratch: &Path, work: impl FnOnce() -> Result<OwnedFd, Errno> + Send) -> Result<OwnedFd, Errno> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".into());
        let thread = thread.spawn_scoped(scope, || {
            enter(scratch)?;
            work()
        });
        let thread = thread.map_err(|e| errno_of(&e))?;
        thread.join().map_err(|_| Errno::ECANCELED)?
    })
}

fn enter(scratch: &Path) -> Result<(), Errno> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    mount_at(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    mount_at(Some("scratch"), scratch, Some("tmpfs"), MsFlags::empty(), NONE)?;
    nix::unistd::chdir(scratch)
}

/// A folder in the thread's own.
pub(super) fn make_folder(name: &str) -> Result<(), Errno> {
    std::fs::create_dir(name).map_err(|e| errno_of(&e))
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}
