//! A user namespace that exists for its map: mounts are mapped by it.
//!
//! Unsafe, because of clone.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use bulkhead_vmm_control::IdExtent;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, clone};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, close, pipe2, read};

/// The child does next to nothing.
const STACK: usize = 16 * 1024;

/// A new user namespace with these maps. It lasts as long as the descriptor or a mount that is mapped by it.
pub(super) fn with_map(users: &[IdExtent], groups: &[IdExtent]) -> io::Result<OwnedFd> {
    let (wait, go) = pipe2(OFlag::O_CLOEXEC)?;
    let mut stack = [0u8; STACK];
    let inherited = go.as_raw_fd();
    let child = || {
        // Waits for the parent's end, should that come before it is killed.
        let _ = close(inherited);
        let _ = read(&wait, &mut [0u8; 1]);
        0
    };
    // SAFETY: the child has a copy of the memory, and of all threads only this one: it makes two system calls and ends.
    let child = unsafe {
        clone(
            Box::new(child),
            &mut stack,
            CloneFlags::CLONE_NEWUSER,
            Some(Signal::SIGCHLD as i32),
        )
    }?;
    let made = describe(child, users, groups);
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
    made
}

fn describe(child: Pid, users: &[IdExtent], groups: &[IdExtent]) -> io::Result<OwnedFd> {
    let folder = PathBuf::from(format!("/proc/{child}"));
    for (name, extents) in [("uid_map", users), ("gid_map", groups)] {
        // The kernel takes a map in one write or not at all.
        let mut file = File::options().write(true).open(folder.join(name))?;
        file.write_all(IdExtent::text(extents).as_bytes())?;
    }
    Ok(File::open(folder.join("ns/user"))?.into())
}
