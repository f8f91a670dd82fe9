//! What a volume with `slave` or `shared` propagation receives: what the host mounts below its source later.
//!
//! A copy that the kernel keeps like its source would be asked whenever the host unmounts something there, and the monitor has everything
//! open that the guest remembers: umount(8) on the host would fail as busy. Nothing that comes that way could have a map, either. So a
//! copy is left alone by the host, and made like its source by the shim: nobody has anything open in its mount namespace, which follows
//! the host's, and its table tells of every change.
//!
//! Who can write in the volume, which the guest can, moves folders and puts links in their places at any time. So no path is followed
//! through a link or out of the volume, and what is found at the end of one must be the mount that the table has named.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;

use super::source::Source;
use crate::error::{Error, Result};
use crate::identity::FileMap;
use crate::mount_table::{self, Mount};
use crate::rootfs::{Access, Manner, bind_open};

/// One volume, for whoever looks at it.
pub(crate) struct Receiver {
    received: Mutex<Received>,
    /// Somebody is about to look: what happens until then is seen, too.
    is_behind: AtomicBool,
}

impl Receiver {
    pub(super) fn new(received: Received) -> Receiver {
        Receiver {
            received: Mutex::new(received),
            is_behind: AtomicBool::new(false),
        }
    }

    /// False: somebody is about to look already.
    pub(super) fn falls_behind(&self) -> bool {
        !self.is_behind.swap(true, Ordering::SeqCst)
    }

    /// Mounts in the volume what the host has mounted in its source, and unmounts what it has unmounted. Gives what of that may still be open
    /// in the monitor, by paths below the share. Blocks, for as long as file systems of the host do not answer.
    pub(crate) fn catch_up(&self) -> Result<Vec<PathBuf>> {
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_behind.store(false, Ordering::SeqCst);
        Ok(received.follow(&mount_table::read()?))
    }
}

/// What [`Receiver`] knows.
pub(super) struct Received {
    source: Source,
    /// Without links.
    target: PathBuf,
    /// What the shim itself mounts everything below.
    share: Source,
    access: Access,
    map: Option<FileMap>,
    /// What was mounted in the source's mount before, and was not bound with it.
    left_out: Vec<Mount>,
    /// What is mounted in the volume, by its path below the source.
    shown: BTreeMap<PathBuf, Shown>,
    /// What could not be unmounted yet.
    leaving: Vec<Copy>,
}

/// One mount; without a copy when there could be none.
struct Shown {
    of: Mount,
    copy: Option<Copy>,
}

/// What stands for it in the volume.
struct Copy {
    /// Its number, which stays when a folder above it is renamed.
    id: u64,
    /// Where it was mounted.
    point: PathBuf,
}

impl Received {
    /// Of the mount at `target`, which was bound from `source` just now.
    pub(super) fn new(source: &Path, target: &Path, share: &Path, manner: &Manner<'_>) -> Result<Received> {
        let failed = |e| Error::io("cannot look at", source, e);
        let mut received = Received {
            source: Source::of(source).map_err(failed)?,
            target: Source::of(target).map_err(failed)?.path,
            share: Source::of(share).map_err(failed)?,
            access: match manner.access {
                Access::ReadAll => Access::ReadAll,
                Access::Read | Access::Write => Access::Write,
            },
            map: manner.map.cloned(),
            left_out: Vec::new(),
            shown: BTreeMap::new(),
            leaving: Vec::new(),
        };
        let table = mount_table::read()?;
        if manner.recursive {
            received.note_bound(&table);
        } else {
            received.left_out = table;
            received.left_out.retain(|mount| mount.parent == received.source.mount);
        }
        Ok(received)
    }

    /// Notes what was bound with the source. What has been mounted since then is still to come, and what has been unmounted to go.
    fn note_bound(&mut self, table: &[Mount]) {
        let mut there = self.below_source(table);
        for copy in table.iter().filter(|mount| mount.point != self.target) {
            let Ok(path) = copy.point.strip_prefix(&self.target) else {
                continue;
            };
            let is_above = |other: &Mount| other.parent == copy.id && other.point == copy.point;
            if table.iter().any(is_above) {
                continue;
            }
            let (id, point) = (copy.id, copy.point.clone());
            match there.remove(path) {
                Some(of) if of.root == copy.root => {
                    let copy = Some(Copy { id, point });
                    self.shown.insert(path.to_owned(), Shown { of, copy });
                }
                _ => self.leaving.push(Copy { id, point }),
            }
        }
    }

    fn follow(&mut self, table: &[Mount]) -> Vec<PathBuf> {
        let is_there = table.iter().any(|mount| mount.id == self.source.mount);
        if is_there && self.source.open().is_err() {
            // It was renamed, or something covers it: what is below it does not show by its name, and stays.
            return Vec::new();
        }
        let there = self.below_source(table);
        let paths: HashMap<u64, (&PathBuf, &Mount)> = there.iter().map(|(path, of)| (of.id, (path, of))).collect();
        for (_, shown) in std::mem::take(&mut self.shown) {
            match paths.get(&shown.of.id) {
                Some((path, of)) if of.is(&shown.of) => {
                    self.shown.insert((*path).clone(), shown);
                }
                _ => self.leaving.extend(shown.copy),
            }
        }
        let mut held = Vec::new();
        let mut leaving = std::mem::take(&mut self.leaving);
        // What is below others first.
        leaving.sort_by(|one, other| other.point.cmp(&one.point));
        for copy in leaving {
            let below_share = copy.point.strip_prefix(&self.share.path).map(Path::to_owned);
            match self.hide(&copy, table) {
                Ok(Gone::Idle) => {}
                Ok(Gone::Open) => held.extend(below_share),
                Err(error) => {
                    tracing::debug!("{} is not unmounted yet: {error}", copy.point.display());
                    self.leaving.push(copy);
                }
            }
        }
        for (path, of) in there {
            if self.shown.contains_key(&path) {
                continue;
            }
            let copy = match self.show(&path, &of) {
                Ok(id) => {
                    // Whatever had that number is gone.
                    self.leaving.retain(|copy| copy.id != id);
                    let point = self.target.join(&path);
                    Some(Copy { id, point })
                }
                // It is another one, or none, by now; or its folder was renamed.
                Err(Errno::ENOENT | Errno::ESTALE) => continue,
                Err(error) => {
                    let path = self.source.path.join(&path);
                    tracing::warn!("{}, which the host has mounted, does not show: {error}", path.display());
                    None
                }
            };
            self.shown.insert(path, Shown { of, copy });
        }
        held
    }

    /// Binds what the host has mounted; gives the number of the copy.
    fn show(&self, path: &Path, mount: &Mount) -> std::result::Result<u64, Errno> {
        let source = self.source.open().map_err(|e| errno_of(&e))?;
        let from = below(&source, path)?;
        if id_of(&from)? != mount.id {
            return Err(Errno::ESTALE);
        }
        let manner = Manner {
            recursive: false,
            access: self.access,
            map: self.map.as_ref(),
        };
        let copy = bind_open(&from, &below(top(&self.target)?, path)?, &manner)?;
        id_of(&copy)
    }

    /// Unmounts what is mounted in the volume.
    fn hide(&self, copy: &Copy, table: &[Mount]) -> std::result::Result<Gone, Errno> {
        let Some(now) = table.iter().find(|mount| mount.id == copy.id) else {
            // It went with the folder that it was mounted on, for everybody and whether it was open or not.
            return Ok(Gone::Open);
        };
        let Ok(path) = now.point.strip_prefix(&self.target) else {
            // The same, and another one has its number.
            return Ok(Gone::Open);
        };
        unmount(&self.target, path, |id| id == copy.id)
    }

    /// What can be seen below the source, by its path from there: of mounts on top of each other the last, and nothing that another one
    /// covers.
    fn below_source(&self, table: &[Mount]) -> BTreeMap<PathBuf, Mount> {
        let mut children: HashMap<u64, Vec<&Mount>> = HashMap::new();
        for mount in table.iter().filter(|mount| mount.id != mount.parent) {
            children.entry(mount.parent).or_default().push(mount);
        }
        let on = |id: u64| children.get(&id).into_iter().flatten().copied();
        let mut seen = BTreeMap::new();
        let mut parents = vec![self.source.mount];
        while let Some(parent) = parents.pop() {
            let points: HashSet<&Path> = on(parent).map(|mount| mount.point.as_path()).collect();
            for mut mount in on(parent) {
                let path = match mount.point.strip_prefix(&self.source.path) {
                    // Nobody who has bound the source sees what is mounted on itself.
                    Ok(path) if !path.as_os_str().is_empty() => path,
                    _ => continue,
                };
                let folders = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
                let is_covered = folders
                    .map(|folder| self.source.path.join(folder))
                    .any(|folder| points.contains(folder.as_path()));
                let is_left_out = mount.id == self.share.mount || self.left_out.iter().any(|left| left.is(mount));
                if is_covered || is_left_out {
                    continue;
                }
                while let Some(above) = on(mount.id).find(|above| above.point == mount.point) {
                    mount = above;
                }
                seen.insert(path.to_owned(), mount.clone());
                parents.push(mount.id);
            }
        }
        seen
    }
}

/// What a path below an open folder leads to, without links.
fn below(folder: impl AsFd, path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(folder, path, how)
}

/// How a mount has gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Nobody had anything open in it.
    Idle,
    /// Somebody may have.
    Open,
}

/// Unmounts what is mounted at a path below the mount at `target`, if `is_meant` says yes to its number.
pub(super) fn unmount(
    target: &Path,
    path: &Path,
    is_meant: impl FnOnce(u64) -> bool,
) -> std::result::Result<Gone, Errno> {
    let (folder, name) = path.parent().zip(path.file_name()).ok_or(Errno::EINVAL)?;
    let folder = below(top(target)?, folder)?;
    if !is_meant(id_of(below(&folder, Path::new(name))?)?) {
        return Err(Errno::ESTALE);
    }
    let point = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(name);
    match umount2(&point, MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EBUSY) => umount2(&point, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH).map(|()| Gone::Open),
        done => done.map(|()| Gone::Idle),
    }
}

fn top(target: &Path) -> std::result::Result<OwnedFd, Errno> {
    open(
        target,
        OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY,
        Mode::empty(),
    )
}

fn id_of(file: impl AsFd) -> std::result::Result<u64, Errno> {
    mount_table::id_of(file).map_err(|e| errno_of(&e))
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(Errno::ESTALE as i32))
}

#[cfg(test)]
#[path = "received_test.rs"]
mod received_test;
