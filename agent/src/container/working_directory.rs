//! The working directory of a container's init, which is made if it is missing, as runc makes it: in the container, after its mounts.
//!
//! The image and its volumes are hostile: every name is looked up below the container's root, and descriptors that /proc shows are not
//! followed, as the init still has some that lead out of it.

use super::program;
use libcontainer::capabilities::reset_effective;
use libcontainer::syscall::syscall::create_syscall;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat, umask};
use nix::unistd::{Gid, Uid, fchdir, setfsgid, setfsuid};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// Enters `cwd`. Called by an init that is in the container's root file system, has the user of its program, and may still do all that
/// the container's root may.
pub fn enter(cwd: &Path) -> Result<(), String> {
    let failed = |errno| format!("mkdir {}: {}", cwd.display(), program::text(errno));
    let folder = as_root(|| make(Path::new("/"), cwd))?.map_err(failed)?;
    fchdir(folder).map_err(|errno| not_entered(cwd, errno))
}

/// What users read when a working directory is there and cannot be entered.
pub fn not_entered(cwd: &Path, errno: Errno) -> String {
    let why = program::text(errno);
    format!("chdir to cwd ({cwd:?}) set in config.json failed: {why}")
}

/// Does `work` as the container's root, to whom new files then belong, and with exactly the modes that it names.
fn as_root<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let mask = umask(Mode::empty());
    let (user, group) = (setfsuid(Uid::from_raw(0)), setfsgid(Gid::from_raw(0)));
    let done = work();
    setfsgid(group);
    setfsuid(user);
    umask(mask);
    // Whoever stops being root for files loses what root may do with them (capabilities(7)).
    reset_effective(create_syscall().as_ref()).map_err(|error| format!("capabilities: {error}"))?;
    Ok(done)
}

/// mkdir -p of `path` inside `root`, out of which nothing leads.
fn make(root: &Path, path: &Path) -> nix::Result<OwnedFd> {
    let root = open(root, FOLDER, Mode::empty())?;
    let mut way = PathBuf::from(".");
    match find(&root, &way.join(path.strip_prefix("/").unwrap_or(path))) {
        Err(Errno::ENOENT) => {}
        result => return result,
    }
    let mut folder = find(&root, &way)?;
    for part in path.components() {
        if !matches!(part, Component::Normal(_) | Component::ParentDir) {
            continue;
        }
        way.push(part);
        folder = match find(&root, &way) {
            Err(Errno::ENOENT) => make_one(&root, &way, &folder, part)?,
            result => result?,
        };
    }
    Ok(folder)
}

/// Makes the folder `name` in `parent`, which `way` leads to.
fn make_one(root: &OwnedFd, way: &Path, parent: &OwnedFd, name: Component<'_>) -> nix::Result<OwnedFd> {
    match mkdirat(parent, name.as_os_str(), Mode::from_bits_truncate(0o755)) {
        // Somebody who shares the volume was faster, or it is a link to what is not there.
        Err(Errno::EEXIST) => find(root, way).map_err(|_| Errno::EEXIST),
        made => made.and_then(|()| find(root, way)),
    }
}

fn find(root: &OwnedFd, way: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(FOLDER)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, way, how)
}

const FOLDER: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

#[cfg(test)]
#[path = "working_directory_test.rs"]
mod tests;
