//! Where a guest's port and memory accesses go.

use std::sync::{Arc, Mutex};

use crate::boot::acpi::{RESET_VALUE, SLEEP_TYPE_OFF};
use crate::memory::layout::{
    PCI_BARS, PCI_BARS_SIZE, PCI_ECAM, PCI_ECAM_SIZE, RESET_PORT, SERIAL_PORT, SLEEP_CONTROL_PORT,
};
use crate::pci::PciBus;
use crate::serial::SerialPort;
use crate::sync::lock;

const SERIAL_END: u16 = SERIAL_PORT + 7;

/// ACPI sleep control register: SLP_EN, and where SLP_TYP lies (ACPI 6.5, 4.8.3.7).
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;

/// Keyboard controller's command port and its command that pulses the reset line: the kernel's second way to reset.
const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;

/// A write that ends the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerEvent {
    /// Off.
    Off,
    /// Reset.
    Reset,
}

/// All that answers accesses. Shared by the vCPU threads.
pub struct Io {
    serial: Mutex<SerialPort>,
    pci: Arc<PciBus>,
}

impl Io {
    /// A serial port and a PCI bus; there is nothing else.
    pub fn new(serial: SerialPort, pci: Arc<PciBus>) -> Io {
        Io {
            serial: Mutex::new(serial),
            pci,
        }
    }

    /// Answers a port read. Nobody there: all bits set.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match port {
            SERIAL_PORT..=SERIAL_END => {
                let mut serial = lock(&self.serial);
                for byte in data {
                    *byte = serial.read((port - SERIAL_PORT) as u8);
                }
            }
            // The status register reads as zero: nothing to wake from.
            SLEEP_CONTROL_PORT..RESET_PORT => data.fill(0),
            _ => {}
        }
    }

    /// Performs a port write.
    pub fn port_write(&self, port: u16, data: &[u8]) -> Option<PowerEvent> {
        match (port, data.first()?) {
            (SERIAL_PORT..=SERIAL_END, _) => {
                let mut serial = lock(&self.serial);
                for byte in data {
                    // It fails when its receive buffer is full in loop-back mode, or the interrupt cannot be raised: the guest's loss.
                    if let Err(error) = serial.write((port - SERIAL_PORT) as u8, *byte) {
                        tracing::debug!("serial port: {error:?}");
                    }
                }
                None
            }
            (SLEEP_CONTROL_PORT, value) if is_power_off(*value) => Some(PowerEvent::Off),
            (RESET_PORT, &RESET_VALUE) | (KEYBOARD_COMMAND, &KEYBOARD_RESET) => Some(PowerEvent::Reset),
            _ => None,
        }
    }

    /// Answers a memory read. Nobody there: all bits set.
    pub fn memory_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        match window(address) {
            Some(Window::Config(offset)) => self.pci.read_config(offset, data),
            Some(Window::Bars) => self.pci.read_memory(address, data),
            None => {}
        }
    }

    /// Performs a memory write.
    pub fn memory_write(&self, address: u64, data: &[u8]) {
        match window(address) {
            Some(Window::Config(offset)) => self.pci.write_config(offset, data),
            Some(Window::Bars) => self.pci.write_memory(address, data),
            None => {}
        }
    }
}

enum Window {
    Config(u64),
    Bars,
}

fn window(address: u64) -> Option<Window> {
    if (PCI_ECAM..PCI_ECAM + PCI_ECAM_SIZE).contains(&address) {
        Some(Window::Config(address - PCI_ECAM))
    } else {
        (PCI_BARS..PCI_BARS + PCI_BARS_SIZE)
            .contains(&address)
            .then_some(Window::Bars)
    }
}

fn is_power_off(value: u8) -> bool {
    value & SLEEP_ENABLE != 0 && value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK == SLEEP_TYPE_OFF
}

#[cfg(test)]
#[path = "io_test.rs"]
mod io_test;
