//! How files are mapped (mount_setattr(2), MOUNT_ATTR_IDMAP): their owners as they are on the disk, and what these stand for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bulkhead_vmm_control::IdExtent;
use serde_json::Value;

use super::guest_ids::{extent, ids_of, mappings_of};
use super::{ANNOTATION, namespace};
use crate::error::{Error, Result};
use crate::rootfs::Tried;

/// A map of a mount, as a user namespace has it: owners on the disk inside, ids of the host outside.
#[derive(Debug, Clone)]
pub(crate) struct FileMap {
    namespace: Arc<OwnedFd>,
    users: Arc<[IdExtent]>,
    groups: Arc<[IdExtent]>,
    /// It leads to ids of the host that the pod alone has.
    pods: bool,
    tried: Arc<Tried>,
}

impl FileMap {
    /// Of a pod's own ids, the same for users and groups.
    pub(super) fn of_pod(ids: &[IdExtent]) -> Result<FileMap> {
        FileMap::new(ids, ids, true)
    }

    fn new(users: &[IdExtent], groups: &[IdExtent], pods: bool) -> Result<FileMap> {
        let namespace = namespace::with_map(users, groups).map_err(|e| {
            Error::invalid(format!(
                "cannot make a user namespace with a map of {} lines for users and {} for groups, beginning with {:?} and {:?}",
                users.len(),
                groups.len(),
                users.first(),
                groups.first()
            ))
            .caused_by(e)
        })?;
        Ok(FileMap {
            namespace: Arc::new(namespace),
            users: users.into(),
            groups: groups.into(),
            pods,
            tried: Arc::default(),
        })
    }

    /// What was mapped with it to see whether that can be done.
    pub(crate) fn tried(&self) -> &Tried {
        &self.tried
    }

    /// Whether the pod's own ids are in it, which it could do without.
    pub(crate) fn is_pods(&self) -> bool {
        self.pods
    }

    /// Whether files look the same with both.
    pub(crate) fn is_like(&self, other: &FileMap) -> bool {
        self.users == other.users && self.groups == other.groups
    }

    /// The user namespace.
    pub(crate) fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// The host's id of the first owner in it, who is root in a pod's own.
    pub(crate) fn root(&self) -> u32 {
        self.users.first().map_or(0, |extent| extent.outside)
    }

    /// Refuses a process that is added to a container and has an id that stands for none of the host.
    pub(crate) fn check(&self, process: Option<&Value>) -> Result<()> {
        let known = |id: &u32| *id == u32::MAX || self.users.iter().any(|extent| extent.contains(*id));
        match ids_of(process).iter().find(|id| !known(id)) {
            None => Ok(()),
            Some(id) => Err(Error::invalid(format!(
                "user or group {id} is not among the ids that the container's files can belong to, which are 0 to 65535, those behind \
                 user namespaces, and the higher ones that it and the pod's containers before it run as: let it run as this id \
                 (additional groups count, too), or annotate the pod with {ANNOTATION}: \"never\""
            ))),
        }
    }
}

/// What a client wants a mount to do with owners, whatever the pod's ids are on the host: inside are those on the disk, outside those
/// that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shift {
    users: Vec<IdExtent>,
    groups: Vec<IdExtent>,
}

impl Shift {
    /// `None` when both are empty. One without the other is refused.
    fn new(users: Vec<IdExtent>, groups: Vec<IdExtent>) -> Result<Option<Shift>> {
        match (users.is_empty(), groups.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => Ok(Some(Shift { users, groups })),
            _ => Err(Error::invalid("users and groups must be mapped together")),
        }
    }

    /// By the fields uidMappings and gidMappings of an object of an OCI spec.
    pub(crate) fn of(object: &Value) -> Result<Option<Shift>> {
        Shift::new(
            mappings_of(Some(object), "uidMappings")?,
            mappings_of(Some(object), "gidMappings")?,
        )
    }

    /// By the values of containerd's mount options uidmap and gidmap: `INSIDE:OUTSIDE:COUNT`, with commas between several.
    pub(crate) fn of_options(users: Option<&str>, groups: Option<&str>) -> Result<Option<Shift>> {
        Shift::new(extents_in("uidmap", users)?, extents_in("gidmap", groups)?)
    }

    /// The map that does it to files which are mapped with `map` already; `None`: they are not.
    pub(crate) fn then(&self, map: Option<&FileMap>) -> Result<FileMap> {
        let Some(map) = map else {
            return FileMap::new(&self.users, &self.groups, false);
        };
        let (users, groups) = (joined(&self.users, &map.users), joined(&self.groups, &map.groups));
        if users.is_empty() || groups.is_empty() {
            return Err(Error::invalid(format!(
                "owners cannot be shown as {:?} and {:?}, which are not among the pod's ids: annotate the pod with {ANNOTATION}: \"never\"",
                self.users.first(),
                self.groups.first()
            )));
        }
        FileMap::new(&users, &groups, true)
    }
}

fn extents_in(option: &str, value: Option<&str>) -> Result<Vec<IdExtent>> {
    let line = |text: &str| {
        let numbers: Option<Vec<u32>> = text.split(':').map(|number| number.parse().ok()).collect();
        match numbers?.as_slice() {
            [inside, outside, count] => extent(*inside, *outside, *count),
            _ => None,
        }
    };
    let value = value.unwrap_or_default();
    let extents = value.split(',').filter(|text| !text.is_empty()).map(line);
    extents.collect::<Option<_>>().ok_or_else(|| {
        Error::invalid(format!(
            "mount option {:?} must be INSIDE:OUTSIDE:COUNT, or several of these with commas between them",
            format!("{option}={value}")
        ))
    })
}

/// One map after the other. What the second one does not have is left out.
fn joined(first: &[IdExtent], second: &[IdExtent]) -> Vec<IdExtent> {
    let mut all = Vec::new();
    for one in first {
        for other in second {
            let end = |start: u32, count: u32| u64::from(start) + u64::from(count);
            let from = one.outside.max(other.inside);
            let to = end(one.outside, one.count).min(end(other.inside, other.count));
            if let Some(count) = to.checked_sub(from.into()).filter(|count| *count > 0) {
                // Neither sum is higher than the last id of the extent that it begins with.
                all.push(IdExtent {
                    inside: one.inside + (from - one.outside),
                    outside: other.outside + (from - other.inside),
                    count: u32::try_from(count).unwrap_or(u32::MAX),
                });
            }
        }
    }
    all
}

#[cfg(test)]
#[path = "file_map_test.rs"]
mod file_map_test;
