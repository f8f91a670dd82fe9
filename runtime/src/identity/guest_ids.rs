//! The user and group ids that a specification names, as the guest numbers them.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use bulkhead_vmm_control::IdExtent;
use serde_json::Value;

use super::LOW;
use crate::error::{Error, Result};
use crate::spec;

/// What processes of a pod or container can have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestIds {
    /// Of processes in no user namespace of their own.
    pub single: BTreeSet<u32>,
    /// Behind user namespaces: all that these map something to.
    pub ranges: Vec<RangeInclusive<u32>>,
}

impl GuestIds {
    /// By an OCI spec: its process, or what its user namespace stands for, and what its mounts show.
    pub(crate) fn of(spec: &Value) -> Result<GuestIds> {
        let mut ids = GuestIds::default();
        if spec::in_user_namespace(spec) {
            ids.add_mapped(spec.get("linux"))
                .map_err(|e| e.context("the spec's linux"))?;
        } else {
            ids.single = ids_of(spec.get("process"));
        }
        for mount in spec.get("mounts").and_then(Value::as_array).into_iter().flatten() {
            ids.add_mapped(Some(mount))
                .map_err(|e| e.context("a mount of the spec"))?;
        }
        Ok(ids)
    }

    /// Adds what the fields uidMappings and gidMappings of an object stand for.
    fn add_mapped(&mut self, object: Option<&Value>) -> Result<()> {
        for kind in ["uidMappings", "gidMappings"] {
            for line in mappings_of(object, kind)? {
                self.add_range(line.outside, line.count);
            }
        }
        Ok(())
    }

    /// Adds consecutive ids. None at all, and those beyond the last one there is, are left out.
    pub fn add_range(&mut self, first: u32, count: u32) {
        if let Some(others) = count.checked_sub(1) {
            self.ranges.push(first..=first.saturating_add(others));
        }
    }

    /// Those of the ranges that are higher than the low ones: in order, without overlaps.
    pub(super) fn high_ranges(&self) -> Vec<RangeInclusive<u32>> {
        // The highest of all is no id (chown(2)).
        let cut = self
            .ranges
            .iter()
            .map(|range| (*range.start()).max(LOW)..=(*range.end()).min(u32::MAX - 1));
        let mut ranges: Vec<_> = cut.filter(|range| !range.is_empty()).collect();
        ranges.sort_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u32>> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        merged
    }

    /// Those of the single ones that are higher than the low ones.
    pub(super) fn high_single(&self) -> BTreeSet<u32> {
        self.single.range(LOW..u32::MAX).copied().collect()
    }
}

/// User and group ids that a process has by its OCI description.
pub(super) fn ids_of(process: Option<&Value>) -> BTreeSet<u32> {
    let user = process.and_then(|process| process.get("user"));
    let single = ["uid", "gid"].iter().filter_map(|key| user?.get(*key));
    let groups = user
        .and_then(|user| user.get("additionalGids"))
        .and_then(Value::as_array);
    let ids = single.chain(groups.into_iter().flatten()).filter_map(Value::as_u64);
    ids.filter_map(|id| u32::try_from(id).ok()).collect()
}

/// A list of OCI's LinuxIDMapping in an object: ids of the container inside, and what they stand for outside.
pub(super) fn mappings_of(object: Option<&Value>, kind: &str) -> Result<Vec<IdExtent>> {
    let malformed = || {
        Error::invalid(format!(
            "{kind} must be a list of objects with the numbers containerID, hostID and size, of one id or more and none above {}",
            u32::MAX
        ))
    };
    let Some(list) = object
        .and_then(|object| object.get(kind))
        .filter(|list| !list.is_null())
    else {
        return Ok(Vec::new());
    };
    let line = |line: &Value| {
        let line = line.as_object()?;
        let number = |key: &str| u32::try_from(line.get(key).map_or(Some(0), Value::as_u64)?).ok();
        extent(number("containerID")?, number("hostID")?, number("size")?)
    };
    let lines: Option<_> = list.as_array().ok_or_else(malformed)?.iter().map(line).collect();
    lines.ok_or_else(malformed)
}

/// `None` for one of no id, or with one beyond the last.
pub(super) fn extent(inside: u32, outside: u32, count: u32) -> Option<IdExtent> {
    let others = count.checked_sub(1)?;
    inside.checked_add(others)?;
    outside.checked_add(others)?;
    Some(IdExtent { inside, outside, count })
}

#[cfg(test)]
#[path = "guest_ids_test.rs"]
mod guest_ids_test;
