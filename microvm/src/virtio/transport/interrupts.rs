//! From a device's "used buffers" and "config changed" to an MSI-X vector.

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::interrupts::SharedMsiSink;
use crate::pci::msix::Msix;
use crate::sync::lock;
use crate::virtio::device::Interrupt;

/// No vector (virtio 1.2, 4.1.4.3).
pub const NO_VECTOR: u16 = 0xffff;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// The interrupts of one device. Register side and workers share it.
pub struct Interrupts {
    msix: Mutex<Msix>,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    /// The ISR register; only of use to a driver without MSI-X, which polls.
    isr: AtomicU8,
    generation: AtomicU8,
}

impl Interrupts {
    /// One vector for each queue and one for the config space.
    pub fn new(queues: usize, sink: SharedMsiSink) -> Interrupts {
        Interrupts {
            msix: Mutex::new(Msix::new(queues as u16 + 1, sink)),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            isr: AtomicU8::new(0),
            generation: AtomicU8::new(0),
        }
    }

    /// The vector table.
    pub fn msix(&self) -> MutexGuard<'_, Msix> {
        lock(&self.msix)
    }

    /// The driver reset the device: no vectors.
    pub fn reset(&self) {
        self.config_vector.store(NO_VECTOR, Ordering::Release);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
        self.isr.store(0, Ordering::Release);
    }

    /// Vector of the config space.
    pub fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Acquire)
    }

    /// The driver chose one; one that does not exist becomes "none", which the driver reads back.
    pub fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.existing(vector), Ordering::Release);
    }

    /// Vector of a queue.
    pub fn queue_vector(&self, queue: u16) -> u16 {
        self.queue_vectors
            .get(usize::from(queue))
            .map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    /// As `set_config_vector`.
    pub fn set_queue_vector(&self, queue: u16, vector: u16) {
        let vector = self.existing(vector);
        if let Some(slot) = self.queue_vectors.get(usize::from(queue)) {
            slot.store(vector, Ordering::Release);
        }
    }

    /// Counts changes of the config space.
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// The ISR register: reading clears it.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix().count() {
            vector
        } else {
            NO_VECTOR
        }
    }

    fn signal(&self, vector: u16, isr: u8) {
        let mut msix = self.msix();
        if msix.is_enabled() {
            msix.signal(vector);
        } else {
            self.isr.fetch_or(isr, Ordering::AcqRel);
        }
    }
}

impl Interrupt for Interrupts {
    fn signal_queue(&self, index: u16) {
        self.signal(self.queue_vector(index), ISR_QUEUE);
    }

    fn signal_config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.signal(self.config_vector(), ISR_CONFIG);
    }
}
