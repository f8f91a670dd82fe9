//! The volumes that a pod has: each is mounted once in its share, for as long as a container has it.
//!
//! What is mounted twice is two file systems to the guest, whose kernel has inodes of its own for either: Unix sockets, FIFOs, shared
//! mappings and inotify lead from one container to another only where both have the same one. So containers share a mount that has the
//! same source, and whatever makes a difference to what they see. A mount that all its containers have read-only cannot be written by
//! the guest. One that a container writes serves those that come later and only read: the guest keeps them from writing, and could
//! write in any case.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_agent_protocol::VOLUMES;
use nix::fcntl::OFlag;

use crate::error::{Error, Result};
use crate::identity::FileMap;
use crate::pod::Undo;
use crate::rootfs::{Access, Manner, Propagation};

/// The mounts of a pod's volumes.
pub(crate) struct SharedVolumes {
    folder: PathBuf,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// No number is used twice: the guest may remember what it was.
    next: u64,
    mounts: Vec<Shared>,
}

/// One mount.
struct Shared {
    number: u64,
    like: Like,
    /// Mounts of containers that lead to it.
    users: usize,
    undo: Undo,
}

impl SharedVolumes {
    /// Of a pod with this share.
    pub(crate) fn new(share: &Path) -> SharedVolumes {
        SharedVolumes {
            folder: share.join(VOLUMES),
            table: Mutex::default(),
        }
    }

    /// Gives the number of a mount that is `like`, which `make` makes if there is none. It lasts until `undo` runs for all that took it.
    pub(super) fn take(
        self: &Arc<Self>,
        like: Like,
        undo: &mut Undo,
        make: impl FnOnce(&Path, &mut Undo) -> Result<()>,
    ) -> Result<u64> {
        let joined = self.table().join(&like);
        let number = match joined {
            Some(number) => number,
            None => self.make(like, make)?,
        };
        let shared = Arc::clone(self);
        undo.push(format!("volume {number}"), move || shared.give_back(number));
        Ok(number)
    }

    /// Nothing is locked meanwhile: a file system of the host that does not answer keeps no other container waiting.
    fn make(&self, mut like: Like, make: impl FnOnce(&Path, &mut Undo) -> Result<()>) -> Result<u64> {
        let number = self.table().number();
        let target = self.folder.join(number.to_string());
        let mut undo = Undo::default();
        if let Err(error) = make(&target, &mut undo).and_then(|()| like.settle(&target)) {
            // What cannot be removed is in the log.
            let _ = undo.run();
            return Err(error);
        }
        let mut table = self.table();
        if let Some(other) = table.join(&like) {
            // Another container was faster.
            drop(table);
            let _ = undo.run();
            return Ok(other);
        }
        table.mounts.push(Shared {
            number,
            like,
            users: 1,
            undo,
        });
        Ok(number)
    }

    fn give_back(&self, number: u64) -> Result<()> {
        let unused = self.table().leave(number);
        unused.map_or(Ok(()), |mut mount| mount.undo.run())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn join(&mut self, like: &Like) -> Option<u64> {
        let mounts = self.mounts.iter_mut().filter(|mount| mount.like.serves(like));
        let mount = mounts.max_by_key(|mount| mount.like.access == Access::Write)?;
        mount.users += 1;
        Some(mount.number)
    }

    /// Gives the mount when nobody has it any more.
    fn leave(&mut self, number: u64) -> Option<Shared> {
        let at = self.mounts.iter().position(|mount| mount.number == number)?;
        let mount = self.mounts.get_mut(at)?;
        mount.users -= 1;
        (mount.users == 0).then(|| self.mounts.swap_remove(at))
    }
}

/// What a mount is of, and how it was made.
#[derive(Debug)]
pub(super) struct Like {
    device: u64,
    inode: u64,
    /// Lines of /proc/self/mountinfo: of the mount that the source is in, and of those that are bound with it.
    mounts: Vec<String>,
    recursive: bool,
    access: Access,
    propagation: Propagation,
    map: Option<FileMap>,
}

impl Like {
    /// Of what `source` is now.
    pub(super) fn of(source: &Path, manner: &Manner<'_>) -> Result<Like> {
        // What is mounted later shows up in the mount, unless it is private.
        let complete = manner.recursive && manner.propagation == Propagation::Private;
        let read = || -> io::Result<_> {
            let file = File::options()
                .read(true)
                .custom_flags(OFlag::O_PATH.bits())
                .open(source)?;
            let number = file.as_raw_fd();
            let path = std::fs::read_link(format!("/proc/self/fd/{number}"))?;
            let information = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
            let table = std::fs::read("/proc/thread-self/mountinfo")?;
            let table = String::from_utf8_lossy(&table);
            let mounts = bound_mounts(&table, &information, complete.then_some(path.as_path()));
            Ok((file.metadata()?, mounts))
        };
        let (metadata, mounts) = read().map_err(|e| Error::io("cannot look at", source, e))?;
        Ok(Like {
            device: metadata.dev(),
            inode: metadata.ino(),
            mounts,
            recursive: manner.recursive,
            access: manner.access,
            propagation: manner.propagation,
            map: manner.map.cloned(),
        })
    }

    /// Notes what was mounted, which can be something else than what the source was.
    fn settle(&mut self, target: &Path) -> Result<()> {
        let metadata = std::fs::metadata(target).map_err(|e| Error::io("cannot look at", target, e))?;
        (self.device, self.inode) = (metadata.dev(), metadata.ino());
        Ok(())
    }

    /// Whether a container that asks for `wanted` can have this mount.
    fn serves(&self, wanted: &Like) -> bool {
        let maps = match (&self.map, &wanted.map) {
            (None, None) => true,
            (Some(map), Some(wanted)) => map.is_like(wanted),
            _ => false,
        };
        maps && [Access::Write, wanted.access].contains(&self.access)
            && (self.device, self.inode, self.recursive) == (wanted.device, wanted.inode, wanted.recursive)
            && self.propagation == wanted.propagation
            && self.mounts == wanted.mounts
    }
}

/// Lines of `table` (/proc/self/mountinfo, proc(5)): of the mount that `information` (a file's in /proc/self/fdinfo) names, and of all
/// below a path.
fn bound_mounts(table: &str, information: &str, below: Option<&Path>) -> Vec<String> {
    let mount = information.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let mount = mount.map(str::trim);
    let below = below.map(|path| format!("{}/", escaped(path).trim_end_matches('/')));
    let is_bound = |line: &&str| {
        let mut fields = line.split(' ');
        fields.next() == mount
            || match (fields.nth(3), &below) {
                (Some(point), Some(below)) => point.starts_with(below.as_str()),
                _ => false,
            }
    };
    table.lines().filter(is_bound).map(str::to_owned).collect()
}

/// A path as the table has it.
fn escaped(path: &Path) -> String {
    let path = path.to_string_lossy();
    // First: the others make more of these.
    let path = path.replace('\\', "\\134");
    path.replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

#[cfg(test)]
#[path = "shared_test.rs"]
mod shared_test;
