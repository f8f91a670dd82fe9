//! File locks of the guest as locks on the host's files, so that pods and processes of the host see each other's.
//!
//! A lock request never waits here, even one that asks to: the device can neither interrupt a request nor send a notification, so the
//! guest kernel asks again until the lock is free (guest-kernel-config/patches).
//!
//! `flock` locks belong to an open file, and are set on the server's own. POSIX and open-file-description locks belong to an owner,
//! which the guest numbers: each owner that has locks on a file has an open file description for them here (F_OFD_SETLK, fcntl(2)).
//! They end with the owner's close of the file (FLUSH), at the latest with the handle through which the owner came.
//!
//! Bounded, because the host's kernel counts locks for nobody.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use rangemap::RangeMap;
use virtiofsd::fuse::{FileLock, LK_FLOCK, LkIn};

use super::open_files::{OpenFiles, reopen};
use crate::sync::lock;

/// Most owners with locks at a time; each holds a descriptor.
const MAX_OWNERS: usize = 2048;

/// Most ranges that are locked at a time. Each is about 200 bytes of the host's kernel.
const MAX_RANGES: usize = 8192;

/// The last byte that a lock can cover, and what "to the end" is.
const LAST: u64 = i64::MAX as u64;

/// All locks of the guest.
pub struct Locks {
    files: OpenFiles,
    /// This process's /proc/self/fd.
    descriptors: OwnedFd,
    /// By node and the guest's number of the owner.
    owners: Mutex<HashMap<(u64, u64), Shared>>,
    ranges: Arc<AtomicUsize>,
}

type Shared = Arc<Mutex<Owner>>;

/// Who has locks on a file. Closing `file` ends them.
struct Owner {
    file: File,
    writable: bool,
    /// The handle through which the first lock came.
    handle: u64,
    /// The process, by the guest's number, for whoever asks who is in the way.
    pid: u32,
    /// What is locked; true: for writing.
    held: RangeMap<u64, bool>,
    /// Of all owners together.
    ranges: Arc<AtomicUsize>,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    None,
}

impl Kind {
    fn of(lock: &FileLock) -> io::Result<Kind> {
        match i32::try_from(lock.type_) {
            Ok(libc::F_RDLCK) => Ok(Kind::Read),
            Ok(libc::F_WRLCK) => Ok(Kind::Write),
            Ok(libc::F_UNLCK) => Ok(Kind::None),
            _ => Err(invalid()),
        }
    }

    fn number(self) -> i32 {
        match self {
            Kind::Read => libc::F_RDLCK,
            Kind::Write => libc::F_WRLCK,
            Kind::None => libc::F_UNLCK,
        }
    }
}

impl Locks {
    /// `descriptors` is a directory descriptor of this process's /proc/self/fd.
    pub fn new(files: OpenFiles, descriptors: OwnedFd) -> Locks {
        Locks {
            files,
            descriptors,
            owners: Mutex::default(),
            ranges: Arc::default(),
        }
    }

    /// SETLK and SETLKW: fails with EAGAIN when another owner's lock is in the way.
    pub fn set(&self, node: u64, request: &LkIn) -> io::Result<()> {
        let kind = Kind::of(&request.lk)?;
        if request.lk_flags & LK_FLOCK != 0 {
            return self.files.with_handle(node, request.fh, |file| flock(file, kind));
        }
        let range = range(&request.lk)?;
        let owner = match self.owner(node, request.owner) {
            Some(owner) => owner,
            None if kind == Kind::None => return Ok(()),
            None => self.add(node, request)?,
        };
        let result = self.change(&mut lock(&owner), node, request, kind, range);
        drop(owner);
        self.drop_if_without(node, request.owner);
        result
    }

    fn change(&self, owner: &mut Owner, node: u64, request: &LkIn, kind: Kind, range: Range<u64>) -> io::Result<()> {
        // A change makes at most two ranges more; one that is given back makes one more when it lies within another.
        let more = kind != Kind::None || owner.has_around(&range);
        if more && self.ranges.load(Ordering::Relaxed) >= MAX_RANGES {
            return Err(io::Error::from_raw_os_error(libc::ENOLCK));
        }
        if kind == Kind::Write && !owner.writable {
            let file = self.files.with_handle(node, request.fh, |file| self.reopen(file))?;
            owner.move_to(file)?;
        }
        owner.pid = request.lk.pid;
        owner.set(kind, range)
    }

    /// GETLK: the first lock of another owner that is in the way, or one of type F_UNLCK.
    pub fn get(&self, node: u64, request: &LkIn) -> io::Result<FileLock> {
        let asked = plain(Kind::of(&request.lk)?, &range(&request.lk)?);
        let found = match self.owner(node, request.owner) {
            Some(owner) => test(&lock(&owner).file, asked)?,
            None => self.files.with_handle(node, request.fh, |file| test(file, asked))?,
        };
        if i32::from(found.l_type) == libc::F_UNLCK {
            let type_ = libc::F_UNLCK as u32;
            return Ok(FileLock { type_, ..request.lk });
        }
        let start = found.l_start as u64;
        let end = match found.l_len as u64 {
            0 => LAST,
            length => start.saturating_add(length - 1),
        };
        Ok(FileLock {
            start,
            end,
            type_: found.l_type as u32,
            pid: self.pid_of(node, request.owner, start),
        })
    }

    /// FLUSH: the owner has closed the file.
    pub fn closed(&self, node: u64, owner: u64) {
        let gone = lock(&self.owners).remove(&(node, owner));
        // Outside of the lock: the host may take its time with a close.
        drop(gone);
    }

    /// RELEASE: nobody has the handle any more.
    pub fn released(&self, node: u64, handle: u64) {
        let gone: Vec<_> = {
            let mut owners = lock(&self.owners);
            let through = |owner: &Shared| unused(owner).is_some_and(|owner| owner.handle == handle);
            owners
                .extract_if(|(its_node, _), owner| *its_node == node && through(owner))
                .collect()
        };
        drop(gone);
    }

    /// Ends all.
    pub fn clear(&self) {
        lock(&self.owners).clear();
    }

    fn owner(&self, node: u64, owner: u64) -> Option<Shared> {
        lock(&self.owners).get(&(node, owner)).cloned()
    }

    fn add(&self, node: u64, request: &LkIn) -> io::Result<Shared> {
        let (file, writable) = self.files.with_handle(node, request.fh, |file| self.reopen(file))?;
        let new = Owner {
            file,
            writable,
            handle: request.fh,
            pid: request.lk.pid,
            held: RangeMap::new(),
            ranges: Arc::clone(&self.ranges),
        };
        let mut owners = lock(&self.owners);
        let full = owners.len() >= MAX_OWNERS;
        match owners.entry((node, request.owner)) {
            // Another thread of the process was faster.
            Entry::Occupied(entry) => Ok(Arc::clone(entry.get())),
            Entry::Vacant(_) if full => Err(io::Error::from_raw_os_error(libc::ENOLCK)),
            Entry::Vacant(entry) => Ok(Arc::clone(entry.insert(Arc::new(Mutex::new(new))))),
        }
    }

    /// Drops an owner that has no lock left.
    fn drop_if_without(&self, node: u64, owner: u64) {
        let gone = {
            let mut owners = lock(&self.owners);
            let without = |owner: &Shared| unused(owner).is_some_and(|owner| owner.held.is_empty());
            match owners.get(&(node, owner)) {
                Some(found) if without(found) => owners.remove(&(node, owner)),
                _ => None,
            }
        };
        drop(gone);
    }

    /// An open file description of its own, with the access that `file` has, as far as locks need it; whether it is writable.
    fn reopen(&self, file: &File) -> io::Result<(File, bool)> {
        let flags = OFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GETFL)?);
        let writable = flags & OFlag::O_ACCMODE != OFlag::O_RDONLY;
        let access = if writable { OFlag::O_RDWR } else { OFlag::O_RDONLY };
        let own = reopen(&self.descriptors, file, access | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        Ok((own, writable))
    }

    /// The process of the guest that has `position` locked, 0 when it is none of this pod.
    fn pid_of(&self, node: u64, asking: u64, position: u64) -> u32 {
        let owners = lock(&self.owners);
        let others = owners
            .iter()
            .filter(|((its_node, number), _)| *its_node == node && *number != asking);
        others
            .filter_map(|(_, owner)| owner.try_lock().ok())
            .find(|owner| owner.held.contains_key(&position))
            .map_or(0, |owner| owner.pid)
    }
}

impl Owner {
    fn set(&mut self, kind: Kind, range: Range<u64>) -> io::Result<()> {
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&plain(kind, &range)))?;
        let before = self.held.len();
        match kind {
            Kind::None => self.held.remove(range),
            Kind::Read | Kind::Write => self.held.insert(range, kind == Kind::Write),
        }
        // Wraps around where it shrinks.
        self.ranges
            .fetch_add(self.held.len().wrapping_sub(before), Ordering::Relaxed);
        Ok(())
    }

    /// Whether something is locked on both sides of `range` as one.
    fn has_around(&self, range: &Range<u64>) -> bool {
        let around = self.held.get_key_value(&range.start).map(|(around, _)| around);
        around.is_some_and(|around| around.start < range.start && range.end < around.end)
    }

    /// Goes on with a file that can be locked for writing. The old one has locks for reading only, which both can have.
    fn move_to(&mut self, (file, writable): (File, bool)) -> io::Result<()> {
        for (range, _) in self.held.iter() {
            fcntl(&file, FcntlArg::F_OFD_SETLK(&plain(Kind::Read, range)))?;
        }
        self.file = file;
        self.writable = writable;
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.ranges.fetch_sub(self.held.len(), Ordering::Relaxed);
    }
}

/// An owner that no request has in hand, given that the table of owners is locked: what one has in hand is about to lock.
fn unused(owner: &Shared) -> Option<MutexGuard<'_, Owner>> {
    if Arc::strong_count(owner) > 1 {
        return None;
    }
    owner.try_lock().ok()
}

fn flock(file: &File, kind: Kind) -> io::Result<()> {
    let done = match kind {
        Kind::Read => file.try_lock_shared(),
        Kind::Write => file.try_lock(),
        Kind::None => return file.unlock(),
    };
    done.map_err(|error| match error {
        TryLockError::WouldBlock => io::Error::from_raw_os_error(libc::EAGAIN),
        TryLockError::Error(error) => error,
    })
}

/// The lock that is in the way of `asked`.
fn test(file: &File, asked: libc::flock) -> io::Result<libc::flock> {
    let mut found = asked;
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(found)
}

/// `struct fuse_file_lock` has the last byte, ranges have the one behind it.
fn range(lock: &FileLock) -> io::Result<Range<u64>> {
    if lock.start <= lock.end && lock.end <= LAST {
        Ok(lock.start..lock.end + 1)
    } else {
        Err(invalid())
    }
}

/// For fcntl, where length 0 means to the end.
fn plain(kind: Kind, range: &Range<u64>) -> libc::flock {
    let length = if range.end > LAST { 0 } else { range.end - range.start };
    libc::flock {
        l_type: kind.number() as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: range.start as libc::off_t,
        l_len: length as libc::off_t,
        l_pid: 0,
    }
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}
