//! One region of memory that comes and goes: what register side, worker and main thread share.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::GuestAddress;

use super::request::{Request, Response, Span};
use super::state::{BLOCK, CONFIG_BYTES, State};
use crate::machine::vm::VmError;
use crate::memory::{GuestMemory, Hotplug};
use crate::sync::lock;
use crate::virtio::device::Interrupt;

/// Where chunks are shown to the guest: KVM's memory slots, or a test.
pub trait Memslots: Send + Sync {
    /// The guest can use chunk number `chunk` from now on.
    fn show(&self, chunk: usize) -> Result<(), VmError>;
    /// Undoes `show`.
    fn hide(&self, chunk: usize) -> Result<(), VmError>;
}

/// The region. The guest can use a chunk as long as one of its blocks is plugged.
pub struct Pool {
    room: Hotplug,
    memory: GuestMemory,
    slots: Box<dyn Memslots>,
    /// Chunks that the guest can use. Held for the whole of a request, and taken before `state`.
    shown: Mutex<Vec<bool>>,
    /// Never held while memory is given back, which may take long.
    state: Mutex<State>,
    /// Bytes that are unplugged and not the host's again yet. Raised with `state` held.
    leaving: AtomicU64,
    /// How to interrupt the driver, while there is one.
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
}

impl Pool {
    /// Nothing plugged, nothing requested. `memory` has the room.
    pub fn new(room: Hotplug, memory: GuestMemory, slots: Box<dyn Memslots>) -> Pool {
        Pool {
            room,
            memory,
            slots,
            shown: Mutex::new(vec![false; (room.length / room.chunk) as usize]),
            state: Mutex::new(State::new(room)),
            leaving: AtomicU64::new(0),
            interrupt: Mutex::default(),
        }
    }

    /// Main thread: the guest shall have `bytes`, rounded up to blocks. It is told at once if its driver is there, else when it is, and
    /// again when it does not have them yet: a driver that could not take or give them waits for minutes before it tries by itself.
    pub fn request(&self, bytes: u64) {
        {
            let mut state = lock(&self.state);
            if !state.request(bytes) && state.plugged() == state.requested() {
                return;
            }
            self.memory.open(state.usable_chunks());
        }
        let interrupt = lock(&self.interrupt).clone();
        if let Some(interrupt) = interrupt {
            interrupt.signal_config();
        }
    }

    /// Bytes that the guest shall have.
    pub fn requested(&self) -> u64 {
        lock(&self.state).requested()
    }

    /// Bytes that the guest has, with those that it has given up and that are not the host's again yet.
    pub fn plugged(&self) -> u64 {
        let state = lock(&self.state);
        state.plugged() + self.leaving.load(Ordering::Acquire)
    }

    pub(super) fn config(&self) -> [u8; CONFIG_BYTES] {
        lock(&self.state).config()
    }

    /// The driver has come, or gone. What it plugged stays plugged.
    pub(super) fn set_driver(&self, interrupt: Option<Arc<dyn Interrupt>>) {
        *lock(&self.interrupt) = interrupt;
    }

    /// Worker: performs a request of the driver's.
    pub(super) fn perform(&self, request: Request) -> Response {
        let done = match request {
            Request::Plug(span) => self.plug(span).map(|()| Response::Ack),
            Request::Unplug(span) => self.unplug(span).map(|()| Response::Ack),
            Request::UnplugAll => {
                self.unplug_all();
                Ok(Response::Ack)
            }
            Request::State(span) => lock(&self.state).look(span).map(Response::State),
        };
        done.unwrap_or_else(|refusal| refusal)
    }

    fn plug(&self, span: Span) -> Result<(), Response> {
        let mut shown = lock(&self.shown);
        let mut state = lock(&self.state);
        let blocks = state.may_plug(span)?;
        let chunks = state.chunks_of(&blocks);
        if let Err(error) = self.show(&mut shown, chunks.clone()) {
            tracing::warn!("memory device: {error}");
            self.hide_empty(&mut shown, &state, chunks);
            return Err(Response::Busy);
        }
        state.set(blocks, true);
        Ok(())
    }

    fn unplug(&self, span: Span) -> Result<(), Response> {
        let mut shown = lock(&self.shown);
        let blocks = {
            let mut state = lock(&self.state);
            let blocks = state.may_unplug(span)?;
            state.set(blocks.clone(), false);
            self.leaving.store(blocks.len() as u64 * BLOCK, Ordering::Release);
            self.hide_empty(&mut shown, &state, state.chunks_of(&blocks));
            blocks
        };
        self.give_back(blocks.start as u64 * BLOCK, blocks.len() as u64 * BLOCK);
        Ok(())
    }

    fn unplug_all(&self) {
        let mut shown = lock(&self.shown);
        let usable = {
            let mut state = lock(&self.state);
            self.leaving.store(state.plugged(), Ordering::Release);
            state.clear();
            let usable = state.usable_chunks();
            self.hide_empty(&mut shown, &state, 0..usable);
            usable
        };
        self.give_back(0, usable as u64 * self.room.chunk);
    }

    fn show(&self, shown: &mut [bool], chunks: Range<usize>) -> Result<(), VmError> {
        for chunk in chunks {
            if let Some(shown) = shown.get_mut(chunk).filter(|shown| !**shown) {
                self.slots.show(chunk)?;
                *shown = true;
            }
        }
        Ok(())
    }

    /// Hides those of the chunks that have no plugged block. One that KVM does not let go stays until it is empty another time.
    fn hide_empty(&self, shown: &mut [bool], state: &State, chunks: Range<usize>) {
        for chunk in chunks {
            if let Some(shown) = shown.get_mut(chunk).filter(|shown| **shown && state.is_empty(chunk)) {
                match self.slots.hide(chunk) {
                    Ok(()) => *shown = false,
                    Err(error) => tracing::warn!("memory device: {error}"),
                }
            }
        }
    }

    /// The end of a request that unplugs.
    fn give_back(&self, offset: u64, length: u64) {
        let start = GuestAddress(self.room.start.0 + offset);
        if let Err(error) = self.memory.discard(start, length as usize) {
            tracing::warn!("memory device: {length:#x} bytes at {:#x}: {error}", start.0);
        }
        self.leaving.store(0, Ordering::Release);
    }
}
