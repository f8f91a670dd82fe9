//! The virtio PCI transport (virtio 1.2, 4.1), modern only, with MSI-X only.
//!
//! What the driver does, in order: reset (status 0), acknowledge, negotiate features, FEATURES_OK, set up each queue, DRIVER_OK;
//! then it kicks queues through the notify area, which KVM turns into an event without an exit. At any time it may reset again.
//! What may go wrong: every register may be written at any time with any value and width. A write that is not allowed in the
//! present state is dropped; a queue that does not lie in guest memory makes the device need a reset.

mod function;
mod interrupts;
mod registers;

pub use function::{Doorbells, TransportError, VirtioFunction};
pub use interrupts::Interrupts;
