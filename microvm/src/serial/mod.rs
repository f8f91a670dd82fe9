//! The serial port: a 16550 whose output goes to a ring of the last lines and, if asked for, to a log.
//!
//! Every byte is an exit, so the guest is told to be quiet; the ring is what a panic is reported from.

mod console;

pub use console::{ConsoleRing, ConsoleWriter, RING_BYTES};

use vm_superio::Serial;
use vm_superio::serial::NoEvents;

use crate::interrupts::Line;

/// The port as the guest sees it.
pub type SerialPort = Serial<Line, NoEvents, ConsoleWriter>;
