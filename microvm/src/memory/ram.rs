//! The memory of one machine.

use thiserror::Error;
use vm_memory::GuestAddress;

use super::guest::ReserveError;
use super::{GuestMemory, Layout};

/// Why the guest's memory could not be set up.
#[derive(Debug, Error)]
pub enum RamError {
    /// The system has no address space for it.
    #[error("cannot reserve {mebibytes} MiB of guest memory: {source}")]
    Reserve {
        /// What was asked for, with what comes later.
        mebibytes: u64,
        /// The system's answer.
        source: ReserveError,
    },
}

/// Reserves the RAM of a machine and the room for what comes later. Nothing is touched, so nothing is used yet.
pub fn reserve(layout: &Layout) -> Result<GuestMemory, RamError> {
    let ranges: Vec<(GuestAddress, usize)> = [Some(layout.low()), layout.high()]
        .into_iter()
        .flatten()
        .map(|(at, length)| (at, length as usize))
        .collect();
    let room = layout.hotplug();
    let total = ranges.iter().map(|range| range.1 as u64).sum::<u64>() + room.map_or(0, |room| room.length);
    GuestMemory::reserve(&ranges, room).map_err(|source| RamError::Reserve {
        mebibytes: total >> 20,
        source,
    })
}

#[cfg(test)]
#[path = "ram_test.rs"]
mod ram_test;
