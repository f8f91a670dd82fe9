use std::sync::{Arc, Mutex};

use super::*;
use crate::interrupts::MsiSink;

#[derive(Default)]
struct Sent(Mutex<Vec<(u64, u32)>>);

impl MsiSink for Sent {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

impl Sent {
    fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn programmed() -> (Msix, Arc<Sent>) {
    let sent = Arc::new(Sent::default());
    let mut msix = Msix::new(3, sent.clone());
    let entry: Vec<u8> = [0xfee0_1000u32, 0, 0x41, 0]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    msix.write_table(16, &entry[..8]);
    msix.write_table(24, &entry[8..12]);
    msix.write_table(28, &entry[12..]);
    (msix, sent)
}

#[test]
fn an_open_vector_is_delivered_at_once() {
    let (mut msix, sent) = programmed();
    msix.set_control(CONTROL_ENABLE);
    msix.signal(1);
    assert_eq!(sent.take(), [(0xfee0_1000, 0x41)]);
    let mut entry = [0u8; 16];
    msix.read_table(16, &mut entry);
    assert_eq!(entry[..4], 0xfee0_1000u32.to_le_bytes());
}

#[test]
fn a_masked_vector_waits_for_its_unmasking_and_comes_once() {
    let (mut msix, sent) = programmed();
    msix.set_control(CONTROL_ENABLE | CONTROL_MASK_ALL);
    msix.signal(1);
    msix.signal(1);
    assert_eq!(sent.take(), []);
    let mut pending = [0u8; 8];
    msix.read_pending(0, &mut pending);
    assert_eq!(pending, [2, 0, 0, 0, 0, 0, 0, 0]);
    msix.set_control(CONTROL_ENABLE);
    assert_eq!(sent.take(), [(0xfee0_1000, 0x41)]);
    msix.write_table(28, &1u32.to_le_bytes());
    msix.signal(1);
    assert_eq!(sent.take(), []);
    msix.write_table(28, &0u32.to_le_bytes());
    assert_eq!(sent.take().len(), 1);
}

#[test]
fn accesses_outside_of_the_table_are_harmless() {
    let (mut msix, sent) = programmed();
    msix.set_control(CONTROL_ENABLE);
    msix.signal(3);
    msix.signal(u16::MAX);
    msix.write_table(48, &[0xff; 16]);
    msix.write_table(17, &[1, 2]);
    let mut data = [0xaa; 8];
    msix.read_table(4096, &mut data);
    assert_eq!(data, [0; 8]);
    msix.read_pending(1 << 60, &mut data);
    assert_eq!(data, [0; 8]);
    assert_eq!(sent.take(), []);
}
