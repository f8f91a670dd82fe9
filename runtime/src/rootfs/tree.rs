//! Copies of mounts, made ready before anybody can see them (open_tree(2), mount_setattr(2), move_mount(2)).
//!
//! A mount at a place of the share travels to the monitor's namespace at once and its flags do not change there any more, so they
//! have to be right from the first moment. What the host mounts in its source later, or unmounts, leaves a copy as it is.
//!
//! Unsafe, because neither the C library nor nix has these calls.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::libc;

use crate::identity::FileMap;

/// What a bind mount lets its users do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Whatever its source allows.
    Write,
    /// No change at the top; mounts below it keep their own say.
    Read,
    /// No change anywhere.
    ReadAll,
}

/// How a copy differs from its source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner<'a> {
    /// With what is mounted below the source.
    pub(crate) recursive: bool,
    /// Who may write.
    pub(crate) access: Access,
    /// Whose the files are.
    pub(crate) map: Option<&'a FileMap>,
}

impl<'a> Manner<'a> {
    /// The mount itself and nothing below it.
    pub(super) fn alone(map: Option<&'a FileMap>) -> Manner<'a> {
        Manner {
            recursive: false,
            access: Access::Write,
            map,
        }
    }

    fn how(&self) -> How {
        (self.recursive, self.access)
    }
}

/// Copies that were made to see whether a map fits, kept for whoever wants the same: taking one away again lets the kernel wait for all
/// its CPUs.
#[derive(Debug, Default)]
pub(crate) struct Tried(Mutex<Vec<(PathBuf, How, OwnedFd)>>);

type How = (bool, Access);

impl Tried {
    fn take(&self, source: &Path, how: How) -> Option<OwnedFd> {
        let mut kept = self.kept();
        let at = kept.iter().position(|(path, with, _)| path == source && *with == how)?;
        Some(kept.swap_remove(at).2)
    }

    /// Lets go of what nobody has wanted.
    pub(crate) fn clear(&self) {
        self.kept().clear();
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(PathBuf, How, OwnedFd)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the copy that the next [`copy`] of this sort gives.
pub(super) fn try_copy(source: &Path, manner: &Manner<'_>) -> Result<(), Errno> {
    let tree = new_copy(source, manner)?;
    if let Some(map) = manner.map {
        map.tried().kept().push((source.to_owned(), manner.how(), tree));
    }
    Ok(())
}

/// A copy of the mount at `source`, in no mount tree yet.
pub(super) fn copy(source: &Path, manner: &Manner<'_>) -> Result<OwnedFd, Errno> {
    let tried = manner.map.and_then(|map| map.tried().take(source, manner.how()));
    tried.map_or_else(|| new_copy(source, manner), Ok)
}

/// A copy of the mount at `source`, through which nobody can write.
pub(crate) fn read_only(source: &Path) -> Result<OwnedFd, Errno> {
    let manner = Manner {
        access: Access::ReadAll,
        ..Manner::alone(None)
    };
    new_copy(source, &manner)
}

fn new_copy(source: &Path, manner: &Manner<'_>) -> Result<OwnedFd, Errno> {
    copy_at(libc::AT_FDCWD, &c_path(source)?, 0, manner)
}

/// A copy of the mount at an open file or folder.
pub(super) fn copy_of(place: BorrowedFd<'_>, manner: &Manner<'_>) -> Result<OwnedFd, Errno> {
    copy_at(place.as_raw_fd(), EMPTY, libc::AT_EMPTY_PATH as u32, manner)
}

fn copy_at(folder: RawFd, path: &CStr, flags: u32, manner: &Manner<'_>) -> Result<OwnedFd, Errno> {
    let recurse = if manner.recursive { libc::AT_RECURSIVE as u32 } else { 0 };
    let flags = flags | libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | recurse;
    // SAFETY: the path ends with a zero byte; the call touches no other memory.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, folder, path.as_ptr(), flags) };
    // SAFETY: the kernel has just made this descriptor for us.
    let tree = Errno::result(tree).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })?;
    let mut attributes = libc::mount_attr {
        // The guest's kernel knows what its nodes mean; here none may lead to a device of the host.
        attr_set: libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    if let Some(map) = &manner.map {
        attributes.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attributes.userns_fd = map.namespace().as_raw_fd() as u64;
    }
    if manner.access == Access::ReadAll {
        attributes.attr_set |= libc::MOUNT_ATTR_RDONLY;
    }
    set(&tree, recurse, &attributes)?;
    if manner.access == Access::Read {
        let read_only = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_RDONLY,
            attr_clr: 0,
            propagation: 0,
            userns_fd: 0,
        };
        set(&tree, 0, &read_only)?;
    }
    Ok(tree)
}

fn set(tree: &OwnedFd, recurse: u32, attributes: &libc::mount_attr) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH as u32 | recurse;
    let size = size_of::<libc::mount_attr>();
    // SAFETY: path and structure live for the call, and the size is the structure's.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            EMPTY.as_ptr(),
            flags,
            attributes,
            size,
        )
    };
    Errno::result(done).map(drop)
}

/// Puts a mount that is in no tree at `target`.
pub(super) fn attach(tree: &OwnedFd, target: &Path) -> Result<(), Errno> {
    move_mount(tree, libc::AT_FDCWD, &c_path(target)?, 0)
}

/// The same at an open file or folder.
pub(super) fn attach_at(tree: &OwnedFd, place: BorrowedFd<'_>) -> Result<(), Errno> {
    move_mount(tree, place.as_raw_fd(), EMPTY, libc::MOVE_MOUNT_T_EMPTY_PATH)
}

fn move_mount(tree: &OwnedFd, folder: RawFd, path: &CStr, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: both paths end with a zero byte and live for the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            EMPTY.as_ptr(),
            folder,
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH | flags,
        )
    };
    Errno::result(done).map(drop)
}

/// Lets the calling thread make files as user and group `id` and keep its capabilities, for the rest of its life.
pub(super) fn act_as(id: u32) -> Result<(), Errno> {
    /// Changes of the user ids leave the capabilities alone (capabilities(7)).
    const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    // SAFETY: numbers only. The raw calls change the calling thread alone (credentials(7)).
    unsafe {
        Errno::result(libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0))?;
        libc::syscall(libc::SYS_setfsgid, id);
        libc::syscall(libc::SYS_setfsuid, id);
    }
    Ok(())
}

const EMPTY: &CStr = c"";

fn c_path(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
#[path = "tree_test.rs"]
mod tree_test;
