//! The mount option tmpcopyup: a new tmpfs begins with what the root file system has at its place.
//!
//! The image is hostile: names are looked up relative to descriptors, links are never followed, and the depth is bounded.

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Folders in each other.
const MAX_DEPTH: u32 = 128;

/// The folder of `base` that a mount at `place` hides; `None` if there is none. It is open as O_PATH.
pub fn open_below(base: &Path, place: &Path) -> io::Result<Option<OwnedFd>> {
    let folder = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(folder)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let at = |base: OwnedFd| {
        openat2(
            base,
            &Path::new(".").join(place.strip_prefix("/").unwrap_or(place)),
            how,
        )
    };
    match open(base, folder, Mode::empty()).and_then(at) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Copies the contents of a folder that [`open_below`] has found into the one at `place`.
pub fn copy(from: &OwnedFd, place: &Path) -> io::Result<()> {
    let to = open(place, FOLDER, Mode::empty())?;
    Ok(copy_folder(openat(from, ".", FOLDER, Mode::empty())?, &to, 0)?)
}

const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const FILE: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);
const NEW_FILE: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_CLOEXEC);

fn copy_folder(from: OwnedFd, to: &OwnedFd, depth: u32) -> nix::Result<()> {
    if depth == MAX_DEPTH {
        return Err(Errno::ELOOP);
    }
    let mut entries = Dir::from_fd(from)?;
    let names = entries.iter().map(|entry| Ok(entry?.file_name().to_owned()));
    let names: Vec<CString> = names.collect::<nix::Result<_>>()?;
    for name in names.iter().filter(|name| ![c".", c".."].contains(&name.as_c_str())) {
        copy_entry(&entries, name, to, depth)?;
    }
    Ok(())
}

fn copy_entry(from: impl AsFd, name: &CStr, to: &OwnedFd, depth: u32) -> nix::Result<()> {
    let stat = fstatat(&from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    match kind {
        SFlag::S_IFDIR => {
            mkdirat(to, name, Mode::S_IRWXU)?;
            let copy = openat(to, name, FOLDER, Mode::empty())?;
            copy_folder(openat(&from, name, FOLDER, Mode::empty())?, &copy, depth + 1)?;
            give(to, name, &stat)?;
            fchmod(&copy, mode)
        }
        SFlag::S_IFREG => {
            let original = openat(&from, name, FILE, Mode::empty())?;
            // Somebody may have put another file there meanwhile.
            if fstat(&original)?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
                return Err(Errno::EAGAIN);
            }
            let copy = openat(to, name, NEW_FILE, Mode::S_IRUSR | Mode::S_IWUSR)?;
            let (mut original, mut copy) = (File::from(original), File::from(copy));
            io::copy(&mut original, &mut copy)
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)))?;
            give(to, name, &stat)?;
            fchmod(&copy, mode)
        }
        SFlag::S_IFLNK => {
            symlinkat(readlinkat(&from, name)?.as_os_str(), to, name)?;
            give(to, name, &stat)
        }
        kind => {
            mknodat(to, name, kind, mode, stat.st_rdev)?;
            give(to, name, &stat)
        }
    }
}

/// The owners of the original.
fn give(folder: &OwnedFd, name: &CStr, original: &FileStat) -> nix::Result<()> {
    let (user, group) = (Uid::from_raw(original.st_uid), Gid::from_raw(original.st_gid));
    fchownat(folder, name, Some(user), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW)
}

#[cfg(test)]
#[path = "copy_up_test.rs"]
mod tests;
