//! Whom files belong to: an owner as the guest numbers it, and as this process's user namespace does.
//!
//! The low ids are the same in both. A higher one of the guest has an owner here only when the runtime has given it a place
//! ([`FIRST_PLACE`] and those after it), for which the files of the host are mapped, too.

use std::ffi::CStr;
use std::sync::{PoisonError, RwLock};

use bulkhead_vmm_control::{FIRST_PLACE, LAST_LOW_ID};
use thiserror::Error;
use virtiofsd::filesystem::{Context, Entry, Extensions, GetxattrReply};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::soft_idmap::Id;

/// What the kernel shows for an owner that a namespace has no number for (/proc/sys/kernel/overflowuid).
const NOBODY: u32 = 65_534;

/// An id of this process's user namespace that is not mapped: whatever is to belong to it is refused with EINVAL.
const NOWHERE: u32 = u32::MAX - 1;

/// No id: what is not to be changed (chown(2)), the owner of a list entry that has none (acl(5)).
const NONE: u32 = u32::MAX;

/// Extended attributes that are access control lists.
const LISTS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

/// `struct posix_acl_xattr_header` and `struct posix_acl_xattr_entry` (linux/posix_acl_xattr.h): a version, then a tag of 16 bits,
/// permissions of 16 bits and an id in each.
const LIST_HEADER: usize = 4;
const LIST_ENTRY: usize = 8;
const LIST_ENTRY_ID: usize = 4;

/// Why ids cannot be placed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlaceError {
    /// There are none to give.
    #[error("ids cannot be placed: the machine has the host's own")]
    HostIds,
    /// A place was to change its owner.
    #[error("ids cannot be placed: number {0} differs from the one that was placed there before")]
    Moved(usize),
    /// The id has a place by itself.
    #[error("id {0} cannot be placed: only those above {LAST_LOW_ID} can")]
    Low(u32),
}

/// The ids that have been placed. Shared by the file server's threads and the main thread.
#[derive(Debug, Default)]
pub struct Owners {
    /// `None`: the namespace has the host's ids, and so has the guest.
    placed: Option<RwLock<Vec<u32>>>,
}

impl Owners {
    /// `None`: every id is itself.
    pub fn new(placed: Option<Vec<u32>>) -> Result<Owners, PlaceError> {
        let Some(ids) = placed else {
            return Ok(Owners { placed: None });
        };
        let owners = Owners {
            placed: Some(RwLock::default()),
        };
        owners.place(ids)?;
        Ok(owners)
    }

    /// Gives ids a place each, in their order. A list that ends before what is placed already takes nothing away.
    pub fn place(&self, ids: Vec<u32>) -> Result<(), PlaceError> {
        let placed = self.placed.as_ref().ok_or(PlaceError::HostIds)?;
        if let Some(low) = ids.iter().find(|id| **id <= LAST_LOW_ID) {
            return Err(PlaceError::Low(*low));
        }
        let mut placed = placed.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(moved) = placed.iter().zip(&ids).position(|(before, now)| before != now) {
            return Err(PlaceError::Moved(moved));
        }
        if ids.len() > placed.len() {
            *placed = ids;
        }
        Ok(())
    }

    /// The process that asks.
    pub fn caller(&self, caller: Context) -> Context {
        Context {
            uid: self.inward(caller.uid.into_inner()).into(),
            gid: self.inward(caller.gid.into_inner()).into(),
            ..caller
        }
    }

    /// What comes with a request that makes a file.
    pub fn extensions(&self, extensions: Extensions) -> Extensions {
        let groups = extensions.sup_gids.iter();
        Extensions {
            sup_gids: groups.map(|id| self.inward(id.into_inner()).into()).collect(),
            secctx: extensions.secctx,
        }
    }

    /// Attributes that the guest sets.
    pub fn to_set(&self, attributes: SetattrIn) -> SetattrIn {
        SetattrIn {
            uid: self.inward(attributes.uid.into_inner()).into(),
            gid: self.inward(attributes.gid.into_inner()).into(),
            ..attributes
        }
    }

    /// Attributes that the guest is told.
    pub fn told(&self, attributes: Attr) -> Attr {
        Attr {
            uid: self.outward(attributes.uid.into_inner()).into(),
            gid: self.outward(attributes.gid.into_inner()).into(),
            ..attributes
        }
    }

    /// A file that the guest is told of.
    pub fn entry(&self, entry: Entry) -> Entry {
        Entry {
            attr: self.told(entry.attr),
            ..entry
        }
    }

    /// The value of an extended attribute that the guest sets.
    pub fn value_to_set(&self, name: &CStr, value: &[u8]) -> Vec<u8> {
        let mut value = value.to_vec();
        if LISTS.contains(&name) {
            each_id(&mut value, |id| self.inward(id));
        }
        value
    }

    /// The value of an extended attribute that the guest is told.
    pub fn value_told(&self, name: &CStr, reply: GetxattrReply) -> GetxattrReply {
        match reply {
            GetxattrReply::Value(mut value) if LISTS.contains(&name) => {
                each_id(&mut value, |id| self.outward(id));
                GetxattrReply::Value(value)
            }
            other => other,
        }
    }

    fn inward(&self, guest: u32) -> u32 {
        let Some(placed) = &self.placed else { return guest };
        if guest <= LAST_LOW_ID || guest == NONE {
            return guest;
        }
        let placed = placed.read().unwrap_or_else(PoisonError::into_inner);
        match placed.iter().position(|id| *id == guest) {
            Some(place) => FIRST_PLACE + place as u32,
            None if guest >= FIRST_PLACE => NOWHERE,
            None => guest,
        }
    }

    fn outward(&self, here: u32) -> u32 {
        let Some(placed) = &self.placed else { return here };
        if here < FIRST_PLACE || here == NONE {
            return here;
        }
        let placed = placed.read().unwrap_or_else(PoisonError::into_inner);
        placed.get((here - FIRST_PLACE) as usize).copied().unwrap_or(NOBODY)
    }
}

/// Replaces the ids of an access control list. What is none is the kernel's to refuse.
fn each_id(list: &mut [u8], replacement: impl Fn(u32) -> u32) {
    for entry in list
        .get_mut(LIST_HEADER..)
        .into_iter()
        .flat_map(|entries| entries.chunks_exact_mut(LIST_ENTRY))
    {
        if let Some(id) = entry
            .get_mut(LIST_ENTRY_ID..)
            .and_then(|bytes| <&mut [u8; 4]>::try_from(bytes).ok())
        {
            *id = replacement(u32::from_le_bytes(*id)).to_le_bytes();
        }
    }
}

#[cfg(test)]
#[path = "owners_test.rs"]
mod owners_test;
