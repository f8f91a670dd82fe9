//! This process in a procfs that the guest is served, such as a volume of the host's /proc. The guest must not find it there: a process
//! may always read and write its own memory (ptrace(2), ptrace access mode checking), and it is this process that opens the file.
//!
//! Everything of a process lies below its number or that of one of its threads, also what `self` leads to; the numbers are those of
//! the pid namespace that the procfs was mounted in.

use std::ffi::CStr;
use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use rustix::fs::{AtFlags, statat};

/// Links to the process and the thread that ask.
const LINKS: [&[u8]; 2] = [b"self", b"thread-self"];

/// Whether a name can be that of a process. Costs nothing.
pub fn can_be_process(name: &CStr) -> bool {
    let name = name.to_bytes();
    LINKS.contains(&name) || (!name.is_empty() && name.iter().all(u8::is_ascii_digit))
}

/// Whether a folder lies in a procfs.
pub fn contains(folder: &File) -> io::Result<bool> {
    Ok(fstatfs(folder)?.filesystem_type() == PROC_SUPER_MAGIC)
}

/// Whether a name in a folder of a procfs is this process's. For a number to be trusted it has been looked up before: one that was
/// another's then stays another's, whichever thread gets it later.
pub fn is_own(folder: &File, name: &CStr) -> io::Result<bool> {
    let own = match readlinkat(folder, c"self") {
        Ok(own) => own,
        // Not the uppermost folder, or of a namespace that this process is not in.
        Err(Errno::ENOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if LINKS.contains(&name.to_bytes()) {
        return Ok(true);
    }
    let threads = [own.as_encoded_bytes(), b"/task/", name.to_bytes()].concat();
    match statat(folder, threads.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
