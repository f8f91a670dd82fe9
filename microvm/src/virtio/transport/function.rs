//! A virtio device as a PCI function: capabilities, the layout of BAR 0, activation and reset.

use std::sync::Arc;

use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::interrupts::Interrupts;
use super::registers::{self, Effect, Registers};
use crate::complaints::Complaints;
use crate::interrupts::SharedMsiSink;
use crate::machine::vm::{Vm, VmError};
use crate::memory::layout::PCI_BARS;
use crate::pci::{BAR_0, BusError, ConfigSpace, Identity, PciFunction, msix};
use crate::virtio::device::{Activation, ActiveQueue, GuestMemory, VirtioDevice};

/// PCI ids of modern virtio devices (virtio 1.2, 4.1.2).
const VENDOR: u16 = 0x1af4;
const DEVICE_BASE: u16 = 0x1040;
const REVISION: u8 = 1;

const TYPE_BLOCK: u32 = 2;
const CLASS_STORAGE: [u8; 3] = [0x00, 0x80, 0x01];
const CLASS_UNASSIGNED: [u8; 3] = [0x00, 0x00, 0xff];

/// Layout of BAR 0, in bytes.
mod bar {
    pub const SIZE: u32 = 0x4000;
    pub const COMMON: u64 = 0x0000;
    pub const COMMON_END: u64 = COMMON + super::registers::LENGTH as u64;
    pub const ISR: u64 = 0x0100;
    pub const DEVICE: u64 = 0x0200;
    pub const DEVICE_END: u64 = 0x1000;
    pub const MSIX_TABLE: u64 = 0x1000;
    pub const MSIX_TABLE_END: u64 = 0x1800;
    pub const MSIX_PENDING: u64 = 0x1800;
    pub const MSIX_PENDING_END: u64 = 0x2000;
    pub const NOTIFY: u64 = 0x2000;
    pub const NOTIFY_END: u64 = 0x3000;
    /// Distance of two queues' doorbells.
    pub const NOTIFY_STEP: u64 = 4;
}

/// Most queues of a device: what the vector table has room for, less the config vector.
const MAX_QUEUES: usize = ((bar::MSIX_TABLE_END - bar::MSIX_TABLE) / msix::ENTRY_BYTES) as usize - 1;

/// Virtio structure PCI capabilities (virtio 1.2, 4.1.4).
mod capability {
    pub const VENDOR_SPECIFIC: u8 = 0x09;
    pub const COMMON: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const ISR: u8 = 3;
    pub const DEVICE: u8 = 4;
    pub const PCI_ACCESS: u8 = 5;
    /// Offsets in the PCI access capability.
    pub const ACCESS_BAR: usize = 4;
    pub const ACCESS_OFFSET: usize = 8;
    pub const ACCESS_LENGTH: usize = 12;
    pub const ACCESS_DATA: usize = 16;
    pub const ACCESS_END: usize = 20;
}

/// Where doorbells are registered: KVM, or a test.
pub trait Doorbells: Send + Sync {
    /// From now on a guest write to `address` makes `event` readable.
    fn add(&self, event: &EventFd, address: u64) -> Result<(), VmError>;
    /// Undoes `add`.
    fn remove(&self, event: &EventFd, address: u64) -> Result<(), VmError>;
}

impl Doorbells for Vm {
    fn add(&self, event: &EventFd, address: u64) -> Result<(), VmError> {
        self.add_doorbell(event, address)
    }

    fn remove(&self, event: &EventFd, address: u64) -> Result<(), VmError> {
        self.remove_doorbell(event, address)
    }
}

/// Why a device cannot be put on the bus.
#[derive(Debug, Error)]
pub enum TransportError {
    /// No slot.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Too many queues, or no event for one.
    #[error("cannot make the queues of virtio device type {kind}: {reason}")]
    Queues {
        /// Virtio device type.
        kind: u32,
        /// What went wrong.
        reason: String,
    },
}

/// A device behind the transport.
pub struct VirtioFunction {
    config: ConfigSpace,
    msix_capability: usize,
    access_capability: usize,
    registers: Registers,
    device: Box<dyn VirtioDevice>,
    interrupts: Arc<Interrupts>,
    memory: GuestMemory,
    doorbells: Arc<dyn Doorbells>,
    /// One event for each queue; the device gets a duplicate.
    kicks: Vec<EventFd>,
    /// Where the doorbells of the active device are registered: the address of BAR 0.
    registered_at: Option<u64>,
    complaints: Complaints,
}

impl VirtioFunction {
    /// Puts `device` behind a transport for slot `slot`.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        slot: u8,
        memory: GuestMemory,
        doorbells: Arc<dyn Doorbells>,
        sink: SharedMsiSink,
    ) -> Result<VirtioFunction, TransportError> {
        let kind = device.device_type();
        let failed = |reason: String| TransportError::Queues { kind, reason };
        let sizes = device.queue_sizes();
        if sizes.len() > MAX_QUEUES {
            return Err(failed(format!(
                "{} queues, at most {MAX_QUEUES} are possible",
                sizes.len()
            )));
        }
        let kicks: Result<Vec<EventFd>, _> = sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK)).collect();
        let kicks = kicks.map_err(|error| failed(error.to_string()))?;
        let interrupts = Arc::new(Interrupts::new(sizes.len(), sink));
        let address = PCI_BARS as u32 + u32::from(slot) * bar::SIZE;
        let mut config = ConfigSpace::new(identity(kind), address, bar::SIZE);
        let (msix_capability, access_capability) = add_capabilities(&mut config, sizes.len())
            .ok_or_else(|| failed("the capabilities do not fit into the configuration space".to_owned()))?;
        let registers = Registers::new(device.features(), sizes);
        Ok(VirtioFunction {
            config,
            msix_capability,
            access_capability,
            registers,
            device,
            interrupts,
            memory,
            doorbells,
            kicks,
            registered_at: None,
            complaints: Complaints::default(),
        })
    }

    fn activate(&mut self) {
        if let Err(reason) = self.try_activate() {
            if self.complaints.one_more() {
                tracing::warn!("virtio device type {}: {reason}", self.device.device_type());
            }
            self.registers.set_needs_reset();
            use crate::virtio::device::Interrupt;
            self.interrupts.signal_config();
        }
    }

    fn try_activate(&mut self) -> Result<(), String> {
        let queues = self
            .registers
            .build_queues(&self.memory)
            .map_err(|index| format!("queue {index} does not lie in guest memory"))?;
        let mut active = Vec::new();
        for (queue, kick) in queues.into_iter().zip(&self.kicks) {
            active.push(match queue {
                None => None,
                Some(queue) => Some(ActiveQueue {
                    queue,
                    kick: kick.try_clone().map_err(|error| error.to_string())?,
                }),
            });
        }
        self.place_doorbells();
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.registers.negotiated(),
            queues: active,
            interrupt: self.interrupts.clone(),
        };
        self.device.activate(activation).map_err(|error| error.to_string())
    }

    fn reset(&mut self) {
        self.device.reset();
        self.registers.reset();
        self.interrupts.reset();
        self.place_doorbells();
    }

    /// Moves the doorbells to where BAR 0 is now: nowhere, unless the device is active and memory decoding is on.
    /// A doorbell that cannot be registered still works, through an exit.
    fn place_doorbells(&mut self) {
        let wanted = self
            .config
            .bar()
            .map(|(base, _)| base)
            .filter(|_| self.registers.is_active());
        if wanted == self.registered_at {
            return;
        }
        let address = |base: u64, index: usize| base + bar::NOTIFY + index as u64 * bar::NOTIFY_STEP;
        for (index, kick) in self.kicks.iter().enumerate() {
            let removed = self
                .registered_at
                .map(|base| self.doorbells.remove(kick, address(base, index)));
            let added = wanted.map(|base| self.doorbells.add(kick, address(base, index)));
            for error in [removed, added].into_iter().flatten().filter_map(Result::err) {
                tracing::debug!(
                    "queue {index} of virtio device type {}: {error}",
                    self.device.device_type()
                );
            }
        }
        self.registered_at = wanted;
    }

    /// What the PCI access capability points at: offset in BAR 0 and length.
    fn access_window(&self) -> Option<(u64, usize)> {
        let at = self.access_capability;
        let offset = u64::from(self.config.read_u32(at + capability::ACCESS_OFFSET));
        let length = self.config.read_u32(at + capability::ACCESS_LENGTH);
        let bar = self.config.read_u16(at + capability::ACCESS_BAR) as u8;
        let valid = bar == 0
            && matches!(length, 1 | 2 | 4)
            && offset.is_multiple_of(length.into())
            && offset < u64::from(bar::SIZE);
        valid.then_some((offset, length as usize))
    }

    /// Serves the PCI access capability (virtio 1.2, 4.1.4.9). Reads of its data do not exit, so the data is fetched when the
    /// window is moved; firmware, which this is for, moves it for every access.
    fn serve_access(&mut self, wrote_data: bool) {
        let Some((offset, length)) = self.access_window() else {
            return;
        };
        let at = self.access_capability + capability::ACCESS_DATA;
        let mut data = [0u8; 4];
        let Some(part) = data.get_mut(..length) else { return };
        if wrote_data {
            self.config.read(at, part);
            self.write_bar(offset, part);
        } else {
            self.read_bar(offset, part);
            self.config.set(at, part);
        }
    }
}

impl PciFunction for VirtioFunction {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        let touches = |start: usize, end: usize| offset < end && offset.saturating_add(data.len()) > start;
        if touches(0, BAR_0 + 4) {
            self.place_doorbells();
        }
        let control = self.msix_capability + msix::CONTROL_OFFSET;
        if touches(control, control + 2) {
            let control = self.config.read_u16(control);
            self.interrupts.msix().set_control(control);
        }
        let access = self.access_capability;
        let data_start = access + capability::ACCESS_DATA;
        if touches(access, access + capability::ACCESS_END) {
            self.serve_access(touches(data_start, data_start + 4));
        }
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            bar::COMMON..bar::COMMON_END => self.registers.read(offset - bar::COMMON, data, &self.interrupts),
            bar::ISR => data
                .iter_mut()
                .take(1)
                .for_each(|byte| *byte = self.interrupts.take_isr()),
            bar::DEVICE..bar::DEVICE_END => self.device.read_config(offset - bar::DEVICE, data),
            bar::MSIX_TABLE..bar::MSIX_TABLE_END => self.interrupts.msix().read_table(offset - bar::MSIX_TABLE, data),
            bar::MSIX_PENDING..bar::MSIX_PENDING_END => {
                self.interrupts.msix().read_pending(offset - bar::MSIX_PENDING, data);
            }
            _ => {}
        }
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        match offset {
            bar::COMMON..bar::COMMON_END => match self.registers.write(offset - bar::COMMON, data, &self.interrupts) {
                Effect::None => {}
                Effect::Reset => self.reset(),
                Effect::Activate => self.activate(),
            },
            bar::DEVICE..bar::DEVICE_END => self.device.write_config(offset - bar::DEVICE, data),
            bar::MSIX_TABLE..bar::MSIX_TABLE_END => {
                self.interrupts.msix().write_table(offset - bar::MSIX_TABLE, data);
            }
            // Reached only while no doorbell is registered.
            bar::NOTIFY..bar::NOTIFY_END if self.registers.is_active() => {
                if let Some(kick) = self.kicks.get(((offset - bar::NOTIFY) / bar::NOTIFY_STEP) as usize) {
                    // A full counter means that the kick is seen anyway.
                    let _ = kick.write(1);
                }
            }
            _ => {}
        }
    }

    fn shut_down(&mut self) {
        self.reset();
    }
}

fn identity(kind: u32) -> Identity {
    Identity {
        vendor: VENDOR,
        device: DEVICE_BASE + kind as u16,
        revision: REVISION,
        class: if kind == TYPE_BLOCK {
            CLASS_STORAGE
        } else {
            CLASS_UNASSIGNED
        },
        subsystem: DEVICE_BASE + kind as u16,
    }
}

/// Adds MSI-X and the five virtio capabilities; returns where MSI-X and the PCI access capability are.
fn add_capabilities(config: &mut ConfigSpace, queues: usize) -> Option<(usize, usize)> {
    let table_size = queues as u16; // one less than the number of vectors
    let body = [
        &table_size.to_le_bytes()[..],
        &(bar::MSIX_TABLE as u32).to_le_bytes(),
        &(bar::MSIX_PENDING as u32).to_le_bytes(),
    ]
    .concat();
    let msix = config.add_capability(msix::CAPABILITY, &body, &msix::CONTROL_WRITABLE.to_le_bytes())?;
    let mut add = |kind: u8, start: u64, end: u64, extra: &[u8], writable: &[u8]| {
        let length = 16 + extra.len() as u8;
        let body = [
            &[length, kind, 0, 0, 0, 0][..],
            &(start as u32).to_le_bytes(),
            &((end - start) as u32).to_le_bytes(),
            extra,
        ]
        .concat();
        config.add_capability(capability::VENDOR_SPECIFIC, &body, writable)
    };
    add(capability::COMMON, bar::COMMON, bar::COMMON_END, &[], &[])?;
    add(
        capability::NOTIFY,
        bar::NOTIFY,
        bar::NOTIFY_END,
        &(bar::NOTIFY_STEP as u32).to_le_bytes(),
        &[],
    )?;
    add(capability::ISR, bar::ISR, bar::ISR + 1, &[], &[])?;
    add(capability::DEVICE, bar::DEVICE, bar::DEVICE_END, &[], &[])?;
    // After length and type the guest writes: bar, nothing, offset, length, data.
    let mut writable = [0xff; capability::ACCESS_END - 2];
    for (at, mask) in writable.iter_mut().enumerate() {
        *mask = if matches!(at, 0 | 1 | 3..=5) { 0 } else { 0xff };
    }
    let access = add(capability::PCI_ACCESS, 0, 0, &[0; 4], &writable)?;
    Some((msix, access))
}

#[cfg(test)]
#[path = "function_test.rs"]
mod function_test;
