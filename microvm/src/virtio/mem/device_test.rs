use std::sync::Mutex;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::errno;

use super::super::state::BLOCK;
use super::super::{Memslots, Pool};
use super::*;
use crate::machine::vm::VmError;
use crate::memory::Hotplug;
use crate::virtio::testing::{CountingInterrupt, FakeQueue, Piece, counting_interrupt};

const CHUNK: u64 = 4 * BLOCK;
const START: u64 = 64 << 20;
const REQUEST: u64 = 0x8000;
const ANSWER: u64 = 0x9000;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

const ACK: u16 = 0;
const NACK: u16 = 1;
const BUSY: u16 = 2;
const ERROR: u16 = 3;

/// Which chunks the guest can use, and which KVM does not give it.
#[derive(Clone, Default)]
struct Slots {
    shown: Arc<Mutex<Vec<usize>>>,
    refused: Arc<Mutex<Option<usize>>>,
}

impl Memslots for Slots {
    fn show(&self, chunk: usize) -> Result<(), VmError> {
        if *self.refused.lock().unwrap() == Some(chunk) {
            return Err(VmError::Ioctl {
                what: "change the memory of the guest",
                source: errno::Error::new(nix::libc::ENOMEM),
            });
        }
        let mut shown = self.shown.lock().unwrap();
        assert!(!shown.contains(&chunk), "chunk {chunk} shown twice");
        shown.push(chunk);
        Ok(())
    }

    fn hide(&self, chunk: usize) -> Result<(), VmError> {
        let mut shown = self.shown.lock().unwrap();
        let at = shown.iter().position(|known| *known == chunk);
        shown.remove(at.expect("a chunk that was not shown is hidden"));
        Ok(())
    }
}

struct Rig {
    memory: GuestMemory,
    pool: Arc<Pool>,
    slots: Slots,
    driver: FakeQueue,
    device: MemDevice,
    interrupt: Arc<CountingInterrupt>,
}

/// A guest of 1 MiB, with room for three chunks of four blocks, whose driver is ready.
fn rig() -> Rig {
    let room = Hotplug {
        start: GuestAddress(START),
        length: 3 * CHUNK,
        chunk: CHUNK,
    };
    let memory = GuestMemory::reserve(&[(GuestAddress(0), 1 << 20)], Some(room)).unwrap();
    let slots = Slots::default();
    let pool = Arc::new(Pool::new(room, memory.clone(), Box::new(slots.clone())));
    let mut device = MemDevice::new(pool.clone());
    let interrupt = counting_interrupt();
    let driver = activate(&mut device, &memory, &interrupt);
    Rig {
        memory,
        pool,
        slots,
        driver,
        device,
        interrupt,
    }
}

fn activate(device: &mut MemDevice, memory: &GuestMemory, interrupt: &Arc<CountingInterrupt>) -> FakeQueue {
    memory.write_slice(&[0; 0x1000], GuestAddress(0)).unwrap();
    let (driver, active) = FakeQueue::new(memory, 0, 8);
    let activation = Activation {
        memory: memory.clone(),
        features: UNPLUGGED_INACCESSIBLE,
        queues: vec![Some(active)],
        interrupt: interrupt.clone(),
    };
    device.activate(activation).unwrap();
    driver
}

fn request(len: u32) -> Piece {
    Piece {
        at: REQUEST,
        len,
        writable: false,
    }
}

fn answer(len: u32) -> Piece {
    Piece {
        at: ANSWER,
        len,
        writable: true,
    }
}

impl Rig {
    /// Sends one chain; returns how many bytes were answered.
    fn send(&mut self, chain: &[Piece]) -> u32 {
        self.driver.add(chain);
        self.driver.kick();
        self.driver.wait_used("an answer of the memory device").1
    }

    /// Sends a request whose padding is not empty; returns the answer and the state that is in it.
    fn ask_at(&mut self, kind: u16, address: u64, count: u16) -> (u16, u16) {
        let bytes = [
            &kind.to_le_bytes()[..],
            &[0xff; 6],
            &address.to_le_bytes(),
            &count.to_le_bytes(),
            &[0xff; 6],
        ]
        .concat();
        self.memory.write_slice(&bytes, GuestAddress(REQUEST)).unwrap();
        self.memory.write_slice(&[0xee; 10], GuestAddress(ANSWER)).unwrap();
        assert_eq!(self.send(&[request(24), answer(10)]), 10);
        let field = |at| self.memory.read_obj(GuestAddress(at)).unwrap();
        (field(ANSWER), field(ANSWER + 8))
    }

    fn ask(&mut self, kind: u16, block: u64, count: u16) -> u16 {
        self.ask_at(kind, START + block * BLOCK, count).0
    }

    fn state(&mut self, block: u64, count: u16) -> u16 {
        let (answer, state) = self.ask_at(STATE, START + block * BLOCK, count);
        assert_eq!(answer, ACK);
        state
    }

    fn shown(&self) -> Vec<usize> {
        let mut shown = self.slots.shown.lock().unwrap().clone();
        shown.sort();
        shown
    }

    fn field(&self, index: u64) -> u64 {
        let mut bytes = [0; 8];
        self.device.read_config(8 * index, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn mark(&self, block: u64) {
        self.memory
            .write_obj(7u32, GuestAddress(START + block * BLOCK))
            .unwrap();
    }

    fn is_kept(&self, block: u64) -> bool {
        let value: u32 = self.memory.read_obj(GuestAddress(START + block * BLOCK)).unwrap();
        value == 7
    }
}

#[test]
fn the_guest_grows_as_it_is_told() {
    let mut rig = rig();
    assert_eq!(rig.ask(PLUG, 0, 1), ERROR, "nothing is usable yet");
    rig.pool.request(6 * BLOCK);
    assert_eq!(rig.interrupt.config_count(), 1);
    assert_eq!((rig.field(4), rig.field(5), rig.field(6)), (2 * CHUNK, 0, 6 * BLOCK));
    assert!(rig.shown().is_empty(), "the guest has to ask");
    assert_eq!(rig.ask(PLUG, 0, 4), ACK);
    assert_eq!(rig.shown(), [0]);
    assert_eq!(rig.ask(PLUG, 4, 2), ACK);
    assert_eq!(rig.shown(), [0, 1]);
    assert_eq!(rig.ask(PLUG, 6, 1), NACK);
    assert_eq!((rig.pool.plugged(), rig.field(5)), (6 * BLOCK, 6 * BLOCK));
    rig.pool.request(6 * BLOCK);
    assert_eq!(rig.interrupt.config_count(), 1, "nothing new");
}

#[test]
fn one_request_may_span_chunks() {
    let mut rig = rig();
    rig.pool.request(3 * CHUNK);
    assert_eq!(rig.ask(PLUG, 2, 8), ACK);
    assert_eq!(rig.shown(), [0, 1, 2]);
    assert_eq!(rig.ask(UNPLUG, 3, 6), ACK);
    assert_eq!(rig.shown(), [0, 2]);
    assert_eq!((rig.state(2, 1), rig.state(3, 6), rig.state(2, 8)), (0, 1, 2));
}

#[test]
fn what_is_unplugged_goes_back_to_the_host() {
    let mut rig = rig();
    rig.pool.request(2 * CHUNK);
    assert_eq!(rig.ask(PLUG, 0, 8), ACK);
    (0..8).for_each(|block| rig.mark(block));
    rig.pool.request(2 * BLOCK);
    assert_eq!(rig.interrupt.config_count(), 2);
    assert_eq!(rig.ask(UNPLUG, 1, 6), ACK);
    let kept: Vec<u64> = (0..8).filter(|block| rig.is_kept(*block)).collect();
    assert_eq!(kept, [0, 7]);
    assert_eq!(rig.shown(), [0, 1], "both still have a block");
    assert_eq!(rig.ask(UNPLUG, 7, 1), ACK);
    assert_eq!(rig.shown(), [0]);
    assert_eq!(rig.pool.plugged(), BLOCK);
}

#[test]
fn a_driver_that_comes_anew_finds_what_is_plugged_and_unplugs_all() {
    let mut rig = rig();
    rig.pool.request(2 * CHUNK);
    assert_eq!(rig.ask(PLUG, 1, 6), ACK);
    rig.mark(1);
    rig.device.reset();
    rig.device.reset();
    rig.pool.request(CHUNK);
    assert_eq!(rig.interrupt.config_count(), 1, "nobody is there to be told");
    assert!(rig.is_kept(1));
    assert_eq!((rig.field(5), rig.field(6)), (6 * BLOCK, CHUNK));
    rig.driver = activate(&mut rig.device, &rig.memory, &rig.interrupt);
    assert_eq!(rig.state(1, 6), 0);
    assert_eq!(rig.ask(UNPLUG_ALL, 0, 0), ACK);
    assert_eq!((rig.shown(), rig.field(5)), (vec![], 0));
    assert!(!rig.is_kept(1));
    assert_eq!(rig.ask(UNPLUG_ALL, 99, 7), ACK, "nothing is left to unplug");
    assert_eq!(rig.ask(PLUG, 0, 4), ACK);
    assert_eq!(rig.shown(), [0]);
}

#[test]
fn requests_for_what_is_not_there_are_errors_and_change_nothing() {
    let mut rig = rig();
    rig.pool.request(CHUNK);
    assert_eq!(rig.ask(PLUG, 1, 2), ACK);
    rig.mark(1);
    let spans = [
        (START + BLOCK, 0),
        (START + BLOCK + 4096, 1),
        (START - BLOCK, 1),
        (START + CHUNK, 1),
        (START, u16::MAX),
        (0, 1),
        (u64::MAX, 1),
        (u64::MAX - BLOCK + 1, u16::MAX),
    ];
    for kind in [PLUG, UNPLUG, STATE] {
        for (address, count) in spans {
            assert_eq!(rig.ask_at(kind, address, count).0, ERROR, "{kind} {address:#x}+{count}");
        }
    }
    for (kind, block, count) in [
        (PLUG, 1, 1),
        (PLUG, 0, 2),
        (UNPLUG, 0, 1),
        (UNPLUG, 0, 4),
        (UNPLUG, 2, 2),
    ] {
        assert_eq!(rig.ask(kind, block, count), ERROR, "{kind} {block}+{count}");
    }
    for kind in [4, 0xff, u16::MAX] {
        assert_eq!(rig.ask(kind, 0, 1), ERROR);
    }
    assert!(rig.is_kept(1));
    assert_eq!((rig.shown(), rig.pool.plugged()), (vec![0], 2 * BLOCK));
}

#[test]
fn a_host_that_cannot_give_memory_is_busy_and_nothing_is_left_half_done() {
    let mut rig = rig();
    rig.pool.request(3 * CHUNK);
    assert_eq!(rig.ask(PLUG, 0, 1), ACK);
    *rig.slots.refused.lock().unwrap() = Some(2);
    assert_eq!(rig.ask(PLUG, 2, 10), BUSY);
    assert_eq!((rig.shown(), rig.pool.plugged()), (vec![0], BLOCK));
    *rig.slots.refused.lock().unwrap() = None;
    assert_eq!(rig.ask(PLUG, 2, 10), ACK);
    assert_eq!(rig.shown(), [0, 1, 2]);
}

#[test]
fn chains_that_are_no_request_are_given_back() {
    let mut rig = rig();
    rig.pool.request(CHUNK);
    assert_eq!(rig.ask(PLUG, 0, 1), ACK);
    let unplug_all = UNPLUG_ALL.to_le_bytes();
    rig.memory.write_slice(&unplug_all, GuestAddress(REQUEST)).unwrap();
    let beyond = |writable| Piece {
        at: 1 << 40,
        len: 24,
        writable,
    };
    // Nowhere to answer, or nowhere at all.
    for chain in [
        &[request(24)][..],
        &[answer(10)],
        &[answer(10), request(24)],
        &[request(24), answer(0)],
        &[request(24), answer(9)],
        &[beyond(false), answer(10)],
        &[request(24), beyond(true)],
    ] {
        let expected = if chain.len() == 1 && chain[0].writable { 10 } else { 0 };
        assert_eq!(rig.send(chain), expected, "{chain:?}");
    }
    // Too short, however it is cut.
    for chain in [
        &[request(0), answer(10)][..],
        &[request(23), answer(10)],
        &[request(8), request(15), answer(10)],
    ] {
        assert_eq!(rig.send(chain), 10, "{chain:?}");
        assert_eq!(rig.memory.read_obj::<u16>(GuestAddress(ANSWER)).unwrap(), ERROR);
    }
    assert_eq!(rig.pool.plugged(), BLOCK);
    let halves = [
        request(3),
        Piece {
            at: REQUEST + 3,
            len: 100,
            writable: false,
        },
        answer(4),
        Piece {
            at: ANSWER + 4,
            len: 100,
            writable: true,
        },
    ];
    assert_eq!(rig.send(&halves), 10);
    assert_eq!(rig.pool.plugged(), 0);
}

#[test]
fn a_broken_queue_is_not_served_and_a_new_driver_is() {
    let mut rig = rig();
    rig.pool.request(CHUNK);
    rig.driver.set_available(1000);
    rig.driver.kick();
    rig.device.reset();
    rig.driver = activate(&mut rig.device, &rig.memory, &rig.interrupt);
    assert_eq!(rig.ask(PLUG, 0, 1), ACK);
}

#[test]
fn buffers_in_plugged_memory_work() {
    let mut rig = rig();
    rig.pool.request(CHUNK);
    assert_eq!(rig.ask(PLUG, 0, 1), ACK);
    let state = [
        &STATE.to_le_bytes()[..],
        &[0; 6],
        &START.to_le_bytes(),
        &2u16.to_le_bytes(),
        &[0; 6],
    ]
    .concat();
    let at = |address, len, writable| Piece {
        at: address,
        len,
        writable,
    };
    rig.memory.write_slice(&state, GuestAddress(START)).unwrap();
    assert_eq!(rig.send(&[at(START, 24, false), at(START + 0x1000, 10, true)]), 10);
    assert_eq!(rig.memory.read_obj::<u16>(GuestAddress(START + 0x1008)).unwrap(), 2);
    // What was never requested is no memory, also for the device.
    assert_eq!(rig.send(&[at(START, 24, false), at(START + CHUNK, 10, true)]), 0);
}

#[test]
fn a_driver_that_would_touch_unplugged_memory_is_refused() {
    let mut rig = rig();
    rig.device.reset();
    let (_, active) = FakeQueue::new(&rig.memory, 0, 8);
    let activation = Activation {
        memory: rig.memory.clone(),
        features: 0,
        queues: vec![Some(active)],
        interrupt: rig.interrupt.clone(),
    };
    assert!(rig.device.activate(activation).is_err());
    assert_ne!(rig.device.features() & UNPLUGGED_INACCESSIBLE, 0);
}

#[test]
fn arbitrary_requests_never_give_more_than_was_requested() {
    let mut rig = rig();
    let mut random = 0x1234_5678_9abc_def0u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut most = 0;
    for _ in 0..1000 {
        if next() % 16 == 0 {
            let blocks = next() % 9;
            rig.pool.request(blocks * BLOCK);
            most = most.max(blocks);
        }
        let kind = (next() % 5) as u16;
        let address = match next() % 8 {
            0 => next(),
            _ => START + next() % 12 * BLOCK,
        };
        rig.ask_at(kind, address, (next() % 6) as u16);
        assert!(rig.pool.plugged() <= most * BLOCK);
        let chunks = most.div_ceil(4) as usize;
        assert!(rig.shown().iter().all(|chunk| *chunk < chunks));
    }
}
