//! One virtqueue as a worker uses it: its ring, its kick and its interrupt, with the notification bookkeeping in one place.
//!
//! Distrusts the driver. A ring whose indices make no sense is retired: it is logged once, gives no more buffers and signals no
//! more, until the driver resets the device.
//!
//! One function opts into unsafe code: the event descriptor of vmm-sys-util cannot be borrowed safely.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::device::{ActivateError, Activation, ActiveQueue, GuestMemory, Interrupt};

/// What a driver may do with every ring: say when it wants to be interrupted, and describe buffers in tables of their own.
pub const FEATURES: u64 = 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// A chain of descriptors that the driver made available.
pub type Chain<'m> = DescriptorChain<&'m GuestMemory>;

/// A virtqueue in the hands of a worker.
pub struct Ring {
    queue: Queue,
    kick: EventFd,
    index: u16,
    interrupt: Arc<dyn Interrupt>,
    owes_notification: bool,
    retired: bool,
}

impl Ring {
    /// Takes the queue of a device over that has one. `device`: its name, for the error.
    pub fn only(device: &'static str, activation: Activation) -> Result<(GuestMemory, Ring), ActivateError> {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
        } = activation;
        let queue = queues.into_iter().next().flatten().ok_or_else(|| ActivateError {
            device,
            reason: "its queue is not enabled".to_owned(),
        })?;
        Ok((memory, Ring::new(queue, 0, features, interrupt)))
    }

    /// Takes queue `index` over. `features` are the negotiated ones.
    pub fn new(active: ActiveQueue, index: u16, features: u64, interrupt: Arc<dyn Interrupt>) -> Ring {
        let ActiveQueue { mut queue, kick } = active;
        queue.set_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        Ring {
            queue,
            kick,
            index,
            interrupt,
            owes_notification: false,
            retired: false,
        }
    }

    /// Number of the queue.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Becomes readable when the driver kicks.
    #[allow(unsafe_code)]
    pub fn kick(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the eventfd, which the result borrows; only the safe conversion is missing.
        unsafe { BorrowedFd::borrow_raw(self.kick.as_raw_fd()) }
    }

    /// Takes note of a kick that was reported, so that it is readable no longer.
    pub fn clear_kick(&self) {
        // The count says nothing that the ring does not, and an error can only mean that there was none.
        let _ = self.kick.read();
    }

    /// The next available chain; `None` when there is none or the ring is retired.
    pub fn pop<'m>(&mut self, memory: &'m GuestMemory) -> Option<Chain<'m>> {
        if self.retired {
            return None;
        }
        match self.queue.iter(memory) {
            Ok(mut available) => available.next(),
            Err(error) => {
                self.retire(&error);
                None
            }
        }
    }

    /// Gives a chain back to the driver, `length` bytes of it written.
    pub fn give_back(&mut self, memory: &GuestMemory, head: u16, length: u32) {
        if self.retired {
            return;
        }
        match self.queue.add_used(memory, head, length) {
            Ok(()) => self.owes_notification = true,
            Err(error) => self.retire(&error),
        }
    }

    /// Interrupts the driver when chains were given back since the last call and it wants to know.
    pub fn notify(&mut self, memory: &GuestMemory) {
        if !std::mem::take(&mut self.owes_notification) || self.retired {
            return;
        }
        match self.queue.needs_notification(memory) {
            Ok(true) => self.interrupt.signal_queue(self.index),
            Ok(false) => {}
            Err(error) => self.retire(&error),
        }
    }

    /// Asks the driver for a kick when it adds a chain. True when there is one already, which no kick will announce.
    pub fn ask_for_kick(&mut self, memory: &GuestMemory) -> bool {
        if self.retired {
            return false;
        }
        match self.queue.enable_notification(memory) {
            Ok(more) => more,
            Err(error) => {
                self.retire(&error);
                false
            }
        }
    }

    /// Tells the driver that kicks are not needed for now; it may kick all the same.
    pub fn spare_kicks(&mut self, memory: &GuestMemory) {
        if self.retired {
            return;
        }
        if let Err(error) = self.queue.disable_notification(memory) {
            self.retire(&error);
        }
    }

    fn retire(&mut self, error: &virtio_queue::Error) {
        self.retired = true;
        tracing::warn!(queue = self.index, %error, "the guest broke a virtqueue; it is not served any more");
    }
}
