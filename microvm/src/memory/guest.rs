//! The guest's memory as this process sees it: its RAM, and as much of the room for later memory as was ever opened.
//!
//! All of it is private memory of this process, untouched until somebody touches it, and anonymous but for pages that are the same as a
//! file's and were exchanged for these ([`GuestMemory::share`]): whoever writes to one of them gets a copy. Host and guest-physical addresses
//! agree modulo the size of a huge page, so that a huge page of the host is one of the guest's, and 2 MiB that the guest gives up are
//! 2 MiB of the host's. Whether the host uses huge pages for it is left to the host, but for those of which the guest gave back a part.
//!
//! Distrusts the guest: what was never opened is no memory for any device, whatever a descriptor says.
//!
//! Unsafe, because regions are parts of larger mappings, and pages are discarded by address.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::libc::{MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mprotect};
use thiserror::Error;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    Address, Bytes, FileOffset, GuestAddress, GuestMemory as _, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
    VolatileMemory,
};

use super::PAGE_SIZE;
use super::layout::Hotplug;
use crate::sync::lock;

/// Size of a huge page of the host, in bytes.
const HUGE_PAGE: usize = 2 << 20;

const PROTECTION: i32 = PROT_READ | PROT_WRITE;
const FLAGS: i32 = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);
/// In the place of other pages.
const FIXED: MapFlags = MapFlags::MAP_PRIVATE
    .union(MapFlags::MAP_NORESERVE)
    .union(MapFlags::MAP_FIXED);

/// Why guest memory could not be set up.
#[derive(Debug, Error)]
pub enum ReserveError {
    /// The system has no address space for it.
    #[error(transparent)]
    Map(#[from] MmapRegionError),
    /// It cannot be made readable and writable.
    #[error("cannot open it (mprotect): {0}")]
    Open(#[from] Errno),
    /// It would reach beyond the last address.
    #[error("{length:#x} bytes at guest address {start:#x} exceed the address space")]
    Overflow {
        /// Guest-physical start.
        start: u64,
        /// Bytes.
        length: usize,
    },
}

/// Why pages could not be given back.
#[derive(Debug, Error)]
pub enum DiscardError {
    /// Not whole pages.
    #[error("not whole pages")]
    Misaligned,
    /// Not memory, all or a part of it.
    #[error("not guest memory")]
    OutOfRange,
    /// The system refused.
    #[error("cannot give pages back (madvise): {0}")]
    System(#[from] Errno),
}

/// Why pages could not be exchanged for those of a file.
#[derive(Debug, Error)]
pub enum ShareError {
    /// Not whole pages of guest memory.
    #[error("not whole pages of guest memory")]
    Range,
    /// The file cannot be read as memory.
    #[error("cannot map the file: {0}")]
    File(#[from] MmapRegionError),
    /// The system refused.
    #[error("cannot map pages of the file (mmap): {0}")]
    System(#[from] Errno),
}

/// The guest's memory. Clones are the same memory.
#[derive(Debug, Clone)]
pub struct GuestMemory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Ascending: RAM, then the chunks of the room for later memory.
    regions: Vec<GuestRegionMmap<()>>,
    /// How many of them are RAM.
    ram: usize,
    /// How many of them this process may touch. Never less than before, because a borrowed slice stays usable.
    open: AtomicUsize,
    /// Where pages may be those of a file.
    file_pages: Mutex<Range<u64>>,
    /// One bit for each huge page that was broken up.
    broken_up: Vec<AtomicU64>,
    /// What the regions lie in: they do not own their pages.
    _mappings: Vec<MmapRegion<()>>,
}

impl GuestMemory {
    /// RAM of these ranges, start and length in bytes, ascending; nothing comes later.
    pub fn from_ranges(ranges: &[(GuestAddress, usize)]) -> Result<GuestMemory, ReserveError> {
        GuestMemory::reserve(ranges, None)
    }

    /// RAM of these ranges, ascending, and address space above them for what comes later.
    pub fn reserve(ranges: &[(GuestAddress, usize)], room: Option<Hotplug>) -> Result<GuestMemory, ReserveError> {
        let (mut regions, mut mappings) = (Vec::new(), Vec::new());
        for (start, length) in ranges {
            map(*start, *length, *length, &mut regions, &mut mappings)?;
        }
        let ram = regions.len();
        if let Some(room) = room {
            map(
                room.start,
                room.length as usize,
                room.chunk as usize,
                &mut regions,
                &mut mappings,
            )?;
        }
        let end = regions.last().map_or(0, |region| region.last_addr().0);
        Ok(GuestMemory {
            shared: Arc::new(Shared {
                regions,
                ram,
                open: AtomicUsize::new(ram),
                file_pages: Mutex::new(0..0),
                broken_up: (0..=end / (64 * HUGE_PAGE as u64)).map(|_| AtomicU64::new(0)).collect(),
                _mappings: mappings,
            }),
        })
    }

    /// RAM that is there from the start.
    pub fn ram(&self) -> &[GuestRegionMmap<()>] {
        self.shared.regions.get(..self.shared.ram).unwrap_or_default()
    }

    /// What comes later, open or not, in order.
    pub fn chunks(&self) -> &[GuestRegionMmap<()>] {
        self.shared.regions.get(self.shared.ram..).unwrap_or_default()
    }

    /// From now on, the first `count` chunks are memory, also for devices that run already. They stay so.
    pub fn open(&self, count: usize) {
        let open = self.shared.regions.len().min(self.shared.ram.saturating_add(count));
        self.shared.open.fetch_max(open, Ordering::AcqRel);
    }

    fn regions(&self) -> &[GuestRegionMmap<()>] {
        let open = self.shared.open.load(Ordering::Acquire);
        self.shared.regions.get(..open).unwrap_or_default()
    }

    /// Gives whole pages back to the host; the guest finds zeros in them. Any thread. Nothing is given back when a part of the range
    /// is not guest memory.
    pub fn discard(&self, start: GuestAddress, length: usize) -> Result<(), DiscardError> {
        if !start.0.is_multiple_of(PAGE_SIZE) || !length.is_multiple_of(PAGE_SIZE as usize) {
            return Err(DiscardError::Misaligned);
        }
        if !self.check_range(start, length) {
            return Err(DiscardError::OutOfRange);
        }
        let end = start.0 + length as u64;
        let has_file_pages = {
            let pages = lock(&self.shared.file_pages);
            pages.start < end && start.0 < pages.end
        };
        for slice in self.get_slices(start, length) {
            let slice = slice.map_err(|_| DiscardError::OutOfRange)?;
            let guard = slice.ptr_guard_mut();
            let first = NonNull::new(guard.as_ptr().cast::<c_void>()).ok_or(DiscardError::OutOfRange)?;
            // SAFETY: these are whole pages of one of `_mappings`, private memory to which there are no Rust references: their contents
            // may change under every accessor at any time.
            unsafe {
                match (has_file_pages, NonZeroUsize::new(slice.len())) {
                    // A file's page would come back as it is in the file.
                    (true, Some(bytes)) => {
                        mmap_anonymous(Some(address_of(first)?), bytes, READ_WRITE, FIXED)?;
                    }
                    _ => madvise(first, slice.len(), MmapAdvise::MADV_DONTNEED)?,
                }
            }
        }
        self.break_up(start, length);
        Ok(())
    }

    /// Exchanges each of these whole pages that is the same as the file's at `offset` and on for the file's page, which the host has
    /// once for everybody; returns how many those are. The file never changes. What somebody writes to a page meanwhile may be lost, so
    /// that the guest must not run.
    pub fn share(
        &self,
        start: GuestAddress,
        length: usize,
        file: &Arc<File>,
        offset: u64,
    ) -> Result<usize, ShareError> {
        let page = PAGE_SIZE as usize;
        let whole =
            start.0.is_multiple_of(PAGE_SIZE) && length.is_multiple_of(page) && offset.is_multiple_of(PAGE_SIZE);
        let memory = self
            .get_slice(start, length)
            .ok()
            .filter(|_| whole && length > 0)
            .ok_or(ShareError::Range)?;
        let theirs = FileOffset::from_arc(file.clone(), offset);
        let theirs = MmapRegion::<()>::build(Some(theirs), length, PROT_READ, MAP_PRIVATE)?;
        let (mut mine, mut other) = (vec![0u8; page], vec![0u8; page]);
        let mut same = |at: usize| {
            memory.read_slice(&mut mine, at).is_ok()
                && theirs.as_volatile_slice().read_slice(&mut other, at).is_ok()
                && mine == other
        };
        {
            let mut pages = lock(&self.shared.file_pages);
            let end = start.0 + length as u64;
            *pages = match pages.is_empty() {
                true => start.0..end,
                false => pages.start.min(start.0)..pages.end.max(end),
            };
        }
        let (mut at, mut shared) = (0, 0);
        while at < length {
            let first = at;
            while at < length && same(at) {
                at += page;
            }
            if let Some(bytes) = NonZeroUsize::new(at - first) {
                let guard = memory.ptr_guard_mut();
                let address = NonNull::new(guard.as_ptr().wrapping_add(first).cast()).ok_or(ShareError::Range)?;
                let offset = (offset + first as u64).cast_signed();
                // SAFETY: these are whole pages of one of `_mappings`, and their contents stay as they are.
                unsafe { mmap(Some(address_of(address)?), bytes, READ_WRITE, FIXED, &**file, offset) }?;
                shared += bytes.get() / page;
            }
            at += page;
        }
        self.break_up(start, length);
        Ok(shared)
    }

    /// Of the huge pages at both ends of what was given back, what was given back is the host's at once and not when it next looks for
    /// memory, and they are not put together again: once for each. Where that fails, they stay whole.
    fn break_up(&self, start: GuestAddress, length: usize) {
        let block = HUGE_PAGE as u64;
        let end = start.0 + length as u64;
        let (first, last) = (start.0 / block * block, end / block * block);
        let first = (length > 0 && (first < start.0 || end < first + block)).then_some(first);
        let last = (last < end && Some(last) != first).then_some(last);
        for at in [first, last].into_iter().flatten().map(GuestAddress) {
            let (word, bit) = (at.0 / block / 64, 1 << (at.0 / block % 64));
            match self.shared.broken_up.get(word as usize) {
                Some(word) if word.fetch_or(bit, Ordering::Relaxed) & bit == 0 => {}
                _ => continue,
            }
            let Ok(slice) = self.get_slice(at, HUGE_PAGE) else {
                continue;
            };
            let guard = slice.ptr_guard_mut();
            let Some(pages) = NonNull::new(guard.as_ptr().cast::<c_void>()) else {
                continue;
            };
            for advice in [MmapAdvise::MADV_NOHUGEPAGE, MmapAdvise::MADV_COLD] {
                // SAFETY: as for `discard`; no contents change.
                if let Err(error) = unsafe { madvise(pages, HUGE_PAGE, advice) } {
                    tracing::debug!("memory at {:#x}: {advice:?}: {error}", at.0);
                }
            }
        }
    }
}

impl vm_memory::GuestMemory for GuestMemory {
    type R = GuestRegionMmap<()>;

    fn find_region(&self, address: GuestAddress) -> Option<&GuestRegionMmap<()>> {
        let regions = self.regions();
        let after = regions.partition_point(|region| region.start_addr() <= address);
        let region = regions.get(after.checked_sub(1)?)?;
        (address <= region.last_addr()).then_some(region)
    }

    fn iter(&self) -> impl Iterator<Item = &GuestRegionMmap<()>> {
        self.regions().iter()
    }
}

fn address_of(pages: NonNull<c_void>) -> Result<NonZeroUsize, Errno> {
    NonZeroUsize::new(pages.as_ptr().addr()).ok_or(Errno::EFAULT)
}

/// Maps `length` bytes, between pages that nobody can touch, and describes them as regions of `step` bytes.
fn map(
    start: GuestAddress,
    length: usize,
    step: usize,
    regions: &mut Vec<GuestRegionMmap<()>>,
    mappings: &mut Vec<MmapRegion<()>>,
) -> Result<(), ReserveError> {
    let overflow = || ReserveError::Overflow { start: start.0, length };
    let room = length
        .checked_add(HUGE_PAGE + PAGE_SIZE as usize)
        .ok_or_else(overflow)?;
    let mapping = MmapRegion::build(None, room, PROT_NONE, FLAGS)?;
    let first = mapping.as_ptr().addr();
    // At least one page before and one after: the mapping begins on a page.
    let padding = (first + 1).next_multiple_of(HUGE_PAGE) - first;
    let whole = NonNull::new(mapping.as_ptr().wrapping_add(padding).cast::<c_void>()).ok_or(Errno::EFAULT)?;
    // SAFETY: padding is at most a huge page, so these bytes lie in `mapping`, which nobody else knows yet.
    unsafe { mprotect(whole, length, READ_WRITE) }?;
    for offset in (0..length).step_by(step) {
        let size = step.min(length - offset);
        let first = mapping.as_ptr().wrapping_add(padding + offset);
        // SAFETY: these bytes lie in `mapping`, as above, with this protection and these flags. It lives in the same struct as the
        // region.
        let region = unsafe { MmapRegion::build_raw(first, size, PROTECTION, FLAGS) }?;
        let at = start.checked_add(offset as u64).ok_or_else(overflow)?;
        regions.push(GuestRegionMmap::new(region, at).ok_or_else(overflow)?);
    }
    mappings.push(mapping);
    Ok(())
}

#[cfg(test)]
#[path = "guest_test.rs"]
mod guest_test;
