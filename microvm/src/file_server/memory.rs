//! Guest memory in the type that virtiofsd demands.
//!
//! virtiofsd reads and writes guest memory only through a memory object with vhost-user's dirty bitmap. This builds one over the
//! same mappings, and another when more memory has been opened. Opts into unsafe code for that one conversion.
#![allow(unsafe_code)]

use std::io;
use std::sync::{Arc, RwLock};

use vhost_user_backend::bitmap::BitmapMmapRegion;
use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion};

use crate::sync::{read, write};
use crate::virtio::device::GuestMemory;

type View = GuestMemoryMmap<BitmapMmapRegion>;

/// Guest memory as virtiofsd sees it.
pub struct ServerMemory {
    /// Of how many regions, and what virtiofsd gets. Borrows the mappings of `memory`, so it is declared, hence dropped, first.
    latest: RwLock<(usize, Arc<View>)>,
    memory: GuestMemory,
}

impl ServerMemory {
    /// A second view of `memory`.
    pub fn new(memory: GuestMemory) -> io::Result<ServerMemory> {
        let latest = RwLock::new(view_of(&memory)?);
        Ok(ServerMemory { latest, memory })
    }

    /// What virtiofsd gets, for one request.
    pub(super) fn view(&self) -> io::Result<Arc<View>> {
        {
            let latest = read(&self.latest);
            if latest.0 == self.memory.num_regions() {
                return Ok(latest.1.clone());
            }
        }
        let newer = view_of(&self.memory)?;
        let view = newer.1.clone();
        *write(&self.latest) = newer;
        Ok(view)
    }

    /// The memory itself, for the rings.
    pub fn guest(&self) -> &GuestMemory {
        &self.memory
    }
}

/// One region for each stretch of memory without a gap, because virtiofsd takes no buffer that reaches from one region into the next.
fn view_of(memory: &GuestMemory) -> io::Result<(usize, Arc<View>)> {
    let mut stretches: Vec<(&GuestRegionMmap<()>, usize)> = Vec::new();
    let mut count = 0;
    for region in memory.iter() {
        count += 1;
        match stretches.last_mut() {
            Some((first, length)) if follows(first, *length, region) => *length += region.size(),
            _ => stretches.push((region, region.size())),
        }
    }
    let mut regions = Vec::new();
    for (first, length) in stretches {
        // SAFETY: the stretch consists of regions that lie next to each other in mappings which `memory` keeps in place for as long as
        // the view exists. A raw region does not unmap it. Both views give out volatile accessors only.
        let mapping = unsafe { MmapRegion::build_raw(first.as_ptr(), length, first.prot(), first.flags()) }
            .map_err(io::Error::other)?;
        let start = GuestAddress(first.start_addr().0);
        let region = GuestRegionMmap::new(mapping, start)
            .ok_or_else(|| io::Error::other(format!("memory at {:#x} exceeds the address space", start.0)))?;
        regions.push(region);
    }
    let view = GuestMemoryMmap::from_regions(regions).map_err(io::Error::other)?;
    Ok((count, Arc::new(view)))
}

/// Whether `next` begins where `length` bytes from `first` on end, for the guest and in this process.
fn follows(first: &GuestRegionMmap<()>, length: usize, next: &GuestRegionMmap<()>) -> bool {
    next.start_addr().0 == first.start_addr().0 + length as u64
        && next.as_ptr().addr() == first.as_ptr().addr() + length
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod memory_test;
