//! How much memory the guest shall have, as the runtime counts it, and the device that tells the guest.

use std::sync::Arc;

use bulkhead_vmm_control::{MemoryState, VmSpec};

use super::MachineError;
use super::vm::{Vm, VmError};
use crate::memory::{GuestMemory, Layout};
use crate::virtio::device::VirtioDevice;
use crate::virtio::mem::{MemDevice, Memslots, Pool};

const MIB: u64 = 1 << 20;

/// A machine's memory as it grows and shrinks. The main thread owns it.
pub struct Growth {
    boot_mib: u32,
    max_mib: u32,
    /// `None`: it has its most from the start.
    pool: Option<Arc<Pool>>,
    /// The device is on the bus. No boot pays for it: it comes later, or when it is needed first.
    has_device: bool,
}

impl Growth {
    /// For a machine with this layout, as it was asked for.
    pub fn new(spec: &VmSpec, layout: &Layout, vm: &Arc<Vm>, memory: &GuestMemory) -> Result<Growth, MachineError> {
        let pool = match layout.hotplug() {
            None => None,
            Some(room) => {
                let slots = KvmSlots {
                    first: vm.take_slots(memory.chunks().len())?,
                    vm: vm.clone(),
                    memory: memory.clone(),
                };
                Some(Pool::new(room, memory.clone(), Box::new(slots)))
            }
        };
        Ok(Growth::with(spec, pool))
    }

    fn with(spec: &VmSpec, pool: Option<Pool>) -> Growth {
        Growth {
            boot_mib: spec.memory_mib,
            max_mib: spec.max_memory_mib,
            pool: pool.map(Arc::new),
            has_device: false,
        }
    }

    /// Tells the guest that it shall have `mib` in all. `plug` puts a device on the bus.
    pub fn resize<P>(&mut self, mib: u32, plug: P) -> Result<(), MachineError>
    where
        P: FnOnce(Box<dyn VirtioDevice>) -> Result<u8, MachineError>,
    {
        if mib > self.max_mib {
            return Err(MachineError::TooMuchMemory {
                wanted_mib: mib,
                max_mib: self.max_mib,
            });
        }
        let more = u64::from(mib.saturating_sub(self.boot_mib)) * MIB;
        if more > 0 {
            self.plug_device(plug)?;
        }
        if let Some(pool) = &self.pool {
            pool.request(more);
        }
        Ok(())
    }

    /// Puts the device on the bus, of a machine that can grow, when it is not there yet.
    pub fn plug_device<P>(&mut self, plug: P) -> Result<(), MachineError>
    where
        P: FnOnce(Box<dyn VirtioDevice>) -> Result<u8, MachineError>,
    {
        if let Some(pool) = self.pool.as_ref().filter(|_| !self.has_device) {
            plug(Box::new(MemDevice::new(pool.clone())))?;
            self.has_device = true;
        }
        Ok(())
    }

    /// What the guest has and shall have.
    pub fn state(&self) -> MemoryState {
        let in_mib = |bytes: u64| u32::try_from(bytes / MIB).unwrap_or(u32::MAX);
        let plugged = self.pool.as_ref().map_or(0, |pool| pool.plugged());
        let requested = self.pool.as_ref().map_or(0, |pool| pool.requested());
        MemoryState {
            boot_mib: self.boot_mib,
            plugged_mib: in_mib(plugged),
            requested_mib: self.boot_mib.saturating_add(in_mib(requested)),
            max_mib: self.max_mib,
        }
    }
}

/// Each chunk has a memory slot of its own.
struct KvmSlots {
    vm: Arc<Vm>,
    /// Lives as long as the slots can be changed, and the machine owns it until `vm` is gone.
    memory: GuestMemory,
    first: u32,
}

impl Memslots for KvmSlots {
    fn show(&self, chunk: usize) -> Result<(), VmError> {
        match self.memory.chunks().get(chunk) {
            Some(region) => self.vm.add_region(self.first + chunk as u32, region),
            None => Ok(()),
        }
    }

    fn hide(&self, chunk: usize) -> Result<(), VmError> {
        match self.memory.chunks().get(chunk) {
            Some(region) => self.vm.remove_region(self.first + chunk as u32, region),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "growth_test.rs"]
mod growth_test;
