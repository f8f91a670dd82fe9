//! Guest memory in the type that virtiofsd demands.
//!
//! virtiofsd reads and writes guest memory only through a memory object with vhost-user's dirty bitmap. This builds one over the
//! same mappings. Opts into unsafe code for that one conversion.
#![allow(unsafe_code)]

use std::io;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion};

use crate::virtio::device::GuestMemory;

/// Guest memory as virtiofsd sees it.
pub struct ServerMemory {
    /// Borrows the mappings of `memory`, so it is declared, hence dropped, first.
    view: GuestMemoryMmap<BitmapMmapRegion>,
    memory: GuestMemory,
}

impl ServerMemory {
    /// A second view of `memory`.
    pub fn new(memory: GuestMemory) -> io::Result<ServerMemory> {
        let mut regions = Vec::new();
        for region in memory.iter() {
            // SAFETY: address and size are those of a mapping that `memory` keeps in place for as long as the view exists. A raw
            // region does not unmap it. Both views give out volatile accessors only.
            let mapping =
                unsafe { MmapRegion::build_raw(region.as_ptr(), region.size(), region.prot(), region.flags()) }
                    .map_err(io::Error::other)?;
            let start = GuestAddress(region.start_addr().0);
            let region = GuestRegionMmap::new(mapping, start)
                .ok_or_else(|| io::Error::other(format!("memory at {:#x} exceeds the address space", start.0)))?;
            regions.push(region);
        }
        let view = GuestMemoryMmap::from_regions(regions).map_err(io::Error::other)?;
        Ok(ServerMemory { view, memory })
    }

    /// What virtiofsd gets.
    pub(super) fn view(&self) -> &GuestMemoryMmap<BitmapMmapRegion> {
        &self.view
    }

    /// The memory itself, for the rings.
    pub fn guest(&self) -> &GuestMemory {
        &self.memory
    }
}
