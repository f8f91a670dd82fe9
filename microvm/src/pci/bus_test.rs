use vm_memory::{Bytes, VolatileSlice};

use super::*;
use crate::pci::{BAR_0, ConfigSpace, Identity};

const IDENTITY: Identity = Identity {
    vendor: 0x1af4,
    device: 0x1042,
    revision: 1,
    class: [0, 0x80, 0x01],
    subsystem: 0x1042,
};

struct Fake {
    config: ConfigSpace,
    memory: [u8; 4096],
    ended: Arc<Mutex<bool>>,
}

impl PciFunction for Fake {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        let offset = offset as usize;
        data.copy_from_slice(&self.memory[offset..offset + data.len()]);
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        let offset = offset as usize;
        self.memory[offset..offset + data.len()].copy_from_slice(data);
    }

    fn shut_down(&mut self) {
        *self.ended.lock().unwrap() = true;
    }
}

fn bus() -> PciBus {
    PciBus::new(PublishedPages::new(1 << 20).unwrap())
}

fn add(bus: &PciBus) -> (u8, Arc<Mutex<bool>>) {
    let ended = Arc::new(Mutex::new(false));
    let flag = ended.clone();
    let slot = bus.add(|slot| {
        let config = ConfigSpace::new(IDENTITY, 0xd000_0000 + 0x1000 * u32::from(slot), 0x1000);
        Ok::<_, BusError>(Fake {
            config,
            memory: [0; 4096],
            ended: flag,
        })
    });
    (slot.unwrap(), ended)
}

/// What the guest reads without an exit.
fn published(bus: &PciBus, at: usize) -> u32 {
    let pages = bus.ecam().pages();
    // SAFETY: the pages live as long as the bus, and the slice does not outlive this function.
    #[allow(unsafe_code)]
    let slice = unsafe { VolatileSlice::new(pages.host_address() as *mut u8, pages.len()) };
    slice.read_obj(at).unwrap()
}

#[test]
fn a_function_is_seen_in_the_pages_and_gone_when_removed() {
    let bus = bus();
    let (slot, ended) = add(&bus);
    assert_eq!(slot, 1);
    assert_eq!(published(&bus, 0x8000), 0x1042_1af4);
    assert_eq!(published(&bus, 0x1_0000), 0, "the next slot is empty");
    assert!(bus.remove(1));
    assert_eq!(published(&bus, 0x8000), 0);
    assert!(*ended.lock().unwrap());
    assert!(!bus.remove(1));
    assert_eq!(add(&bus).0, 1, "the slot is free again");
}

#[test]
fn a_write_to_configuration_space_is_published() {
    let bus = bus();
    add(&bus);
    bus.write_config(0x8000 + BAR_0 as u64, &[0xff; 4]);
    assert_eq!(published(&bus, 0x8000 + BAR_0), 0xffff_f000);
    bus.write_config(0x9000 + BAR_0 as u64, &[0; 4]);
    assert_eq!(
        published(&bus, 0x8000 + BAR_0),
        0xffff_f000,
        "another function of the slot is not there"
    );
}

#[test]
fn a_bar_is_found_where_the_guest_moved_it() {
    let bus = bus();
    add(&bus);
    let mut data = [0xee; 4];
    bus.read_memory(0xd000_1004, &mut data);
    assert_eq!(data, [0xee; 4], "memory is not enabled yet");
    bus.write_config(0x8004, &[2, 0]);
    bus.write_memory(0xd000_1004, &[1, 2, 3, 4]);
    bus.write_config(0x8000 + BAR_0 as u64, &0xd005_0000u32.to_le_bytes());
    bus.read_memory(0xd005_0004, &mut data);
    assert_eq!(data, [1, 2, 3, 4]);
}

#[test]
fn a_full_bus_refuses() {
    let bus = bus();
    for _ in 1..SLOTS {
        add(&bus);
    }
    let full = bus.add(|_| Err::<Fake, _>(BusError::Full));
    assert_eq!(full, Err(BusError::Full));
    bus.shut_down();
    assert_eq!(add(&bus).0, 1);
}
