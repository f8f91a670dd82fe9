//! Files without a name (O_TMPFILE, open(2)): the guest works on them like on others, and may give them a name later.
//!
//! virtiofsd knows files by the name that they were looked up by, and has no arguments for FUSE_TMPFILE. So these have node and handle
//! numbers of their own, above all of virtiofsd's. A name given later is looked up as usual: it stands for the same file of the host,
//! under another number.
//!
//! Bounded, because each holds a descriptor.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, futimens, umask};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, linkat};
use virtiofsd::filesystem::{Context, Entry, GetxattrReply, ListxattrReply, SetattrValid};
use virtiofsd::fuse::{Attr, CreateIn, SetattrIn};
use virtiofsd::soft_idmap::Id;

use super::open_files::reopen;
use crate::sync::lock;

/// The first number of a file or handle of this kind.
const FIRST: u64 = 1 << 62;

/// Most files, and most handles beside the one that each is made with.
const MAX: usize = 1024;

/// How long the guest believes the attributes as long as there is no name under which they could change.
const VALID: Duration = Duration::from_secs(1);

const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// All of them.
pub struct UnnamedFiles {
    /// This process's /proc/self/fd.
    descriptors: OwnedFd,
    next: AtomicU64,
    nodes: Mutex<HashMap<u64, Node>>,
    handles: Mutex<HashMap<u64, Arc<File>>>,
}

struct Node {
    file: Arc<File>,
    /// The folder on whose file system it is; the guest remembers it as long as the file.
    parent: u64,
    /// Lookups that the guest has not given back.
    lookups: u64,
}

impl UnnamedFiles {
    /// `descriptors` is a directory descriptor of this process's /proc/self/fd.
    pub fn new(descriptors: OwnedFd) -> UnnamedFiles {
        UnnamedFiles {
            descriptors,
            next: AtomicU64::new(FIRST),
            nodes: Mutex::default(),
            handles: Mutex::default(),
        }
    }

    /// Makes a file on the file system of `folder`, which is node `parent`, for the process that asks; gives its handle too.
    pub fn create(&self, folder: &File, parent: u64, caller: &Context, request: &CreateIn) -> io::Result<(Entry, u64)> {
        let (user, group) = (
            Uid::from_raw(caller.uid.into_inner()),
            Gid::from_raw(caller.gid.into_inner()),
        );
        let mode = Mode::from_bits_truncate(request.mode);
        // The thread's own: it decides only where the folder has no default ACL.
        let before = umask(Mode::from_bits_truncate(request.umask));
        let made = openat(folder, c".", flags(request.flags) | OFlag::O_TMPFILE, mode);
        umask(before);
        let file = File::from(made?);
        let folder = folder.metadata()?;
        let group = (folder.mode() & libc::S_ISGID == 0).then_some(group);
        fchown(&file, Some(user), group)?;
        // A change of the owner takes these away.
        if request.mode & SET_ID != 0 {
            file.set_permissions(Permissions::from_mode(file.metadata()?.mode() | request.mode & SET_ID))?;
        }
        let attr = attributes(&file)?;
        let file = Arc::new(file);
        if lock(&self.nodes).len() >= MAX {
            return Err(full());
        }
        let handle = self.add_handle(Arc::clone(&file))?;
        let inode = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.nodes).insert(
            inode,
            Node {
                file,
                parent,
                lookups: 1,
            },
        );
        let entry = Entry {
            inode,
            generation: 0,
            attr,
            attr_timeout: VALID,
            entry_timeout: Duration::ZERO,
        };
        Ok((entry, handle))
    }

    /// The file with this number; `None` for those of virtiofsd.
    pub fn node(&self, node: u64) -> Option<Arc<File>> {
        if node < FIRST {
            return None;
        }
        lock(&self.nodes).get(&node).map(|node| Arc::clone(&node.file))
    }

    /// The folder that a file was made in; a node of virtiofsd's is its own.
    pub fn parent(&self, node: u64) -> u64 {
        if node < FIRST {
            return node;
        }
        lock(&self.nodes).get(&node).map_or(node, |found| found.parent)
    }

    /// The open file with this number; `None` for those of virtiofsd.
    pub fn handle(&self, handle: u64) -> Option<Arc<File>> {
        if handle < FIRST {
            return None;
        }
        lock(&self.handles).get(&handle).cloned()
    }

    /// Opens a file once more.
    pub fn open(&self, file: &File, asked: u32, kill_priv: bool) -> io::Result<u64> {
        let truncate = OFlag::from_bits_truncate(asked as i32) & OFlag::O_TRUNC;
        if kill_priv && !truncate.is_empty() {
            self.take_set_ids(file)?;
        }
        let again = reopen(&self.descriptors, file, flags(asked) | truncate)?;
        self.add_handle(Arc::new(again))
    }

    /// RELEASE. Whether the handle is of this kind.
    pub fn release(&self, handle: u64) -> bool {
        let Some(file) = lock(&self.handles).remove(&handle) else {
            return false;
        };
        // The node may hold the same open file.
        let _ = file.unlock();
        true
    }

    /// FORGET. Whether the node is of this kind.
    pub fn forget(&self, node: u64, count: u64) -> bool {
        if node < FIRST {
            return false;
        }
        let gone = {
            let mut nodes = lock(&self.nodes);
            match nodes.get_mut(&node) {
                Some(found) if found.lookups > count => {
                    found.lookups -= count;
                    None
                }
                _ => nodes.remove(&node),
            }
        };
        drop(gone);
        true
    }

    /// Ends all.
    pub fn clear(&self) {
        lock(&self.handles).clear();
        lock(&self.nodes).clear();
    }

    /// Gives a file a name.
    pub fn link(&self, file: &File, folder: &File, name: &CStr) -> io::Result<()> {
        let number = file.as_raw_fd().to_string();
        linkat(
            &self.descriptors,
            number.as_str(),
            folder,
            name,
            AtFlags::AT_SYMLINK_FOLLOW,
        )?;
        Ok(())
    }

    /// GETATTR.
    pub fn attributes(&self, file: &File) -> io::Result<(Attr, Duration)> {
        let attributes = attributes(file)?;
        let valid = if attributes.nlink == 0 { VALID } else { Duration::ZERO };
        Ok((attributes, valid))
    }

    /// The value of an extended attribute, or its length where there is no room for it.
    pub fn attribute(&self, file: &File, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        let mut value = vec![0; size as usize];
        let length = rustix::fs::fgetxattr(file, name, &mut value)?;
        if size == 0 {
            return Ok(GetxattrReply::Count(length as u32));
        }
        value.truncate(length);
        Ok(GetxattrReply::Value(value))
    }

    /// The names of the extended attributes, or their length where there is no room for them.
    pub fn attribute_names(&self, file: &File, size: u32) -> io::Result<ListxattrReply> {
        let mut names = vec![0; size as usize];
        let length = rustix::fs::flistxattr(file, &mut names)?;
        if size == 0 {
            return Ok(ListxattrReply::Count(length as u32));
        }
        names.truncate(length);
        Ok(ListxattrReply::Names(names))
    }

    /// SETATTR.
    pub fn set_attributes(&self, file: &File, to: &SetattrIn, which: SetattrValid) -> io::Result<(Attr, Duration)> {
        if which.contains(SetattrValid::MODE) {
            file.set_permissions(Permissions::from_mode(to.mode & 0o7777))?;
        }
        let user = which
            .contains(SetattrValid::UID)
            .then(|| Uid::from_raw(to.uid.into_inner()));
        let group = which
            .contains(SetattrValid::GID)
            .then(|| Gid::from_raw(to.gid.into_inner()));
        if user.is_some() || group.is_some() {
            fchown(file, user, group)?;
        }
        if which.contains(SetattrValid::SIZE) {
            file.set_len(to.size)?;
        }
        if which.contains(SetattrValid::KILL_SUIDGID) {
            self.take_set_ids(file)?;
        }
        let time = |now, given, seconds: u64, nanoseconds: u32| {
            if which.contains(now) {
                TimeSpec::UTIME_NOW
            } else if which.contains(given) {
                TimeSpec::new(seconds as i64, nanoseconds.into())
            } else {
                TimeSpec::UTIME_OMIT
            }
        };
        if which.intersects(SetattrValid::ATIME | SetattrValid::MTIME) {
            let accessed = time(SetattrValid::ATIME_NOW, SetattrValid::ATIME, to.atime, to.atimensec);
            let modified = time(SetattrValid::MTIME_NOW, SetattrValid::MTIME, to.mtime, to.mtimensec);
            futimens(file, &accessed, &modified)?;
        }
        self.attributes(file)
    }

    /// What a write by somebody who must not keep them does to the set-id bits.
    pub fn take_set_ids(&self, file: &File) -> io::Result<()> {
        let mode = file.metadata()?.mode();
        // A set-group-id bit without the group's execution is no such bit (chmod(2)).
        let group = if mode & libc::S_IXGRP == 0 { 0 } else { libc::S_ISGID };
        match mode & (libc::S_ISUID | group) {
            0 => Ok(()),
            taken => file.set_permissions(Permissions::from_mode(mode & 0o7777 & !taken)),
        }
    }

    fn add_handle(&self, file: Arc<File>) -> io::Result<u64> {
        let mut handles = lock(&self.handles);
        if handles.len() >= 2 * MAX {
            return Err(full());
        }
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        handles.insert(handle, file);
        Ok(handle)
    }
}

/// Of the flags that the guest opens with, those that mean something for a file without a name.
fn flags(asked: u32) -> OFlag {
    // As virtiofsd has it: the guest may write pages of a mapping through the same handle, which fit neither O_APPEND nor O_DIRECT.
    let kept = OFlag::O_ACCMODE | OFlag::O_SYNC | OFlag::O_DSYNC | OFlag::O_NOATIME | OFlag::O_EXCL;
    (OFlag::from_bits_truncate(asked as i32) & kept) | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(libc::ENFILE)
}

fn attributes(file: &File) -> io::Result<Attr> {
    let from = file.metadata()?;
    Ok(Attr {
        ino: from.ino(),
        size: from.size(),
        blocks: from.blocks(),
        atime: from.atime() as u64,
        mtime: from.mtime() as u64,
        ctime: from.ctime() as u64,
        atimensec: from.atime_nsec() as u32,
        mtimensec: from.mtime_nsec() as u32,
        ctimensec: from.ctime_nsec() as u32,
        mode: from.mode(),
        nlink: from.nlink() as u32,
        uid: from.uid().into(),
        gid: from.gid().into(),
        rdev: 0,
        blksize: from.blksize() as u32,
        flags: 0,
    })
}
