//! Flow control of one connection (virtio 1.2, 5.10.6.3): each side says how large its receive buffer is and how much of what it
//! ever received its application has taken. All counts are modulo 2^32.

/// What the guest may have on the way to the host in one connection, in bytes, at most: the bound of the buffer for a stream
/// that takes no more.
pub const RECEIVE_BUFFER: u32 = 256 * 1024;

/// What a connection gets however many there are, in bytes.
const LEAST: u32 = 4 * 1024;

/// What all connections together may have, in bytes, as long as each gets more than the least.
const BUDGET: u32 = 32 << 20;

/// A share of the budget, so that it is never used up: many connections get smaller buffers than few.
const PART: u32 = 8;

/// What the connections of a device may hold on the host.
#[derive(Debug, Default)]
pub struct Budget {
    used: u32,
}

impl Budget {
    /// The receive buffer of a new connection; back with [`Budget::give_back`].
    pub fn take(&mut self) -> u32 {
        let size = (BUDGET.saturating_sub(self.used) / PART).clamp(LEAST, RECEIVE_BUFFER);
        self.used += size;
        size
    }

    /// The connection is gone.
    pub fn give_back(&mut self, size: u32) {
        self.used -= size;
    }
}

/// Both directions' counters.
#[derive(Debug)]
pub struct Credit {
    /// What the guest may have on the way.
    buffer: u32,
    /// Payload bytes sent to the guest.
    sent: u32,
    /// The guest's receive buffer.
    peer_buffer: u32,
    /// What the guest's application has taken.
    peer_taken: u32,
    /// Payload bytes received from the guest.
    received: u32,
    /// What the host's stream has taken.
    taken: u32,
    /// The value of `taken` that the guest was told last.
    announced: u32,
}

impl Credit {
    /// Nothing sent yet, and room for `buffer` bytes from the guest.
    pub fn new(buffer: u32) -> Credit {
        Credit {
            buffer,
            sent: 0,
            peer_buffer: 0,
            peer_taken: 0,
            received: 0,
            taken: 0,
            announced: 0,
        }
    }

    /// Room for bytes from the guest.
    pub fn buffer(&self) -> u32 {
        self.buffer
    }

    /// A packet of the guest says how its buffer is.
    pub fn heard(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.peer_buffer = buf_alloc;
        self.peer_taken = fwd_cnt;
    }

    /// Bytes that may be sent to the guest now. A guest that claims to have taken more than it was sent gets nothing.
    pub fn available(&self) -> u32 {
        self.peer_buffer.saturating_sub(self.sent.wrapping_sub(self.peer_taken))
    }

    /// `count` bytes go to the guest.
    pub fn send(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }

    /// `count` bytes came from the guest. False when that is more than it had credit for.
    #[must_use]
    pub fn receive(&mut self, count: u32) -> bool {
        let held = self.received.wrapping_sub(self.taken);
        self.received = self.received.wrapping_add(count);
        held.checked_add(count).is_some_and(|held| held <= self.buffer)
    }

    /// The host's stream took `count` bytes. True when the guest should hear of it now and not with the next packet.
    #[must_use]
    pub fn take(&mut self, count: u32) -> bool {
        self.taken = self.taken.wrapping_add(count);
        self.taken.wrapping_sub(self.announced) >= self.buffer / 2
    }

    /// What a packet to the guest says: (`buf_alloc`, `fwd_cnt`).
    pub fn granted(&self) -> (u32, u32) {
        (self.buffer, self.taken)
    }

    /// A packet with [`Credit::granted`] went out.
    pub fn announced(&mut self) {
        self.announced = self.taken;
    }
}

#[cfg(test)]
#[path = "credit_test.rs"]
mod credit_test;
