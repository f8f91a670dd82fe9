//! The groups that a container has made below its own: how many, how deep and how they are called is the container's choice, within the
//! bounds that its own group sets. They are looked up relative to descriptors, as a path could become longer than the kernel takes. All of
//! this blocks.

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How deep groups may lie in each other, and how many may lie below a container's: more than any service manager makes.
pub const MAX_DEPTH: usize = 64;
pub const MAX_GROUPS: usize = 4096;

const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Pids of all processes in a group and below, in their order.
pub fn pids(group: &Path) -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    collect(&open(group, FOLDER, Mode::empty())?, 0, &mut pids);
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Groups that a container removes meanwhile have no processes.
fn collect(group: &OwnedFd, depth: usize, pids: &mut Vec<u32>) {
    let procs = openat(group, "cgroup.procs", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    if let Ok(text) = procs
        .map_err(io::Error::from)
        .and_then(|file| io::read_to_string(File::from(file)))
    {
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    if depth == MAX_DEPTH {
        return;
    }
    for name in folders(group).unwrap_or_default() {
        if let Ok(below) = openat(group, name.as_c_str(), FOLDER, Mode::empty()) {
            collect(&below, depth + 1, pids);
        }
    }
}

/// Removes a group and those below it, of any depth, all of which have no processes any more.
pub fn remove(group: &Path, deadline: Instant) -> io::Result<()> {
    let mut here = open(group, FOLDER, Mode::empty())?;
    // The names from the first group to this one, and what is left to remove in each of these.
    let mut way: Vec<CString> = Vec::new();
    let mut left = vec![folders(&here)?];
    while let Some(names) = left.last_mut() {
        if let Some(name) = names.pop() {
            here = openat(&here, name.as_c_str(), FOLDER, Mode::empty())?;
            left.push(folders(&here)?);
            way.push(name);
        } else {
            left.pop();
            if let Some(name) = way.pop() {
                here = openat(&here, "..", FOLDER, Mode::empty())?;
                remove_one(deadline, || unlinkat(&here, name.as_c_str(), UnlinkatFlags::RemoveDir))?;
            }
        }
    }
    drop(here);
    remove_one(deadline, || {
        unlinkat(nix::fcntl::AT_FDCWD, group, UnlinkatFlags::RemoveDir)
    })
}

/// The last processes are unhashed a moment after the group has become unpopulated.
fn remove_one(deadline: Instant, remove: impl Fn() -> nix::Result<()>) -> io::Result<()> {
    while let Err(errno) = remove() {
        if errno == Errno::ENOENT {
            break;
        }
        if Instant::now() >= deadline {
            return Err(errno.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn folders(group: impl AsFd) -> nix::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::openat(group, ".", FOLDER, Mode::empty())?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() == Some(Type::Directory) && ![c".", c".."].contains(&name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
#[path = "cgroup_tree_test.rs"]
mod tests;
