//! How devices reach the interrupt controllers, which are KVM's own (local APICs, I/O APIC).
//!
//! Messages are sent with KVM_SIGNAL_MSI: every device is served by this process, so an irqfd for each vector would cost a
//! routing update at boot (each one waits for all vCPUs) and save nothing.

use std::sync::Arc;

use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

use crate::machine::vm::Vm;

/// Where message-signalled interrupts go. Callable from any thread.
pub trait MsiSink: Send + Sync {
    /// Delivers one message: address and data as the guest wrote them.
    fn send(&self, address: u64, data: u32);
}

impl MsiSink for Vm {
    fn send(&self, address: u64, data: u32) {
        // The guest chooses address and data; KVM refuses nonsense, and that is the guest's loss.
        if let Err(error) = self.send_msi(address, data) {
            tracing::debug!("interrupt {address:#x}/{data:#x} lost: {error}");
        }
    }
}

/// An edge-triggered line of the I/O APIC, behind an irqfd.
#[derive(Debug)]
pub struct Line(EventFd);

impl Line {
    /// The event is registered with the machine already.
    pub fn new(event: EventFd) -> Line {
        Line(event)
    }
}

impl vm_superio::Trigger for Line {
    type E = errno::Error;

    fn trigger(&self) -> Result<(), errno::Error> {
        self.0.write(1).map_err(errno::Error::from)
    }
}

/// Shared sink.
pub type SharedMsiSink = Arc<dyn MsiSink>;
