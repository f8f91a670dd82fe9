//! Ranges of host ids that the administrator has given away (subuid(5), subgid(5)).

use std::io::ErrorKind as IoErrorKind;
use std::path::Path;

use super::{LOW, RANGE};
use crate::error::{Error, Result};

/// Whose entries are for pods.
const OWNER: &str = "bulkhead";

/// Without an entry: what neither distributions, systemd nor the shadow tools give away (systemd's document UIDS-GIDS): from the end of
/// systemd's containers to its foreign ids.
const DEFAULT: IdRange = IdRange {
    first: 1_879_048_192,
    count: 2_147_352_576 - 1_879_048_192,
};

/// Consecutive host ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IdRange {
    pub(super) first: u32,
    pub(super) count: u32,
}

impl IdRange {
    /// First ids of its parts of `size` ids each.
    pub(super) fn parts(self, size: u32) -> impl Iterator<Item = u32> {
        (0..self.count / size).map(move |n| self.first + n * size)
    }

    fn overlaps(self, other: IdRange) -> bool {
        let end = |range: IdRange| u64::from(range.first) + u64::from(range.count);
        u64::from(self.first) < end(other) && u64::from(other.first) < end(self)
    }
}

/// Ranges for pods by subuid and subgid in the folder `etc`: what is ours in both, or else the default without what belongs to others.
pub(super) fn ranges(etc: &Path) -> Result<Vec<IdRange>> {
    let (users, groups) = (read(&etc.join("subuid"))?, read(&etc.join("subgid"))?);
    let ours = |entries: &[(String, IdRange)]| -> Vec<IdRange> {
        entries
            .iter()
            .filter(|(owner, _)| owner == OWNER)
            .map(|(_, range)| *range)
            .collect()
    };
    let (our_users, our_groups) = (ours(&users), ours(&groups));
    if our_users.is_empty() && our_groups.is_empty() {
        let others: Vec<IdRange> = users.into_iter().chain(groups).map(|(_, range)| range).collect();
        let parts = DEFAULT.parts(RANGE).map(|first| IdRange { first, count: RANGE });
        return Ok(parts
            .filter(|part| !others.iter().any(|other| other.overlaps(*part)))
            .collect());
    }
    let broken = |what: &str| {
        let etc = etc.display();
        Err(Error::precondition(format!(
            "lines of \"{OWNER}\" in {etc}/subuid and {etc}/subgid: {what}: correct or remove them"
        )))
    };
    let mut both: Vec<IdRange> = our_users
        .into_iter()
        .filter(|range| range.count >= RANGE && our_groups.contains(range))
        .collect();
    both.sort_by_key(|range| range.first);
    both.dedup();
    let others = users.iter().chain(&groups).filter(|(owner, _)| owner != OWNER);
    if both.is_empty() {
        return broken(&format!("none stands in both files and has at least {RANGE} ids"));
    }
    if both.iter().any(|range| range.first < LOW) {
        return broken("ids below 65536 are the host's own");
    }
    if both
        .windows(2)
        .any(|pair| matches!(pair, [one, next] if one.overlaps(*next)))
    {
        return broken("two of them overlap");
    }
    for (owner, other) in others {
        if both.iter().any(|range| range.overlaps(*other)) {
            return broken(&format!("they overlap with those of {owner:?}"));
        }
    }
    Ok(both)
}

/// The entries of a file, which may be missing. Lines that are none, and ranges beyond the last id, are passed over.
fn read(path: &Path) -> Result<Vec<(String, IdRange)>> {
    let text = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == IoErrorKind::NotFound => String::new(),
        text => text.map_err(|e| Error::io("cannot read", path, e))?,
    };
    let entry = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        first.checked_add(count)?;
        fields
            .next()
            .is_none()
            .then(|| (owner.to_owned(), IdRange { first, count }))
    };
    Ok(text.lines().filter_map(entry).collect())
}

#[cfg(test)]
#[path = "subordinate_test.rs"]
mod subordinate_test;
