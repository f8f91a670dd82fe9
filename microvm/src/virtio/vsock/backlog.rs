//! What a guest sent and the host's stream has not taken yet. Bounded by the credit that the guest was given.

use std::io;
use std::os::fd::BorrowedFd;

use super::stream;
use crate::virtio::buffers::Buffers;

/// Bytes in order.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
}

impl Backlog {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Copies `payload` behind what waits already.
    pub fn push(&mut self, payload: &Buffers<'_>) {
        if self.sent > 0 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        let start = self.bytes.len();
        self.bytes.resize(start + payload.len(), 0);
        if let Some(room) = self.bytes.get_mut(start..) {
            payload.copy_to(room);
        }
    }

    /// Sends what the stream takes now; returns how much that was.
    pub fn flush(&mut self, stream: BorrowedFd<'_>) -> io::Result<usize> {
        let Some(rest) = self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()) else {
            return Ok(0);
        };
        let count = stream::send_bytes(stream, rest)?;
        self.sent += count;
        if self.is_empty() {
            self.clear();
        }
        Ok(count)
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = Backlog::default();
    }
}
