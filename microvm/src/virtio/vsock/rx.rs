//! The receive queue: buffers that the guest offers for packets towards it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use vm_memory::VolatileSlice;
use zerocopy::IntoBytes;

use super::packet::{HEADER_SIZE, Header, MAX_PAYLOAD};
use super::stream;
use crate::virtio::buffers::{Buffers, Direction};
use crate::virtio::device::GuestMemory;
use crate::virtio::ring::Ring;

/// Most buffers that one read of a stream fills.
const BATCH: usize = 64;

/// A buffer of the guest, with room for a header at least.
struct RxBuffer<'m> {
    head: u16,
    memory: Buffers<'m>,
}

impl RxBuffer<'_> {
    fn capacity(&self) -> usize {
        (self.memory.len() - HEADER_SIZE).min(MAX_PAYLOAD)
    }
}

/// What came of reading a stream into the guest's buffers.
pub enum Delivery {
    /// That many bytes went to the guest; there may be more.
    Filled(usize),
    /// That many bytes went to the guest, and for now there are no more. May be zero.
    Emptied(usize),
    /// The stream has ended.
    Ended,
    /// The guest has no buffer.
    NoBuffer,
}

/// The receive queue with the buffers that were taken from it and not used yet.
pub struct RxQueue<'m> {
    ring: Ring,
    memory: &'m GuestMemory,
    waiting: VecDeque<RxBuffer<'m>>,
    starved: bool,
}

impl<'m> RxQueue<'m> {
    /// Kicks are asked for only while there is something to send and nowhere to put it.
    pub fn new(mut ring: Ring, memory: &'m GuestMemory) -> RxQueue<'m> {
        ring.spare_kicks(memory);
        RxQueue {
            ring,
            memory,
            waiting: VecDeque::new(),
            starved: false,
        }
    }

    /// The driver kicked.
    pub fn kicked(&mut self) {
        self.ring.clear_kick();
        self.starved = false;
    }

    /// Something could not be sent for lack of buffers, and the driver has not kicked since.
    pub fn is_starved(&self) -> bool {
        self.starved
    }

    /// Interrupts the driver if it is due.
    pub fn notify(&mut self) {
        self.ring.notify(self.memory);
    }

    /// Whether a packet could be sent now. If not, the queue counts as starved until the driver kicks.
    pub fn has_buffer(&mut self) -> bool {
        self.prepare(1);
        !self.waiting.is_empty()
    }

    /// Sends a packet without payload. False when there is no buffer.
    pub fn send(&mut self, header: &Header) -> bool {
        self.prepare(1);
        let Some(buffer) = self.waiting.pop_front() else {
            return false;
        };
        self.fill(&buffer, *header, 0);
        true
    }

    /// Reads at most `limit` bytes (more than zero) from `stream` straight into the guest's buffers, each of which becomes a
    /// packet with this header.
    pub fn deliver(&mut self, stream: BorrowedFd<'_>, limit: usize, header: &Header) -> Delivery {
        self.prepare(BATCH);
        let mut pieces: Vec<VolatileSlice<'m>> = Vec::with_capacity(self.waiting.len());
        let mut room = 0;
        for buffer in &self.waiting {
            let count = buffer.capacity().min(limit - room);
            pieces.extend_from_slice(buffer.memory.part(HEADER_SIZE, count).slices());
            room += count;
            if room == limit {
                break;
            }
        }
        if room == 0 {
            return Delivery::NoBuffer;
        }
        match stream::receive(stream, &pieces) {
            Ok(0) => Delivery::Ended,
            Ok(count) => {
                self.fill_many(header, count);
                if count < room {
                    Delivery::Emptied(count)
                } else {
                    Delivery::Filled(count)
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Delivery::Emptied(0),
            // The other end was closed before it had read everything: no more will come.
            Err(_) => Delivery::Ended,
        }
    }

    /// `count` bytes were put behind the headers of the first buffers: complete these as packets.
    fn fill_many(&mut self, header: &Header, mut count: usize) {
        while count > 0 {
            let Some(buffer) = self.waiting.pop_front() else { break };
            let payload = buffer.capacity().min(count);
            count -= payload;
            self.fill(&buffer, *header, payload);
        }
    }

    fn fill(&mut self, buffer: &RxBuffer<'_>, mut header: Header, payload: usize) {
        // A payload is at most MAX_PAYLOAD.
        header.len = (payload as u32).into();
        buffer.memory.copy_from(header.as_bytes());
        self.ring
            .give_back(self.memory, buffer.head, (HEADER_SIZE + payload) as u32);
    }

    /// Takes buffers from the ring until `count` wait, or asks for a kick when there is none at all.
    fn prepare(&mut self, count: usize) {
        loop {
            while self.waiting.len() < count {
                let Some(chain) = self.ring.pop(self.memory) else { break };
                let head = chain.head_index();
                match Buffers::collect(self.memory, chain, Direction::Writable) {
                    // A buffer without room for one byte of payload could make data wait for ever.
                    Ok(memory) if memory.len() > HEADER_SIZE => self.waiting.push_back(RxBuffer { head, memory }),
                    _ => self.ring.give_back(self.memory, head, 0),
                }
            }
            if !self.waiting.is_empty() || !self.ring.ask_for_kick(self.memory) {
                break;
            }
        }
        if self.waiting.is_empty() {
            self.starved = true;
        } else {
            self.ring.spare_kicks(self.memory);
        }
    }
}
