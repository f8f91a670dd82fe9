//! virtio 1.2 devices and the PCI transport they share.

pub mod balloon;
pub mod blk;
pub(crate) mod buffers;
pub mod device;
pub mod fs;
pub mod mem;
pub(crate) mod pace;
pub(crate) mod ring;
pub mod rng;
pub mod transport;
pub mod vsock;
pub(crate) mod worker;

#[cfg(test)]
pub(crate) mod testing;
