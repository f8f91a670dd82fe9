use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory::Hotplug;
use crate::virtio::testing::{CountingInterrupt, FakeQueue, Piece, counting_interrupt, wait_for};

const MIB: u64 = 1 << 20;
const NUMBERS: u64 = 0x8000;
/// Memory that can come later: two chunks, of which one has.
const ROOM: Hotplug = Hotplug {
    start: GuestAddress(64 * MIB),
    length: 8 * MIB,
    chunk: 4 * MIB,
};

struct Rig {
    memory: GuestMemory,
    inflate: FakeQueue,
    deflate: FakeQueue,
    reporting: FakeQueue,
    device: BalloonDevice,
    interrupt: Arc<CountingInterrupt>,
}

/// A guest of 16 MiB, with every page that the tests give up marked.
fn rig() -> Rig {
    let memory = GuestMemory::reserve(&[(GuestAddress(0), 16 << 20)], Some(ROOM)).unwrap();
    memory.open(1);
    let (inflate, inflate_active) = FakeQueue::new(&memory, 0, 16);
    let (deflate, deflate_active) = FakeQueue::new(&memory, 0x1000, 16);
    let (reporting, reporting_active) = FakeQueue::new(&memory, 0x2000, 64);
    let mut device = BalloonDevice::new();
    let interrupt = counting_interrupt();
    let activation = Activation {
        memory: memory.clone(),
        features: PAGE_REPORTING,
        queues: [inflate_active, deflate_active, reporting_active].map(Some).into(),
        interrupt: interrupt.clone(),
    };
    device.activate(activation).unwrap();
    Rig {
        memory,
        inflate,
        deflate,
        reporting,
        device,
        interrupt,
    }
}

impl Rig {
    fn mark(&self, address: u64) {
        self.memory.write_obj(7u32, GuestAddress(address)).unwrap();
    }

    /// Whether the page still holds what `mark` wrote.
    fn is_kept(&self, address: u64) -> bool {
        self.memory.read_obj::<u32>(GuestAddress(address)).unwrap() == 7
    }

    fn report(&mut self, pieces: &[Piece]) {
        self.reporting.add(pieces);
        self.reporting.kick();
        assert_eq!(self.reporting.wait_used("a report").1, 0);
    }

    fn inflate(&mut self, buffer: Piece) {
        self.inflate.add(&[buffer]);
        self.inflate.kick();
        assert_eq!(self.inflate.wait_used("an inflation").1, 0);
    }
}

fn free(at: u64, len: u32) -> Piece {
    Piece {
        at,
        len,
        writable: true,
    }
}

fn numbers(at: u64, len: u32) -> Piece {
    Piece {
        at,
        len,
        writable: false,
    }
}

#[test]
fn reported_memory_goes_back_to_the_host() {
    let mut rig = rig();
    let kept = [4 * MIB - 4096, 6 * MIB, 12 * MIB];
    let given = [4 * MIB, 6 * MIB - 4096, 8 * MIB, 64 * MIB, 68 * MIB - 4096];
    kept.into_iter().chain(given).for_each(|at| rig.mark(at));
    rig.report(&[free(4 * MIB, 2 << 20), free(8 * MIB, 4 << 20), free(64 * MIB, 4 << 20)]);
    assert!(kept.into_iter().all(|at| rig.is_kept(at)));
    assert!(given.into_iter().all(|at| !rig.is_kept(at)));
    assert!(rig.interrupt.count(2) >= 1);
}

#[test]
fn only_whole_pages_are_given_back() {
    let mut rig = rig();
    for at in [4 * MIB, 4 * MIB + 4096, 4 * MIB + 8192] {
        rig.mark(at);
    }
    rig.report(&[free(4 * MIB + 1, 8192 + 100), free(4 * MIB, 4095), free(4 * MIB, 0)]);
    let kept = [4 * MIB, 4 * MIB + 4096, 4 * MIB + 8192].map(|at| rig.is_kept(at));
    assert_eq!(kept, [true, false, true]);
}

#[test]
fn what_is_no_memory_is_ignored_and_the_rest_of_the_report_counts() {
    let mut rig = rig();
    for at in [4 * MIB, 5 * MIB, 16 * MIB - 4096, 64 * MIB, 68 * MIB - 4096] {
        rig.mark(at);
    }
    rig.report(&[
        numbers(4 * MIB, 4096),
        free(16 * MIB - 4096, 8192),
        free(68 * MIB - 4096, 8192),
        free(3 << 30, 2 << 20),
        free(u64::MAX - 4095, 4096),
        free(u64::MAX, u32::MAX),
        free(1 << 50, u32::MAX - 4 * MIB as u32 * 4),
    ]);
    for at in [4 * MIB, 5 * MIB, 16 * MIB - 4096, 64 * MIB, 68 * MIB - 4096] {
        assert!(rig.is_kept(at), "{at:#x}");
    }
    rig.report(&[free(3 << 30, 4096), free(5 * MIB, 4096)]);
    assert!(!rig.is_kept(5 * MIB));
}

#[test]
fn pages_in_the_balloon_go_back_to_the_host() {
    let mut rig = rig();
    let pages: [u64; 4] = [4 * MIB, 4 * MIB + 4096, 9 * MIB, 64 * MIB];
    pages.into_iter().for_each(|at| rig.mark(at));
    rig.mark(4 * MIB + 8192);
    // Of memory, of none, and half a number.
    let named = pages.map(|at| (at / 4096) as u32);
    let bytes: Vec<u8> = named
        .into_iter()
        .chain([0xc_0000, u32::MAX, 68 * MIB as u32 / 4096])
        .flat_map(u32::to_le_bytes)
        .chain([1, 0, 0])
        .collect();
    rig.memory.write_slice(&bytes, GuestAddress(NUMBERS)).unwrap();
    rig.inflate(numbers(NUMBERS, bytes.len() as u32));
    assert!(pages.into_iter().all(|at| !rig.is_kept(at)));
    assert!(rig.is_kept(4 * MIB + 8192));
}

#[test]
fn a_buffer_of_page_numbers_is_bounded_and_read_only_from_readable_memory() {
    let mut rig = rig();
    let (inside, beyond) = (4 * MIB, 5 * MIB);
    rig.mark(inside);
    rig.mark(beyond);
    let mut all = vec![(inside / 4096) as u32; pages::MAX_NUMBERS];
    all.push((beyond / 4096) as u32);
    let bytes: Vec<u8> = all.into_iter().flat_map(u32::to_le_bytes).collect();
    rig.memory.write_slice(&bytes, GuestAddress(NUMBERS)).unwrap();
    rig.inflate(free(NUMBERS, 4));
    rig.inflate(numbers(1 << 40, 4));
    rig.inflate(numbers(NUMBERS, 3));
    rig.inflate(numbers(NUMBERS, 0));
    assert!(rig.is_kept(inside));
    rig.inflate(numbers(NUMBERS, bytes.len() as u32));
    assert!(!rig.is_kept(inside));
    assert!(rig.is_kept(beyond));
}

#[test]
fn deflation_is_acknowledged() {
    let mut rig = rig();
    rig.mark(4 * MIB);
    let number = (4 * MIB / 4096) as u32;
    rig.memory.write_obj(number, GuestAddress(NUMBERS)).unwrap();
    for piece in [numbers(NUMBERS, 4), free(1 << 40, 4)] {
        rig.deflate.add(&[piece]);
        rig.deflate.kick();
        assert_eq!(rig.deflate.wait_used("a deflation").1, 0);
    }
    assert!(rig.is_kept(4 * MIB));
}

#[test]
fn a_broken_queue_ends_neither_the_worker_nor_the_other_queues() {
    let mut rig = rig();
    rig.inflate.set_available(1000);
    rig.inflate.kick();
    rig.mark(4 * MIB);
    rig.report(&[free(4 * MIB, 4096)]);
    wait_for("the page to go", || (!rig.is_kept(4 * MIB)).then_some(()));
}

#[test]
fn the_balloon_shall_be_empty_and_a_reset_is_harmless() {
    let mut rig = rig();
    rig.device.write_config(4, &7u32.to_le_bytes());
    let mut config = [0xff; 16];
    rig.device.read_config(0, &mut config);
    assert_eq!(config, [0; 16]);
    assert_ne!(rig.device.features() & PAGE_REPORTING, 0);
    rig.device.reset();
    rig.device.reset();
}
