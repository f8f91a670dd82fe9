//! What a name in a request may be.
//!
//! virtiofsd hands names to mkdirat(2), unlinkat(2), renameat2(2) and the like, which would take a path, and follow what lies on the
//! way, up to the root of everything that this process can name.

use std::ffi::CStr;
use std::io;

use nix::libc;

/// EINVAL for all but the name of one entry. A driver asks for `.` and `..` only when it was told that it may (FUSE_EXPORT_SUPPORT).
pub fn check(name: &CStr) -> io::Result<()> {
    let name = name.to_bytes();
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(())
}
