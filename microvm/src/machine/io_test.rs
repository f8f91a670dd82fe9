use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::interrupts::Line;
use crate::memory::read_only::PublishedPages;
use crate::serial::{ConsoleRing, ConsoleWriter};

fn io(ring: &ConsoleRing) -> Io {
    let line = Line::new(EventFd::new(0).unwrap());
    let serial = SerialPort::new(line, ConsoleWriter::new(ring.clone(), None));
    let ecam = PublishedPages::new(PCI_ECAM_SIZE as usize).unwrap();
    Io::new(serial, Arc::new(PciBus::new(ecam)))
}

#[test]
fn only_the_power_off_state_with_the_enable_bit_powers_off() {
    let io = io(&ConsoleRing::new());
    assert_eq!(io.port_write(SLEEP_CONTROL_PORT, &[5 << 2]), None);
    assert_eq!(io.port_write(SLEEP_CONTROL_PORT, &[3 << 2 | 1 << 5]), None);
    assert_eq!(
        io.port_write(SLEEP_CONTROL_PORT, &[5 << 2 | 1 << 5]),
        Some(PowerEvent::Off)
    );
    assert_eq!(io.port_write(RESET_PORT, &[0]), None);
    assert_eq!(io.port_write(RESET_PORT, &[1]), Some(PowerEvent::Reset));
    assert_eq!(io.port_write(0x64, &[0xfe]), Some(PowerEvent::Reset));
    assert_eq!(io.port_write(SLEEP_CONTROL_PORT, &[]), None);
}

#[test]
fn text_written_to_the_serial_port_is_kept() {
    let ring = ConsoleRing::new();
    let io = io(&ring);
    io.port_write(SERIAL_PORT, b"hello");
    assert_eq!(ring.last(100), "hello");
    let mut status = [0u8];
    io.port_read(SERIAL_PORT + 5, &mut status);
    assert_eq!(status, [0x60], "transmitter empty");
}

#[test]
fn nobody_answers_with_all_bits_set() {
    let io = io(&ConsoleRing::new());
    let mut data = [0u8; 4];
    io.port_read(0xcf8, &mut data);
    assert_eq!(data, [0xff; 4]);
    io.memory_read(PCI_BARS + 0x1000, &mut data);
    assert_eq!(data, [0xff; 4]);
    io.memory_read(0xd_0000_0000, &mut data);
    assert_eq!(data, [0xff; 4]);
}
