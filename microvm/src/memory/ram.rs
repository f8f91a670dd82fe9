//! The guest's RAM: private anonymous memory.

use thiserror::Error;
use vm_memory::GuestAddress;
use vm_memory::mmap::FromRangesError;

use super::Layout;
use crate::virtio::device::GuestMemory;

/// Why the guest's memory could not be set up.
#[derive(Debug, Error)]
pub enum RamError {
    /// The system has no address space for it.
    #[error("cannot reserve {mebibytes} MiB of guest memory: {source}")]
    Reserve {
        /// What was asked for.
        mebibytes: u64,
        /// The system's answer.
        source: FromRangesError,
    },
}

/// Reserves the RAM of a machine. Nothing is touched, so nothing is used yet.
pub fn reserve(layout: &Layout) -> Result<GuestMemory, RamError> {
    let ranges: Vec<(GuestAddress, usize)> = [Some(layout.low()), layout.high()]
        .into_iter()
        .flatten()
        .map(|(at, length)| (at, length as usize))
        .collect();
    let total: usize = ranges.iter().map(|range| range.1).sum();
    GuestMemory::from_ranges(&ranges).map_err(|source| RamError::Reserve {
        mebibytes: total as u64 >> 20,
        source,
    })
}

#[cfg(test)]
#[path = "ram_test.rs"]
mod ram_test;
