use std::sync::Mutex;

use super::*;
use crate::interrupts::MsiSink;
use crate::virtio::device::ActivateError;
use crate::virtio::testing::guest_memory;

/// What happened, in order.
#[derive(Default)]
struct Journal(Mutex<Vec<String>>);

impl Journal {
    fn add(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl MsiSink for Journal {
    fn send(&self, address: u64, data: u32) {
        self.add(format!("msi {address:#x} {data:#x}"));
    }
}

impl Doorbells for Journal {
    fn add(&self, _event: &EventFd, address: u64) -> Result<(), VmError> {
        self.add(format!("doorbell {address:#x}"));
        Ok(())
    }

    fn remove(&self, _event: &EventFd, address: u64) -> Result<(), VmError> {
        self.add(format!("no doorbell {address:#x}"));
        Ok(())
    }
}

struct Fake {
    journal: Arc<Journal>,
    fails: bool,
    kick: Arc<Mutex<Option<EventFd>>>,
}

impl VirtioDevice for Fake {
    fn device_type(&self) -> u32 {
        TYPE_BLOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if self.fails {
            return Err(ActivateError {
                device: "fake",
                reason: "because".to_owned(),
            });
        }
        self.journal.add("active".to_owned());
        *self.kick.lock().unwrap() = activation.queues.into_iter().next().flatten().map(|queue| queue.kick);
        activation.interrupt.signal_queue(0);
        Ok(())
    }

    fn reset(&mut self) {
        self.journal.add("reset".to_owned());
    }
}

struct Rig {
    function: VirtioFunction,
    journal: Arc<Journal>,
    kick: Arc<Mutex<Option<EventFd>>>,
}

const BASE: u64 = PCI_BARS + 3 * bar::SIZE as u64;
const STATUS: u64 = 0x14;

fn rig(fails: bool) -> Rig {
    let journal = Arc::new(Journal::default());
    let kick = Arc::new(Mutex::new(None));
    let device = Fake {
        journal: journal.clone(),
        fails,
        kick: kick.clone(),
    };
    let function = VirtioFunction::new(
        Box::new(device),
        3,
        guest_memory(1 << 20),
        journal.clone(),
        journal.clone(),
    )
    .unwrap();
    Rig {
        function,
        journal,
        kick,
    }
}

impl Rig {
    fn read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0xee; N];
        self.function.read_bar(offset, &mut data);
        data
    }

    /// Does what a driver does up to FEATURES_OK, with vector 0 for queue 0.
    fn prepare(&mut self) {
        self.function.write_config(4, &[6, 4]);
        self.function.write_bar(bar::MSIX_TABLE, &0xfee0_0000u32.to_le_bytes());
        self.function.write_bar(bar::MSIX_TABLE + 8, &0x31u32.to_le_bytes());
        self.function.write_bar(bar::MSIX_TABLE + 12, &0u32.to_le_bytes());
        let control = self.function.msix_capability + msix::CONTROL_OFFSET;
        self.function.write_config(control, &[1, 0x80]);
        for status in [1u8, 3] {
            self.function.write_bar(STATUS, &[status]);
        }
        self.function.write_bar(0x08, &1u32.to_le_bytes());
        self.function.write_bar(0x0c, &1u32.to_le_bytes());
        self.function.write_bar(STATUS, &[11]);
        self.function.write_bar(0x1a, &0u16.to_le_bytes());
    }

    fn enable_queue(&mut self, descriptors: u64) {
        self.function.write_bar(0x20, &descriptors.to_le_bytes());
        self.function.write_bar(0x28, &0x2000u64.to_le_bytes());
        self.function.write_bar(0x30, &0x3000u64.to_le_bytes());
        self.function.write_bar(0x1c, &1u16.to_le_bytes());
    }
}

#[test]
fn a_driver_that_is_ready_gets_doorbells_and_interrupts() {
    let mut rig = rig(false);
    rig.prepare();
    rig.enable_queue(0x1000);
    rig.function.write_bar(STATUS, &[15]);
    let doorbell = format!("doorbell {:#x}", BASE + bar::NOTIFY);
    assert_eq!(
        rig.journal.take(),
        [doorbell, "active".to_owned(), "msi 0xfee00000 0x31".to_owned()]
    );
    rig.function.write_bar(STATUS, &[0]);
    assert_eq!(
        rig.journal.take(),
        ["reset".to_owned(), format!("no doorbell {:#x}", BASE + bar::NOTIFY)]
    );
    assert_eq!(rig.read::<1>(STATUS), [0]);
}

#[test]
fn a_kick_that_exits_reaches_the_device() {
    let mut rig = rig(false);
    rig.prepare();
    rig.enable_queue(0x1000);
    rig.function.write_bar(bar::NOTIFY, &[0, 0]);
    rig.function.write_bar(STATUS, &[15]);
    let kick = rig.kick.lock().unwrap().take().unwrap();
    assert!(kick.read().is_err(), "a kick before the device is ready is dropped");
    rig.function.write_bar(bar::NOTIFY, &[0, 0]);
    assert_eq!(kick.read().unwrap(), 1);
    rig.function.write_bar(bar::NOTIFY + 4, &[1, 0]);
    assert!(kick.read().is_err());
}

#[test]
fn doorbells_follow_the_bar() {
    let mut rig = rig(false);
    rig.prepare();
    rig.enable_queue(0x1000);
    rig.function.write_bar(STATUS, &[15]);
    rig.journal.take();
    rig.function.write_config(BAR_0, &0xd800_0000u32.to_le_bytes());
    assert_eq!(
        rig.journal.take(),
        [
            format!("no doorbell {:#x}", BASE + bar::NOTIFY),
            "doorbell 0xd8002000".to_owned()
        ]
    );
    rig.function.write_config(4, &[0]);
    assert_eq!(rig.journal.take(), ["no doorbell 0xd8002000"]);
}

#[test]
fn a_device_that_cannot_start_needs_a_reset() {
    for (fails, descriptors) in [(true, 0x1000), (false, 1 << 40)] {
        let mut rig = rig(fails);
        rig.prepare();
        rig.enable_queue(descriptors);
        rig.function.write_bar(STATUS, &[15]);
        assert_eq!(rig.read::<1>(STATUS), [15 | 0x40]);
        rig.function.write_bar(STATUS, &[0]);
        assert_eq!(rig.read::<1>(STATUS), [0]);
    }
}

#[test]
fn firmware_reaches_the_registers_through_configuration_space() {
    let mut rig = rig(false);
    let at = rig.function.access_capability;
    rig.function.write_config(at + 12, &1u32.to_le_bytes());
    rig.function.write_config(at + 8, &(STATUS as u32).to_le_bytes());
    rig.function.write_config(at + 16, &[1]);
    assert_eq!(rig.read::<1>(STATUS), [1]);
    rig.function.write_config(at + 8, &0x12u32.to_le_bytes());
    assert_eq!(rig.function.config().bytes()[at + 16], 1, "one queue");
    for (offset, length) in [(0u32, 3u32), (1, 2), (0xffff_fff0, 4), (0x4000, 4), (0, 0)] {
        rig.function.write_config(at + 12, &length.to_le_bytes());
        rig.function.write_config(at + 8, &offset.to_le_bytes());
        rig.function.write_config(at + 16, &[0xff; 4]);
    }
}

#[test]
fn the_capabilities_describe_the_layout() {
    let rig = rig(false);
    let bytes = rig.function.config().bytes();
    let mut at = usize::from(bytes[0x34]);
    let mut kinds = Vec::new();
    while at != 0 {
        if bytes[at] == capability::VENDOR_SPECIFIC {
            assert_eq!(bytes[at + 4], 0, "BAR 0");
            kinds.push(bytes[at + 3]);
        }
        at = usize::from(bytes[at + 1]);
    }
    assert_eq!(kinds, [1, 2, 3, 4, 5]);
    assert_eq!(bytes[..4], [0xf4, 0x1a, 0x42, 0x10]);
}

#[test]
fn every_offset_and_width_is_harmless() {
    let mut rig = rig(false);
    for width in [1usize, 2, 3, 4, 8] {
        for offset in (0..u64::from(bar::SIZE)).step_by(3) {
            rig.function.read_bar(offset, &mut vec![0; width]);
            rig.function.write_bar(offset, &vec![0xff; width]);
        }
        for offset in 0..4096 {
            rig.function.write_config(offset, &vec![0xff; width]);
        }
    }
}
