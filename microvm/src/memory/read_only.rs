//! Pages that the guest reads without an exit and cannot write: a KVM memslot with KVM_MEM_READONLY over a mapping of our own.
//!
//! A guest write to such a page exits as MMIO. Unsafe, because mappings are replaced at fixed addresses and written by pointer.
#![allow(unsafe_code)]

use std::fs::File;
use std::num::NonZeroUsize;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use thiserror::Error;
use vm_memory::{Bytes, VolatileMemory, VolatileSlice};

/// Why pages could not be made.
#[derive(Debug, Error)]
pub enum ReadOnlyError {
    /// No address space.
    #[error("cannot reserve {length} bytes of read-only guest memory: {source}")]
    Reserve {
        /// What was asked for.
        length: usize,
        /// The mapping's answer.
        source: vm_memory::mmap::MmapRegionError,
    },
    /// mmap of the file failed.
    #[error("cannot map {length} bytes of the file: {source}")]
    Map {
        /// Bytes of the file.
        length: u64,
        /// The system's answer.
        source: Errno,
    },
    /// The file is empty or larger than its room.
    #[error("the file has {length} bytes, allowed are 1 to {max}")]
    Size {
        /// Bytes of the file.
        length: u64,
        /// Room for it.
        max: u64,
    },
    /// The size of the file is unknown.
    #[error("cannot read the size of the file: {0}")]
    Stat(#[source] std::io::Error),
}

/// Pages for one read-only memslot.
#[derive(Debug)]
pub struct ReadOnlyPages {
    region: vm_memory::MmapRegion<()>,
}

impl ReadOnlyPages {
    /// Zero pages that only this process writes; `length` is a multiple of the page size.
    pub fn anonymous(length: usize) -> Result<ReadOnlyPages, ReadOnlyError> {
        let region = vm_memory::MmapRegion::new(length).map_err(|source| ReadOnlyError::Reserve { length, source })?;
        Ok(ReadOnlyPages { region })
    }

    /// The content of `file`, shared with everybody else who maps it, padded with zeros to a multiple of `align`.
    pub fn of_file(file: &File, align: u64, max: u64) -> Result<ReadOnlyPages, ReadOnlyError> {
        let length = file.metadata().map_err(ReadOnlyError::Stat)?.len();
        let wrong = ReadOnlyError::Size { length, max };
        let (Some(padded), Some(size)) = (
            length.checked_next_multiple_of(align),
            NonZeroUsize::new(length as usize),
        ) else {
            return Err(wrong);
        };
        if padded > max {
            return Err(wrong);
        }
        let pages = ReadOnlyPages::anonymous(padded as usize)?;
        // SAFETY: `padded` bytes at `as_ptr` belong to `region`, `size` is not more than that, and nothing refers to them yet.
        // The pages become unwritable; only `PublishedPages`, which are never of a file, are written.
        unsafe {
            let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
            let place = NonZeroUsize::new(pages.region.as_ptr().addr());
            mmap(place, size, ProtFlags::PROT_READ, flags, file, 0)
        }
        .map_err(|source| ReadOnlyError::Map { length, source })?;
        Ok(pages)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.region.size()
    }

    /// True for no pages, which the constructors do not make.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where KVM finds them.
    pub fn host_address(&self) -> u64 {
        self.region.as_ptr() as u64
    }
}

/// Pages that this process writes and the guest reads at the same time.
#[derive(Debug)]
pub struct PublishedPages(ReadOnlyPages);

impl PublishedPages {
    /// Zero pages; `length` is a multiple of the page size.
    pub fn new(length: usize) -> Result<PublishedPages, ReadOnlyError> {
        ReadOnlyPages::anonymous(length).map(PublishedPages)
    }

    /// Shows `bytes` to the guest at `offset`; what goes beyond the end is dropped.
    pub fn publish(&self, offset: usize, bytes: &[u8]) {
        let slice: VolatileSlice<'_, ()> = self.0.region.as_volatile_slice();
        // The only failure is an offset beyond the end: nothing to show there.
        let _ = slice.write(bytes, offset);
    }

    /// The pages, for the memslot.
    pub fn pages(&self) -> &ReadOnlyPages {
        &self.0
    }
}
