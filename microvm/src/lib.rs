//! The virtual machine monitor: one KVM microVM, its devices, and the jail it lives in.
//!
//! Distrusts the guest completely: every byte of guest memory, every register write and every queue entry is hostile. Trusts the
//! runtime, which is its only other peer (`bulkhead-vmm-control`). Opens nothing by host path.

pub mod boot;
mod complaints;
pub mod control;
pub mod file_server;
pub mod interrupts;
pub mod jail;
pub mod machine;
pub mod memory;
pub mod pci;
pub mod serial;
mod sync;
pub mod vcpu;
pub mod virtio;
