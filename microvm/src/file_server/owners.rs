//! Whom files belong to: an owner as the guest numbers it, and as this process's user namespace does.
//!
//! Most that the namespace maps are the same in both. Another one of the guest has an owner here only when the runtime has given it a
//! place ([`FIRST_PLACE`] and those after it), for which the files of the host are mapped, too.

use std::borrow::Cow;
use std::ffi::CStr;
use std::io;
use std::sync::RwLock;

use bulkhead_vmm_control::{FIRST_PLACE, IdExtent};
use nix::libc;
use thiserror::Error;
use virtiofsd::filesystem::{Context, Entry, Extensions, GetxattrReply};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::soft_idmap::Id;

use crate::sync::{read, write};

/// What the kernel shows for an owner that a namespace has no number for (/proc/sys/kernel/overflowuid).
pub const NOBODY: u32 = 65_534;

/// No id: what is not to be changed (chown(2)), the owner of an entry of a list that has none here (acl(5)).
const NONE: u32 = u32::MAX;

/// Extended attributes that are access control lists.
const LISTS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

/// `struct posix_acl_xattr_header` and `struct posix_acl_xattr_entry` (linux/posix_acl_xattr.h): a version, then a tag of 16 bits,
/// permissions of 16 bits and an id in each.
const LIST_HEADER: usize = 4;
const LIST_ENTRY: usize = 8;
/// Tags of the entries that have an id: ACL_USER and ACL_GROUP.
const LIST_USER: u16 = 2;
const LIST_GROUP: u16 = 8;

/// Why ids cannot be placed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlaceError {
    /// There are none to give.
    #[error("ids cannot be placed: the machine has the host's own")]
    HostIds,
    /// A place was to change its owner.
    #[error("ids cannot be placed: number {0} differs from the one that was placed there before")]
    Moved(usize),
    /// The id is the same here.
    #[error("id {0} cannot be placed: it needs no place")]
    Needless(u32),
}

/// The ids that have been placed. Shared by the file server's threads and the main thread.
#[derive(Debug, Default)]
pub struct Owners {
    /// Ids that are the same in both.
    same: Vec<IdExtent>,
    /// `None`: there are no places, and all are the same.
    placed: Option<RwLock<Vec<u32>>>,
}

impl Owners {
    /// For a user namespace that maps `ids`.
    pub fn new(ids: &[IdExtent]) -> Owners {
        let (places, same): (Vec<IdExtent>, Vec<IdExtent>) =
            ids.iter().partition(|extent| extent.inside == FIRST_PLACE);
        Owners {
            same,
            placed: (!places.is_empty()).then(RwLock::default),
        }
    }

    /// Gives ids a place each, in their order. A list that ends before what is placed already takes nothing away.
    pub fn place(&self, ids: Vec<u32>) -> Result<(), PlaceError> {
        let placed = self.placed.as_ref().ok_or(PlaceError::HostIds)?;
        if let Some(same) = ids.iter().find(|id| self.is_same(**id)) {
            return Err(PlaceError::Needless(*same));
        }
        let mut placed = write(placed);
        if let Some(moved) = placed.iter().zip(&ids).position(|(before, now)| before != now) {
            return Err(PlaceError::Moved(moved));
        }
        if ids.len() > placed.len() {
            *placed = ids;
        }
        Ok(())
    }

    /// The process that asks. Without a place it is refused here: the pass-through file system would fail with half of the ids taken.
    pub fn caller(&self, caller: Context) -> io::Result<Context> {
        Ok(Context {
            uid: self.somebody(caller.uid.into_inner())?.into(),
            gid: self.somebody(caller.gid.into_inner())?.into(),
            ..caller
        })
    }

    /// What comes with a request that makes a file.
    pub fn extensions(&self, extensions: Extensions) -> io::Result<Extensions> {
        let groups = extensions.sup_gids.iter();
        let groups: io::Result<Vec<_>> = groups.map(|id| Ok(self.somebody(id.into_inner())?.into())).collect();
        Ok(Extensions {
            sup_gids: groups?,
            secctx: extensions.secctx,
        })
    }

    /// Attributes that the guest sets.
    pub fn to_set(&self, attributes: SetattrIn) -> io::Result<SetattrIn> {
        Ok(SetattrIn {
            uid: self.inward(attributes.uid.into_inner())?.into(),
            gid: self.inward(attributes.gid.into_inner())?.into(),
            ..attributes
        })
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
    pub fn value_to_set<'a>(&self, name: &CStr, value: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
        if !LISTS.contains(&name) {
            return Ok(value.into());
        }
        let mut list = value.to_vec();
        each_id(&mut list, |id| self.inward(id))?;
        Ok(list.into())
    }

    /// The value of an extended attribute that the guest is told.
    pub fn value_told(&self, name: &CStr, reply: io::Result<GetxattrReply>) -> io::Result<GetxattrReply> {
        match reply {
            Ok(GetxattrReply::Value(mut value)) if LISTS.contains(&name) => {
                // The kernel has no number for such an owner, and the guest's would not take the list.
                each_id(&mut value, |id| Ok(if id == NONE { NOBODY } else { self.outward(id) }))?;
                Ok(GetxattrReply::Value(value))
            }
            // A file system without lists. The guest's kernel looks for one before it lets anybody but the owner in, and fails with any
            // other error than that there is none.
            Err(error) if LISTS.contains(&name) && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Err(io::Error::from_raw_os_error(libc::ENODATA))
            }
            other => other,
        }
    }

    /// An id that something can belong to.
    fn somebody(&self, guest: u32) -> io::Result<u32> {
        match guest {
            NONE => Err(invalid()),
            guest => self.inward(guest),
        }
    }

    fn inward(&self, guest: u32) -> io::Result<u32> {
        let Some(placed) = &self.placed else { return Ok(guest) };
        if guest == NONE || self.is_same(guest) {
            return Ok(guest);
        }
        let placed = read(placed);
        let place = placed.iter().position(|id| *id == guest).ok_or_else(invalid)?;
        Ok(FIRST_PLACE + place as u32)
    }

    fn is_same(&self, id: u32) -> bool {
        self.same.iter().any(|extent| extent.contains(id))
    }

    fn outward(&self, here: u32) -> u32 {
        let Some(placed) = &self.placed else { return here };
        if here < FIRST_PLACE || here == NONE {
            return here;
        }
        let placed = read(placed);
        placed.get((here - FIRST_PLACE) as usize).copied().unwrap_or(NOBODY)
    }
}

/// What the kernel says to an id that a user namespace does not map.
fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

/// Replaces the ids of an access control list's users and groups. What is no list is the kernel's to refuse.
fn each_id(list: &mut [u8], replacement: impl Fn(u32) -> io::Result<u32>) -> io::Result<()> {
    let entries = list.get_mut(LIST_HEADER..).unwrap_or_default();
    for entry in entries.chunks_exact_mut(LIST_ENTRY) {
        if let [tag_low, tag_high, _, _, id @ ..] = entry
            && [LIST_USER, LIST_GROUP].contains(&u16::from_le_bytes([*tag_low, *tag_high]))
            && let Ok(id) = <&mut [u8; 4]>::try_from(id)
        {
            *id = replacement(u32::from_le_bytes(*id))?.to_le_bytes();
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "owners_test.rs"]
mod owners_test;
