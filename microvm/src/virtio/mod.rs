//! virtio 1.2 devices and the PCI transport they share.

pub mod device;
