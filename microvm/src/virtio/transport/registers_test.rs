use std::sync::Arc;

use super::*;
use crate::interrupts::MsiSink;
use crate::virtio::testing::guest_memory;

struct Nowhere;

impl MsiSink for Nowhere {
    fn send(&self, _address: u64, _data: u32) {}
}

struct Rig {
    registers: Registers,
    interrupts: Interrupts,
}

impl Rig {
    fn new() -> Rig {
        Rig {
            registers: Registers::new(1 << 5, &[8, 16]),
            interrupts: Interrupts::new(2, Arc::new(Nowhere)),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        self.registers.write(offset, data, &self.interrupts)
    }

    fn write_u16(&mut self, offset: u64, value: u16) {
        assert_eq!(self.write(offset, &value.to_le_bytes()), Effect::None);
    }

    fn write_u32(&mut self, offset: u64, value: u32) {
        assert_eq!(self.write(offset, &value.to_le_bytes()), Effect::None);
    }

    fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0xee; N];
        self.registers.read(offset, &mut data, &self.interrupts);
        data
    }

    fn read_u16(&self, offset: u64) -> u16 {
        u16::from_le_bytes(self.read(offset))
    }

    /// Up to FEATURES_OK.
    fn negotiate(&mut self) {
        self.write(field::STATUS, &[1]);
        self.write(field::STATUS, &[3]);
        self.write_u32(field::DRIVER_FEATURE_SELECT, 1);
        self.write_u32(field::DRIVER_FEATURE, 1);
        self.write(field::STATUS, &[11]);
    }

    fn set_up_queue(&mut self, index: u16, descriptors: u64) {
        self.write_u16(field::QUEUE_SELECT, index);
        self.write_u16(field::QUEUE_SIZE, 8);
        self.write_u32(field::QUEUE_DESCRIPTORS, descriptors as u32);
        self.write_u32(field::QUEUE_DESCRIPTORS + 4, (descriptors >> 32) as u32);
        self.write(field::QUEUE_DRIVER, &0x2000u64.to_le_bytes());
        self.write(field::QUEUE_DEVICE, &0x3000u64.to_le_bytes());
        self.write_u16(field::QUEUE_ENABLE, 1);
    }
}

#[test]
fn the_usual_order_activates_with_what_was_negotiated() {
    let mut rig = Rig::new();
    rig.negotiate();
    assert_eq!(rig.read::<1>(field::STATUS), [11]);
    rig.set_up_queue(1, 0x1000);
    assert_eq!(rig.write(field::STATUS, &[15]), Effect::Activate);
    assert!(rig.registers.is_active());
    assert_eq!(rig.registers.negotiated(), VERSION_1);
    let queues = rig.registers.build_queues(&guest_memory(1 << 20)).unwrap();
    assert!(queues[0].is_none());
    let queue = queues[1].as_ref().unwrap();
    assert_eq!(
        (queue.size(), queue.desc_table(), queue.used_ring()),
        (8, 0x1000, 0x3000)
    );
    assert_eq!(rig.write(field::STATUS, &[15]), Effect::None, "twice is once");
    assert_eq!(rig.write(field::STATUS, &[0]), Effect::Reset);
    rig.registers.reset();
    assert_eq!(rig.read::<1>(field::STATUS), [0]);
    assert_eq!(rig.read_u16(field::QUEUE_SIZE), 8);
}

#[test]
fn features_that_were_not_offered_or_a_legacy_driver_are_refused() {
    for (low, high) in [(1 << 6, 1), (0, 0), (0, 1 | 1 << 31)] {
        let mut rig = Rig::new();
        rig.write(field::STATUS, &[3]);
        rig.write_u32(field::DRIVER_FEATURE_SELECT, 0);
        rig.write_u32(field::DRIVER_FEATURE, low);
        rig.write_u32(field::DRIVER_FEATURE_SELECT, 1);
        rig.write_u32(field::DRIVER_FEATURE, high);
        rig.write(field::STATUS, &[11]);
        assert_eq!(rig.read::<1>(field::STATUS), [3]);
        assert_eq!(
            rig.write(field::STATUS, &[15]),
            Effect::None,
            "no DRIVER_OK without FEATURES_OK"
        );
        assert!(!rig.registers.is_active());
    }
}

#[test]
fn queues_cannot_be_changed_too_early_or_too_late() {
    let mut rig = Rig::new();
    rig.set_up_queue(0, 0x1000);
    assert_eq!(rig.read_u16(field::QUEUE_ENABLE), 0, "before the features are agreed");
    rig.negotiate();
    rig.set_up_queue(0, 0x1000);
    rig.write_u16(field::QUEUE_SIZE, 4);
    assert_eq!(rig.read_u16(field::QUEUE_SIZE), 8, "an enabled queue");
    rig.write(field::STATUS, &[15]);
    rig.set_up_queue(1, 0x1000);
    assert_eq!(rig.read_u16(field::QUEUE_ENABLE), 0, "after DRIVER_OK");
}

#[test]
fn nonsense_sizes_and_selectors_are_dropped() {
    let mut rig = Rig::new();
    rig.negotiate();
    for size in [0, 3, 16, 0x8000, 0xffff] {
        rig.write_u16(field::QUEUE_SIZE, size);
        assert_eq!(rig.read_u16(field::QUEUE_SIZE), 8);
    }
    rig.write_u16(field::QUEUE_SELECT, 77);
    assert_eq!(rig.read_u16(field::QUEUE_SIZE), 0);
    assert_eq!(rig.read_u16(field::QUEUE_VECTOR), 0xffff);
    rig.write_u16(field::QUEUE_ENABLE, 1);
    rig.write_u16(field::QUEUE_VECTOR, 0);
    rig.write_u32(field::DRIVER_FEATURE_SELECT, 9);
    rig.write_u32(field::DRIVER_FEATURE, 9);
    for offset in 0..0x40 {
        for width in 0..9 {
            rig.write(offset, &vec![0xff; width]);
            rig.registers.read(offset, &mut vec![0; width], &rig.interrupts);
        }
    }
}

#[test]
fn a_queue_outside_of_memory_or_misaligned_is_found() {
    for descriptors in [0x1008, 1 << 20, (1 << 20) - 64, !15] {
        let mut rig = Rig::new();
        rig.negotiate();
        rig.set_up_queue(0, descriptors);
        rig.write(field::STATUS, &[15]);
        assert_eq!(
            rig.registers.build_queues(&guest_memory(1 << 20)).map(drop),
            Err(0),
            "{descriptors:#x}"
        );
    }
}

#[test]
fn a_ring_may_end_where_memory_ends() {
    let mut rig = Rig::new();
    rig.negotiate();
    rig.set_up_queue(0, (1 << 20) - 16 * 8);
    assert!(rig.registers.build_queues(&guest_memory(1 << 20)).is_ok());
}

#[test]
fn a_vector_that_does_not_exist_reads_back_as_none() {
    let mut rig = Rig::new();
    rig.write_u16(field::CONFIG_VECTOR, 2);
    assert_eq!(rig.read_u16(field::CONFIG_VECTOR), 2);
    rig.write_u16(field::CONFIG_VECTOR, 3);
    assert_eq!(rig.read_u16(field::CONFIG_VECTOR), 0xffff);
}
