//! Whose the standard streams of a container's processes are.
//!
//! A program that runs as another user may open /dev/stdout anew, which asks for the owner of the pipe or terminal behind it.

use super::program;
use nix::unistd::{Pid, Uid};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// Gives the calling process's standard streams to a user of the user namespace that `process` is in. One that has no such user gets
/// none: whoever becomes it fails.
pub fn give_to_user(process: Pid, user: u32) -> Result<(), String> {
    let owner =
        owner_outside(process, user).map_err(|error| format!("cannot read the container's uid_map: {error}"))?;
    owner.map_or(Ok(()), give)
}

/// Who a user of the user namespace that `process` is in is in ours.
pub fn owner_outside(process: Pid, user: u32) -> io::Result<Option<u32>> {
    let map = std::fs::read_to_string(format!("/proc/{process}/uid_map"))?;
    Ok(outside(&map, user))
}

/// By the lines of a uid_map (user_namespaces(7)).
fn outside(map: &str, user: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let numbers: Vec<u32> = line.split_whitespace().flat_map(str::parse).collect();
        match numbers.as_slice() {
            [inside, outside, count] => {
                let nth = user.checked_sub(*inside).filter(|nth| nth < count)?;
                outside.checked_add(nth)
            }
            _ => None,
        }
    })
}

/// Acts on the calling process's standard streams; /dev/null belongs to everybody.
pub fn give(uid: u32) -> Result<(), String> {
    let null = std::fs::metadata("/dev/null").map_or(0, |metadata| metadata.rdev());
    for stream in [
        std::io::stdin().as_fd(),
        std::io::stdout().as_fd(),
        std::io::stderr().as_fd(),
    ] {
        let failed =
            |errno: nix::Error| format!("cannot give a standard stream to user {uid}: {}", program::text(errno));
        let status = nix::sys::stat::fstat(stream).map_err(failed)?;
        if status.st_uid != uid && (status.st_rdev == 0 || status.st_rdev != null) {
            nix::unistd::fchown(stream, Some(Uid::from_raw(uid)), None).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "stream_owner_test.rs"]
mod tests;
