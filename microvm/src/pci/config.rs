//! The first 256 bytes of a function's configuration space (PCI Local Bus 3.0, 6.1), with a mask of what the guest may write.

const VENDOR: usize = 0x00;
const DEVICE: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
/// Base address register 0.
pub const BAR_0: usize = 0x10;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const SUBSYSTEM: usize = 0x2e;
const CAPABILITY_POINTER: usize = 0x34;
const FIRST_CAPABILITY: usize = 0x40;
const SIZE: usize = 256;

const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_NO_INTX: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// What a function is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Vendor id, also of the subsystem.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Programming interface, subclass, base class.
    pub class: [u8; 3],
    /// Subsystem id.
    pub subsystem: u16,
}

/// Registers of one function.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    bar_size: u32,
    last_capability: usize,
    next_capability: usize,
}

impl ConfigSpace {
    /// A function with one 32-bit memory BAR of `bar_size` bytes (a power of two) at `bar_address`.
    pub fn new(identity: Identity, bar_address: u32, bar_size: u32) -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            bar_size,
            last_capability: CAPABILITY_POINTER,
            next_capability: FIRST_CAPABILITY,
        };
        space.set(VENDOR, &identity.vendor.to_le_bytes());
        space.set(DEVICE, &identity.device.to_le_bytes());
        space.set(REVISION, &[identity.revision]);
        space.set(CLASS, &identity.class);
        space.set(SUBSYSTEM_VENDOR, &identity.vendor.to_le_bytes());
        space.set(SUBSYSTEM, &identity.subsystem.to_le_bytes());
        space.set(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        space.set(BAR_0, &bar_address.to_le_bytes());
        space.allow(
            COMMAND,
            &(COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_NO_INTX).to_le_bytes(),
        );
        // A write of all ones reads back as the size: the low bits never change.
        space.allow(BAR_0, &(!(bar_size.wrapping_sub(1))).to_le_bytes());
        space
    }

    /// Adds a capability: `body` follows id and next pointer, of `writable` the guest may change the set bits (missing: none).
    /// Returns its offset, or `None` when it does not fit.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<usize> {
        let at = self.next_capability;
        let end = at.checked_add(2 + body.len())?;
        if end > SIZE {
            return None;
        }
        let link = if self.last_capability == CAPABILITY_POINTER {
            CAPABILITY_POINTER
        } else {
            self.last_capability + 1
        };
        self.set(link, &[at as u8]);
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.allow(at + 2, writable);
        self.last_capability = at;
        self.next_capability = end.next_multiple_of(4);
        Some(at)
    }

    /// All registers.
    pub fn bytes(&self) -> &[u8; SIZE] {
        &self.bytes
    }

    /// `data.len()` registers from `offset` on; beyond the end they read as zero.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// One 16-bit register.
    pub fn read_u16(&self, offset: usize) -> u16 {
        let mut value = [0; 2];
        self.read(offset, &mut value);
        u16::from_le_bytes(value)
    }

    /// One 32-bit register.
    pub fn read_u32(&self, offset: usize) -> u32 {
        let mut value = [0; 4];
        self.read(offset, &mut value);
        u32::from_le_bytes(value)
    }

    /// A write of the guest's: only writable bits change.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, new) in (offset..).zip(data) {
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | new & mask;
            }
        }
    }

    /// A change of our own.
    pub fn set(&mut self, offset: usize, data: &[u8]) {
        for (at, new) in (offset..).zip(data) {
            if let Some(byte) = self.bytes.get_mut(at) {
                *byte = *new;
            }
        }
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (at, bits) in (offset..).zip(mask) {
            if let Some(byte) = self.writable.get_mut(at) {
                *byte = *bits;
            }
        }
    }

    /// Where BAR 0 answers: address and size, unless the guest switched it off.
    pub fn bar(&self) -> Option<(u64, u64)> {
        let enabled = self.read_u16(COMMAND) & COMMAND_MEMORY != 0;
        enabled.then(|| (self.read_u32(BAR_0).into(), self.bar_size.into()))
    }
}

#[cfg(test)]
#[path = "config_test.rs"]
mod config_test;
