//! What a virtio device is to the transport: identity, features, config space, and a worker that runs while it is activated.

use std::sync::Arc;

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

/// Guest memory as every device sees it. Only volatile accessors of vm-memory touch it.
pub use crate::memory::GuestMemory;

/// A virtio device behind the PCI transport (virtio 1.2, 4.1).
///
/// The transport calls every method from the vCPU thread that performed the access; calls never overlap.
pub trait VirtioDevice: Send {
    /// Device id (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// Largest size of each virtqueue, in order; the number of entries is the number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// Feature bits that the device offers, without the transport's own (VIRTIO_F_VERSION_1 is added by the transport).
    fn features(&self) -> u64;

    /// Fills `data` from the device-specific config space at `offset`; bytes beyond its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver wrote to the device-specific config space. Most devices have nothing writable.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver set DRIVER_OK: start the worker. Called once between resets. An error marks the device as needing reset.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// The driver reset the device: stop the worker and wait for it. Must be harmless when not activated.
    fn reset(&mut self);
}

/// What a device gets when the driver is ready.
pub struct Activation {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// Features that were negotiated.
    pub features: u64,
    /// Queues that the driver enabled; `None` for one it left disabled.
    pub queues: Vec<Option<ActiveQueue>>,
    /// How to interrupt the guest.
    pub interrupt: Arc<dyn Interrupt>,
}

/// One enabled virtqueue.
pub struct ActiveQueue {
    /// Ring addresses and indices, already validated to lie in guest memory.
    pub queue: Queue,
    /// Becomes readable when the driver kicks the queue (an ioeventfd).
    pub kick: EventFd,
}

/// Interrupts from device to driver. Callable from any thread.
pub trait Interrupt: Send + Sync {
    /// Used buffers were put into queue `index`. The caller has already asked `Queue::needs_notification`.
    fn signal_queue(&self, index: u16);

    /// The config space changed.
    fn signal_config(&self);
}

/// Why a device could not start.
#[derive(Debug, thiserror::Error)]
#[error("{device}: cannot start: {reason}")]
pub struct ActivateError {
    /// Name of the device.
    pub device: &'static str,
    /// What went wrong, for the log.
    pub reason: String,
}
