//! The guest's RAM: private anonymous memory, over which ranges of files can be laid without copying them.
//!
//! Unsafe, because mappings are replaced at fixed addresses.
#![allow(unsafe_code)]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use thiserror::Error;
use vm_memory::mmap::FromRangesError;
use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryError};

use super::{Layout, PAGE_SIZE};
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
    /// The range is not inside one block of RAM.
    #[error("guest range {start:#x}+{length:#x} is not RAM: {source}")]
    NotRam {
        /// First byte.
        start: u64,
        /// Length in bytes.
        length: usize,
        /// The memory's answer.
        source: GuestMemoryError,
    },
    /// Address, length or offset is not a multiple of the page size.
    #[error("guest range {start:#x}+{length:#x} is not page aligned")]
    Unaligned {
        /// First byte.
        start: u64,
        /// Length in bytes.
        length: usize,
    },
    /// mmap failed.
    #[error("cannot map a file over guest range {start:#x}+{length:#x}: {source}")]
    Map {
        /// First byte.
        start: u64,
        /// Length in bytes.
        length: usize,
        /// The system's answer.
        source: Errno,
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

/// Replaces whole pages of RAM by a private, writable view of `file`: clean pages are the host's page cache.
///
/// The caller has checked that the file is that long. If somebody truncates it later, the guest's access ends the process
/// with SIGBUS; the installed files are immutable.
pub fn lay_file_over(
    memory: &GuestMemory,
    start: GuestAddress,
    length: usize,
    file: &File,
    offset: u64,
) -> Result<(), RamError> {
    let Some(size) = NonZeroUsize::new(length) else {
        return Ok(());
    };
    let page = PAGE_SIZE as usize;
    if !start.0.is_multiple_of(PAGE_SIZE) || !length.is_multiple_of(page) || !offset.is_multiple_of(PAGE_SIZE) {
        return Err(RamError::Unaligned { start: start.0, length });
    }
    let not_ram = |source| RamError::NotRam {
        start: start.0,
        length,
        source,
    };
    let slice = memory.get_slice(start, length).map_err(not_ram)?;
    let host = slice.ptr_guard_mut().as_ptr();
    // SAFETY: `get_slice` has shown that `length` bytes from `host` belong to one live mapping of `memory`, which outlives this
    // call; guest memory is only accessed volatilely, so no reference to the replaced pages exists. The protection and the
    // size stay those that the owner of the mapping expects when it unmaps it.
    unsafe {
        map_fixed(
            host,
            size,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_PRIVATE,
            file,
            offset,
        )
        .map_err(|source| RamError::Map {
            start: start.0,
            length,
            source,
        })
    }
}

/// Maps `file` at exactly `host`.
///
/// # Safety
///
/// The caller owns the `size` bytes of address space at `host`, and nothing refers to their content.
pub(super) unsafe fn map_fixed(
    host: *mut u8,
    size: NonZeroUsize,
    protection: ProtFlags,
    sharing: MapFlags,
    file: &impl AsFd,
    offset: u64,
) -> Result<(), Errno> {
    let address = NonNull::new(host).ok_or(Errno::EFAULT)?;
    let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
    let flags = sharing | MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
    // SAFETY: forwarded to the caller.
    unsafe { mmap(Some(address.addr()), size, protection, flags, file, offset) }.map(drop)
}

#[cfg(test)]
#[path = "ram_test.rs"]
mod ram_test;
