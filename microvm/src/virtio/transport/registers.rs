//! The common configuration structure (virtio 1.2, 4.1.4.3) as a state machine without side effects.

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory as _};

use super::Interrupts;
use crate::virtio::device::GuestMemory;

/// Length of the structure, in bytes.
pub const LENGTH: usize = 0x38;

/// The transport's own feature.
pub const VERSION_1: u64 = 1 << 32;
/// Feature: used and available events instead of flags.
const RING_EVENT_IDX: u64 = 1 << 29;

/// Offsets of the fields.
mod field {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_VECTOR: u64 = 0x10;
    pub const STATUS: u64 = 0x14;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_DESCRIPTORS: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
    pub const END: u64 = 0x38;
}

/// Device status (virtio 1.2, 2.1).
mod status {
    pub const DRIVER_OK: u8 = 4;
    pub const FEATURES_OK: u8 = 8;
    pub const NEEDS_RESET: u8 = 0x40;
    /// ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK and FAILED.
    pub const DRIVER_BITS: u8 = 1 | 2 | DRIVER_OK | FEATURES_OK | 0x80;
}

/// What the owner has to do after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The driver wants a reset: stop the device, then call [`Registers::reset`].
    Reset,
    /// The driver is ready: start the device.
    Activate,
}

/// One queue as the driver describes it.
#[derive(Debug, Clone, Copy)]
struct QueueSetup {
    max_size: u16,
    size: u16,
    enabled: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
}

impl QueueSetup {
    fn new(max_size: u16) -> QueueSetup {
        QueueSetup {
            max_size,
            size: max_size,
            enabled: false,
            descriptors: 0,
            driver: 0,
            device: 0,
        }
    }

    /// The queue, if its rings lie in guest memory and are aligned.
    fn build(&self, memory: &GuestMemory, features: u64) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        queue.set_size(self.size);
        let halves = |value: u64| (Some(value as u32), Some((value >> 32) as u32));
        let (low, high) = halves(self.descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(self.driver);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(self.device);
        queue.set_used_ring_address(low, high);
        // A misaligned address was not taken over.
        let taken = [queue.desc_table(), queue.avail_ring(), queue.used_ring()];
        if taken != [self.descriptors, self.driver, self.device] || queue.size() != self.size {
            return None;
        }
        queue.set_event_idx(features & RING_EVENT_IDX != 0);
        queue.set_ready(true);
        // The sizes of the three rings (virtio 1.2, 2.7); `Queue::is_valid` would refuse rings that end where memory ends.
        let entries = usize::from(self.size);
        let rings = [
            (self.descriptors, 16 * entries),
            (self.driver, 6 + 2 * entries),
            (self.device, 6 + 8 * entries),
        ];
        let inside = |(start, length): (u64, usize)| memory.check_range(GuestAddress(start), length);
        rings.into_iter().all(inside).then_some(queue)
    }
}

/// The registers.
#[derive(Debug)]
pub struct Registers {
    device_features: u64,
    driver_features: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueSetup>,
}

impl Registers {
    /// For a device that offers `features`, with queues of these largest sizes.
    pub fn new(features: u64, queue_sizes: &[u16]) -> Registers {
        Registers {
            device_features: features | VERSION_1,
            driver_features: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            status: 0,
            queue_select: 0,
            queues: queue_sizes.iter().copied().map(QueueSetup::new).collect(),
        }
    }

    /// Back to the state before the driver's first write.
    pub fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
        *self = Registers::new(self.device_features, &sizes);
    }

    /// Features that both sides want.
    pub fn negotiated(&self) -> u64 {
        self.driver_features
    }

    /// The driver set DRIVER_OK and the device lives.
    pub fn is_active(&self) -> bool {
        self.status & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    /// The device cannot go on.
    pub fn set_needs_reset(&mut self) {
        self.status |= status::NEEDS_RESET;
    }

    /// The enabled queues, in order; `Err` holds the index of one that does not lie in guest memory.
    pub fn build_queues(&self, memory: &GuestMemory) -> Result<Vec<Option<Queue>>, usize> {
        let build = |(index, setup): (usize, &QueueSetup)| match setup.enabled {
            false => Ok(None),
            true => setup.build(memory, self.driver_features).map(Some).ok_or(index),
        };
        self.queues.iter().enumerate().map(build).collect()
    }

    /// Reads any part of the structure.
    pub fn read(&self, offset: u64, data: &mut [u8], interrupts: &Interrupts) {
        let image = self.image(interrupts);
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at)
                .ok()
                .and_then(|at| image.get(at))
                .copied()
                .unwrap_or(0);
        }
    }

    fn image(&self, interrupts: &Interrupts) -> [u8; LENGTH] {
        let queue = self.queues.get(usize::from(self.queue_select));
        let word = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        let fields: [&[u8]; 16] = [
            &self.device_feature_select.to_le_bytes(),
            &word(self.device_features, self.device_feature_select).to_le_bytes(),
            &self.driver_feature_select.to_le_bytes(),
            &word(self.driver_features, self.driver_feature_select).to_le_bytes(),
            &interrupts.config_vector().to_le_bytes(),
            &(self.queues.len() as u16).to_le_bytes(),
            &[self.status],
            &[interrupts.generation()],
            &self.queue_select.to_le_bytes(),
            &queue.map_or(0, |queue| queue.size).to_le_bytes(),
            &interrupts.queue_vector(self.queue_select).to_le_bytes(),
            &queue.map_or(0, |queue| u16::from(queue.enabled)).to_le_bytes(),
            // queue_notify_off: each queue's doorbell is at its own number.
            &self.queue_select.to_le_bytes(),
            &queue.map_or(0, |queue| queue.descriptors).to_le_bytes(),
            &queue.map_or(0, |queue| queue.driver).to_le_bytes(),
            &queue.map_or(0, |queue| queue.device).to_le_bytes(),
        ];
        let mut image = [0; LENGTH];
        for (byte, value) in image.iter_mut().zip(fields.into_iter().flatten()) {
            *byte = *value;
        }
        image
    }

    /// Performs a write of the driver's.
    pub fn write(&mut self, offset: u64, data: &[u8], interrupts: &Interrupts) -> Effect {
        use field::*;
        match (offset, data) {
            (STATUS, [value]) => return self.write_status(*value),
            (CONFIG_VECTOR, [a, b]) => interrupts.set_config_vector(u16::from_le_bytes([*a, *b])),
            (QUEUE_SELECT, [a, b]) => self.queue_select = u16::from_le_bytes([*a, *b]),
            (QUEUE_VECTOR, [a, b]) => interrupts.set_queue_vector(self.queue_select, u16::from_le_bytes([*a, *b])),
            (QUEUE_SIZE | QUEUE_ENABLE, [a, b]) => self.write_queue_u16(offset, u16::from_le_bytes([*a, *b])),
            (_, [a, b, c, d]) => self.write_u32(offset, u32::from_le_bytes([*a, *b, *c, *d])),
            (QUEUE_DESCRIPTORS | QUEUE_DRIVER | QUEUE_DEVICE, [a, b, c, d, e, f, g, h]) => {
                self.write_u32(offset, u32::from_le_bytes([*a, *b, *c, *d]));
                self.write_u32(offset + 4, u32::from_le_bytes([*e, *f, *g, *h]));
            }
            _ => {}
        }
        Effect::None
    }

    fn write_u32(&mut self, offset: u64, value: u32) {
        use field::*;
        match offset {
            DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            DRIVER_FEATURE if self.status & status::FEATURES_OK == 0 => match self.driver_feature_select {
                0 => set_half(&mut self.driver_features, false, value),
                1 => set_half(&mut self.driver_features, true, value),
                _ => {}
            },
            QUEUE_DESCRIPTORS..END => {
                let Some(queue) = self.writable_queue() else { return };
                let address = match offset & !7 {
                    QUEUE_DESCRIPTORS => &mut queue.descriptors,
                    QUEUE_DRIVER => &mut queue.driver,
                    _ => &mut queue.device,
                };
                match offset & 7 {
                    0 => set_half(address, false, value),
                    4 => set_half(address, true, value),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn write_queue_u16(&mut self, offset: u64, value: u16) {
        let Some(queue) = self.writable_queue() else { return };
        match offset {
            field::QUEUE_SIZE if value.is_power_of_two() && value <= queue.max_size => queue.size = value,
            field::QUEUE_ENABLE => queue.enabled = value == 1,
            _ => {}
        }
    }

    /// The selected queue, as long as it may be changed: features are agreed, the driver is not ready, it is not enabled.
    fn writable_queue(&mut self) -> Option<&mut QueueSetup> {
        let open = self.status & (status::FEATURES_OK | status::DRIVER_OK) == status::FEATURES_OK;
        self.queues
            .get_mut(usize::from(self.queue_select))
            .filter(|queue| open && !queue.enabled)
    }

    fn write_status(&mut self, value: u8) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        let mut added = value & status::DRIVER_BITS & !self.status;
        if added & status::FEATURES_OK != 0 && !self.features_are_acceptable() {
            added &= !status::FEATURES_OK;
        }
        if (self.status | added) & status::FEATURES_OK == 0 {
            added &= !status::DRIVER_OK;
        }
        // The driver must not clear single bits; they stay.
        self.status |= added;
        if added & status::DRIVER_OK != 0 && self.is_active() {
            Effect::Activate
        } else {
            Effect::None
        }
    }

    fn features_are_acceptable(&self) -> bool {
        self.driver_features & !self.device_features == 0 && self.driver_features & VERSION_1 != 0
    }
}

fn set_half(value: &mut u64, high: bool, half: u32) {
    let half = u64::from(half);
    *value = if high {
        *value & 0xffff_ffff | half << 32
    } else {
        *value & !0xffff_ffff | half
    };
}

#[cfg(test)]
#[path = "registers_test.rs"]
mod registers_test;
