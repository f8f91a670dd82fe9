//! How long the guest may believe what it was told: it goes by where a file lies, because the device cannot tell the guest of a change.
//!
//! | where | names and attributes | names that are absent |
//! |---|---|---|
//! | a container's own root file system, which only its pod writes | an hour | an hour |
//! | volumes, and root file systems that others write too | a second | not at all |
//! | files that were made without a name, which the guest has two numbers for once they have one | not at all | |
//! | the folders of the containers and of the volumes, which the runtime fills | attributes for a second | not at all |
//!
//! File data and directory contents are believed until a changed size or modification time shows them stale
//! (FUSE_AUTO_INVAL_DATA).
//!
//! Files of root file systems are opened for reading by the guest alone, until it has to read something here; that a process has closed
//! one, or one of its own root file system that it has written, is not told (FLUSH) unless there have been locks
//! (guest-kernel-config/patches/fuse-open-late.patch).

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_vmm_control::{OWN_ROOTFS, READY_ROOTFS};
use nix::libc;
use virtiofsd::filesystem::{Entry, OpenOptions};
use virtiofsd::fuse::{ATTR_SUBMOUNT, Attr, ROOT_ID};
use virtiofsd::passthrough::CachePolicy;
use virtiofsd::soft_idmap::Id;

use super::crowd::Crowd;
use super::owners::NOBODY;
use crate::sync::lock;

/// For what others may change.
pub const SHORT: Duration = Duration::from_secs(1);

/// For what nobody else changes.
const LONG: Duration = Duration::from_secs(3600);

/// An open drops nothing that is cached.
pub const DATA: CachePolicy = CachePolicy::Always;

/// `fuse_attr.flags`: the guest may open the file for reading without asking (this project's guest kernel).
const OPEN_LATE: u32 = 1 << 31;

/// Where something lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A container's folder, or that of the volumes.
    Container,
    /// A root file system that only this pod writes.
    OwnRootfs,
    /// A root file system that lay ready on the host, which others may write.
    ReadyRootfs,
    /// A file that was made without a name: what the guest does under its one number it does not know under the other.
    Linked,
    /// Anywhere else.
    Elsewhere,
}

impl Place {
    /// How long the guest may believe a name there, and attributes.
    fn valid(self) -> (Duration, Duration) {
        match self {
            Place::Container => (Duration::ZERO, SHORT),
            Place::OwnRootfs => (LONG, LONG),
            Place::Linked => (Duration::ZERO, Duration::ZERO),
            Place::ReadyRootfs | Place::Elsewhere => (SHORT, SHORT),
        }
    }
}

/// Where the guest's nodes lie, all but the root.
pub struct Places {
    known: Mutex<HashMap<u64, Known>>,
    crowd: Arc<Crowd>,
}

#[derive(Debug)]
struct Known {
    place: Place,
    /// `None`: nobody has asked.
    in_procfs: Option<bool>,
    /// Lookups that the guest has not given back.
    lookups: u64,
}

impl Places {
    /// Of a guest that knows nothing yet; `crowd` counts what it comes to know.
    pub fn new(crowd: Arc<Crowd>) -> Places {
        Places {
            known: Mutex::default(),
            crowd,
        }
    }

    /// A name was found or made: how long the guest may believe it.
    pub fn found(&self, parent: u64, name: &CStr, entry: Entry) -> Entry {
        let is_mounted = entry.attr.flags & ATTR_SUBMOUNT != 0;
        self.looked_up(entry, |known| below(known, parent, name, is_mounted))
    }

    /// A file that was made without a name has got one.
    pub fn linked(&self, entry: Entry) -> Entry {
        let entry = self.looked_up(entry, |_| Place::Linked);
        believed(entry, Place::Linked)
    }

    /// Whether the guest knows a node.
    pub fn knows(&self, node: u64) -> bool {
        lock(&self.known).contains_key(&node)
    }

    /// A name was not found: what to say when the guest may believe that for a while.
    pub fn absent(&self, parent: u64, name: &CStr) -> Option<Entry> {
        (below(&lock(&self.known), parent, name, false) == Place::OwnRootfs).then(|| nothing(LONG))
    }

    /// Whether a folder lies in a procfs. It stays there, so `ask` is called once.
    pub fn in_procfs(&self, folder: u64, ask: impl FnOnce() -> io::Result<bool>) -> io::Result<bool> {
        let known = lock(&self.known).get(&folder).and_then(|known| known.in_procfs);
        if let Some(known) = known {
            return Ok(known);
        }
        let answer = ask()?;
        if let Some(known) = lock(&self.known).get_mut(&folder) {
            known.in_procfs = Some(answer);
        }
        Ok(answer)
    }

    /// How long the guest may believe a node's attributes.
    pub fn attributes_valid(&self, node: u64) -> Duration {
        let place = lock(&self.known)
            .get(&node)
            .map_or(Place::Elsewhere, |known| known.place);
        place.valid().1
    }

    /// How the guest may treat a file that it has opened.
    pub fn opened(&self, node: u64, options: OpenOptions) -> OpenOptions {
        match lock(&self.known).get(&node) {
            Some(known) if known.place == Place::OwnRootfs => options | OpenOptions::NOFLUSH,
            _ => options,
        }
    }

    /// FORGET.
    pub fn forget(&self, node: u64, count: u64) {
        let mut known = lock(&self.known);
        let Some(found) = known.get_mut(&node) else { return };
        found.lookups = found.lookups.saturating_sub(count);
        if found.lookups == 0 {
            known.remove(&node);
            drop(known);
            self.crowd.left(1);
        }
    }

    /// Forgets all.
    pub fn clear(&self) {
        let known = std::mem::take(&mut *lock(&self.known));
        self.crowd.left(known.len());
    }

    /// Counts a lookup and says how long it may be believed, which goes by where the node was found first.
    fn looked_up(&self, entry: Entry, place: impl FnOnce(&HashMap<u64, Known>) -> Place) -> Entry {
        let mut known = lock(&self.known);
        if let Some(known) = known.get_mut(&entry.inode) {
            known.lookups += 1;
            return believed(entry, known.place);
        }
        let place = place(&known);
        let new = Known {
            place,
            in_procfs: None,
            lookups: 1,
        };
        known.insert(entry.inode, new);
        drop(known);
        self.crowd.joined();
        believed(entry, place)
    }
}

/// There is no such name, and that is to be believed for so long.
pub fn nothing(valid: Duration) -> Entry {
    Entry {
        inode: 0,
        generation: 0,
        attr: Attr::default(),
        attr_timeout: Duration::ZERO,
        entry_timeout: valid,
    }
}

fn believed(mut entry: Entry, place: Place) -> Entry {
    (entry.entry_timeout, entry.attr_timeout) = place.valid();
    let attributes = &mut entry.attr;
    let is_regular = attributes.mode & libc::S_IFMT == libc::S_IFREG;
    // The host may refuse to open what belongs to somebody unknown here, and has to do that before the file is read.
    let is_known = attributes.uid.into_inner() != NOBODY && attributes.gid.into_inner() != NOBODY;
    if matches!(place, Place::OwnRootfs | Place::ReadyRootfs) && is_regular && is_known {
        attributes.flags |= OPEN_LATE;
    }
    entry
}

fn below(known: &HashMap<u64, Known>, parent: u64, name: &CStr, is_mounted: bool) -> Place {
    if parent == ROOT_ID {
        return Place::Container;
    }
    match known.get(&parent).map(|known| known.place) {
        // What the host has mounted there (a proc, an NFS) is another file system.
        Some(Place::ReadyRootfs) if is_mounted => Place::Elsewhere,
        Some(rootfs @ (Place::OwnRootfs | Place::ReadyRootfs)) => rootfs,
        Some(Place::Container) if name.to_bytes() == OWN_ROOTFS.as_bytes() => Place::OwnRootfs,
        Some(Place::Container) if name.to_bytes() == READY_ROOTFS.as_bytes() => Place::ReadyRootfs,
        _ => Place::Elsewhere,
    }
}
