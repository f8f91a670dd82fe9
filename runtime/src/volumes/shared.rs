//! The volumes that a pod has: each is mounted once in its share, for as long as a container has it.
//!
//! What is mounted twice is two file systems to the guest, whose kernel has inodes of its own for either: Unix sockets, FIFOs, shared
//! mappings and inotify lead from one container to another only where both have the same one. So containers share a mount that has the
//! same source, and whatever makes a difference to what they see. A mount that all its containers have read-only cannot be written by
//! the guest. One that a container writes serves those that come later and only read: the guest keeps them from writing, and could
//! write in any case.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_agent_protocol::VOLUMES;
use tokio::sync::Notify;

use super::received::{Received, Receiver};
use super::source::Source;
use crate::error::{Error, Result};
use crate::identity::FileMap;
use crate::mount_table::{self, Mount};
use crate::pod::Undo;
use crate::rootfs::{Access, Manner};

/// The mounts of a pod's volumes.
pub(crate) struct SharedVolumes {
    share: PathBuf,
    table: Mutex<Table>,
    /// A volume has come that receives mounts.
    receiving: Notify,
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
    receiver: Option<Arc<Receiver>>,
    undo: Undo,
}

impl SharedVolumes {
    /// Of a pod with this share.
    pub(crate) fn new(share: &Path) -> SharedVolumes {
        SharedVolumes {
            share: share.to_owned(),
            table: Mutex::default(),
            receiving: Notify::new(),
        }
    }

    /// Where the pod's mounts are.
    pub(super) fn share(&self) -> &Path {
        &self.share
    }

    /// Waits until there is one more volume that receives mounts.
    pub(crate) async fn receiving(&self) {
        self.receiving.notified().await;
    }

    /// The volumes that receive mounts, but for those that somebody is about to look at already: for each there is to be one
    /// [`Receiver::catch_up`].
    pub(crate) fn behind(&self) -> Vec<Arc<Receiver>> {
        let table = self.table();
        let receivers = table.mounts.iter().filter_map(|mount| mount.receiver.clone());
        receivers.filter(|receiver| receiver.falls_behind()).collect()
    }

    /// Gives the number of a mount that is `like`, which `make` makes if there is none. It lasts until `undo` runs for all that took it.
    pub(super) fn take(
        self: &Arc<Self>,
        like: Like,
        undo: &mut Undo,
        make: impl FnOnce(&Path, &mut Undo) -> Result<Option<Received>>,
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
    fn make(&self, mut like: Like, make: impl FnOnce(&Path, &mut Undo) -> Result<Option<Received>>) -> Result<u64> {
        let number = self.table().number();
        let target = self.share.join(VOLUMES).join(number.to_string());
        let mut undo = Undo::default();
        let made = make(&target, &mut undo).and_then(|received| like.settle(&target).map(|()| received));
        let received = match made {
            Ok(received) => received,
            Err(error) => {
                // What cannot be removed is in the log.
                let _ = undo.run();
                return Err(error);
            }
        };
        let receives = received.is_some();
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
            receiver: received.map(Receiver::new).map(Arc::new),
            undo,
        });
        drop(table);
        if receives {
            self.receiving.notify_one();
        }
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
    /// Lines of the table of mounts: of the mount that the source is in, and of those that are bound with it for good.
    mounts: Vec<Vec<u8>>,
    recursive: bool,
    access: Access,
    receives: bool,
    map: Option<FileMap>,
}

impl Like {
    /// Of what `source` is now.
    pub(super) fn of(source: &Path, manner: &Manner<'_>, receives: bool) -> Result<Like> {
        let found = Source::of(source).map_err(|e| Error::io("cannot look at", source, e))?;
        Ok(Like {
            device: found.device,
            inode: found.inode,
            mounts: bound_mounts(mount_table::read()?, &found, manner.recursive && !receives),
            recursive: manner.recursive,
            access: manner.access,
            receives,
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
            && self.receives == wanted.receives
            && self.mounts == wanted.mounts
    }
}

/// Lines of `table`: of the mount that `source` is in, and, if it has what is `below` it, of those.
fn bound_mounts(table: Vec<Mount>, source: &Source, below: bool) -> Vec<Vec<u8>> {
    let is_bound = |mount: &Mount| {
        let is_below = mount.point.starts_with(&source.path) && mount.point != source.path;
        mount.id == source.mount || below && is_below
    };
    let bound = table.into_iter().filter(is_bound);
    bound.map(|mount| mount.line).collect()
}

#[cfg(test)]
#[path = "shared_test.rs"]
mod shared_test;
