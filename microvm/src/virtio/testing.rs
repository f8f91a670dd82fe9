//! The guest's side of a device, for tests: queues in a little memory, driven the way a driver drives them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::device::{ActiveQueue, GuestMemory, Interrupt};

/// How long a test waits for something that must come.
pub const PATIENCE: Duration = Duration::from_secs(10);

const DESC_F_NEXT: u16 = 1;
const DESC_F_WRITE: u16 = 2;

/// `bytes` of guest memory from address 0 on.
pub fn guest_memory(bytes: usize) -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), bytes)]).unwrap()
}

/// Asks again and again until there is an answer; panics with `what` when there is none in time.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Counts interrupts of the first eight queues, and of the config space.
#[derive(Default)]
pub struct CountingInterrupt {
    queues: [AtomicU64; 8],
    config: AtomicU64,
}

impl CountingInterrupt {
    /// Interrupts of queue `index` so far.
    pub fn count(&self, index: u16) -> u64 {
        self.queues[usize::from(index)].load(Ordering::SeqCst)
    }

    /// How often the config space has changed so far.
    pub fn config_count(&self) -> u64 {
        self.config.load(Ordering::SeqCst)
    }
}

impl Interrupt for CountingInterrupt {
    fn signal_queue(&self, index: u16) {
        self.queues[usize::from(index)].fetch_add(1, Ordering::SeqCst);
    }

    fn signal_config(&self) {
        self.config.fetch_add(1, Ordering::SeqCst);
    }
}

/// A piece of guest memory in a chain.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// Where it is.
    pub at: u64,
    /// Its bytes.
    pub len: u32,
    /// The device may write it.
    pub writable: bool,
}

/// A split virtqueue as its driver sees it. Chains occupy descriptors from a cursor on, so at most `size` descriptors may be with
/// the device at a time.
pub struct FakeQueue {
    memory: GuestMemory,
    base: u64,
    size: u16,
    kick: EventFd,
    next_descriptor: u16,
    available: u16,
    seen: u16,
}

impl FakeQueue {
    /// A queue at `base` (16-byte aligned, zeroed memory) and what the device gets of it.
    pub fn new(memory: &GuestMemory, base: u64, size: u16) -> (FakeQueue, ActiveQueue) {
        let kick = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap();
        let fake = FakeQueue {
            memory: memory.clone(),
            base,
            size,
            kick: kick.try_clone().unwrap(),
            next_descriptor: 0,
            available: 0,
            seen: 0,
        };
        let mut queue = Queue::new(size).unwrap();
        queue.set_desc_table_address(Some(base as u32), Some((base >> 32) as u32));
        queue.set_avail_ring_address(Some(fake.avail() as u32), Some((fake.avail() >> 32) as u32));
        queue.set_used_ring_address(Some(fake.used() as u32), Some((fake.used() >> 32) as u32));
        queue.set_ready(true);
        assert!(queue.is_valid(memory));
        (fake, ActiveQueue { queue, kick })
    }

    fn avail(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    fn used(&self) -> u64 {
        (self.avail() + 6 + 2 * u64::from(self.size)).next_multiple_of(4)
    }

    /// Makes a chain available without kicking; returns its head.
    pub fn add(&mut self, chain: &[Piece]) -> u16 {
        let head = self.next_descriptor;
        for (i, piece) in chain.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % self.size;
            let last = i + 1 == chain.len();
            let flags = if piece.writable { DESC_F_WRITE } else { 0 } | if last { 0 } else { DESC_F_NEXT };
            let at = self.base + 16 * u64::from(index);
            self.memory.write_obj(piece.at, GuestAddress(at)).unwrap();
            self.memory.write_obj(piece.len, GuestAddress(at + 8)).unwrap();
            self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
            self.memory
                .write_obj(self.next_descriptor, GuestAddress(at + 14))
                .unwrap();
        }
        let slot = u64::from(self.available % self.size);
        self.memory
            .write_obj(head, GuestAddress(self.avail() + 4 + 2 * slot))
            .unwrap();
        self.set_available(self.available.wrapping_add(1));
        head
    }

    /// Overwrites the index of the available ring, also with nonsense.
    pub fn set_available(&mut self, index: u16) {
        self.available = index;
        self.memory
            .store(index, GuestAddress(self.avail() + 2), Ordering::Release)
            .unwrap();
    }

    /// Kicks the device.
    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// With event index: the device shall interrupt when the used index passes this one.
    pub fn set_used_event(&self, index: u16) {
        let at = self.avail() + 4 + 2 * u64::from(self.size);
        self.memory.store(index, GuestAddress(at), Ordering::Release).unwrap();
    }

    /// How many chains the device has given back in all, modulo 2^16.
    pub fn used_index(&self) -> u16 {
        self.memory
            .load(GuestAddress(self.used() + 2), Ordering::Acquire)
            .unwrap()
    }

    /// The next chain that the device gave back: its head and the bytes written.
    pub fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.used_index() == self.seen {
            return None;
        }
        let at = self.used() + 4 + 8 * u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        let head: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
        let length: u32 = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
        Some((head as u16, length))
    }

    /// Waits for [`FakeQueue::take_used`].
    pub fn wait_used(&mut self, what: &str) -> (u16, u32) {
        wait_for(what, || self.take_used())
    }
}

/// An interrupt to give to a device and to count with.
pub fn counting_interrupt() -> Arc<CountingInterrupt> {
    Arc::default()
}
