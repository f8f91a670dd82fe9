//! Which blocks are plugged, and how much the guest shall have. Decides, and changes nothing else.

use std::ops::Range;

use super::request::{BlockState, Response, Span};
use crate::memory::Hotplug;

/// What is plugged at a time, in bytes: a huge page, so that an unplugged block gives the host whole ones back.
pub const BLOCK: u64 = 2 << 20;

/// Bytes of struct virtio_mem_config (virtio 1.2, 5.15.4).
pub const CONFIG_BYTES: usize = 56;

/// The state of one region.
#[derive(Debug)]
pub struct State {
    room: Hotplug,
    /// By number of the block.
    plugged: Vec<bool>,
    plugged_count: usize,
    /// Bytes that the guest shall have.
    requested: u64,
    /// Bytes from the start on in which it may have them: whole chunks, never less than before.
    usable: u64,
}

impl State {
    /// Nothing plugged, nothing requested.
    pub fn new(room: Hotplug) -> State {
        State {
            room,
            plugged: vec![false; (room.length / BLOCK) as usize],
            plugged_count: 0,
            requested: 0,
            usable: 0,
        }
    }

    /// Bytes that are plugged.
    pub fn plugged(&self) -> u64 {
        self.plugged_count as u64 * BLOCK
    }

    /// Bytes that the guest shall have.
    pub fn requested(&self) -> u64 {
        self.requested
    }

    /// How many chunks the guest may use, from the first on.
    pub fn usable_chunks(&self) -> usize {
        (self.usable / self.room.chunk) as usize
    }

    /// The guest shall have `bytes`, rounded up to blocks, at most all there is. False: it was told so before.
    pub fn request(&mut self, bytes: u64) -> bool {
        let bytes = bytes.min(self.room.length).next_multiple_of(BLOCK);
        self.usable = self.usable.max(bytes.next_multiple_of(self.room.chunk));
        std::mem::replace(&mut self.requested, bytes) != bytes
    }

    /// The blocks to plug; `Err` is the answer to the driver.
    pub fn may_plug(&self, span: Span) -> Result<Range<usize>, Response> {
        let blocks = self.blocks(span)?;
        if self.state_of(&blocks) != BlockState::Unplugged {
            return Err(Response::Error);
        }
        if self.plugged() + blocks.len() as u64 * BLOCK > self.requested {
            return Err(Response::Nack);
        }
        Ok(blocks)
    }

    /// The blocks to unplug; `Err` is the answer to the driver.
    pub fn may_unplug(&self, span: Span) -> Result<Range<usize>, Response> {
        let blocks = self.blocks(span)?;
        match self.state_of(&blocks) {
            BlockState::Plugged => Ok(blocks),
            BlockState::Unplugged | BlockState::Mixed => Err(Response::Error),
        }
    }

    /// Whether blocks are plugged; `Err` is the answer to the driver.
    pub fn look(&self, span: Span) -> Result<BlockState, Response> {
        Ok(self.state_of(&self.blocks(span)?))
    }

    /// Takes note that blocks, all of them in the other state, are plugged or unplugged.
    pub fn set(&mut self, blocks: Range<usize>, plugged: bool) {
        let count = blocks.len();
        if let Some(blocks) = self.plugged.get_mut(blocks) {
            blocks.fill(plugged);
            self.plugged_count = match plugged {
                true => self.plugged_count + count,
                false => self.plugged_count - count,
            };
        }
    }

    /// Takes note that nothing is plugged.
    pub fn clear(&mut self) {
        self.plugged.fill(false);
        self.plugged_count = 0;
    }

    /// The chunks in which blocks lie.
    pub fn chunks_of(&self, blocks: &Range<usize>) -> Range<usize> {
        blocks.start / self.chunk_blocks()..blocks.end.div_ceil(self.chunk_blocks())
    }

    /// Whether no block of a chunk is plugged.
    pub fn is_empty(&self, chunk: usize) -> bool {
        let first = chunk * self.chunk_blocks();
        let blocks = self.plugged.get(first..first + self.chunk_blocks());
        blocks.is_none_or(|blocks| !blocks.contains(&true))
    }

    fn chunk_blocks(&self) -> usize {
        (self.room.chunk / BLOCK) as usize
    }

    /// The blocks of a request, if there are any and all of them are usable.
    fn blocks(&self, span: Span) -> Result<Range<usize>, Response> {
        let length = u64::from(span.count) * BLOCK;
        let offset = span.address.checked_sub(self.room.start.0).ok_or(Response::Error)?;
        let end = offset.checked_add(length).ok_or(Response::Error)?;
        if length == 0 || !offset.is_multiple_of(BLOCK) || end > self.usable {
            return Err(Response::Error);
        }
        Ok((offset / BLOCK) as usize..(end / BLOCK) as usize)
    }

    fn state_of(&self, blocks: &Range<usize>) -> BlockState {
        let blocks = self.plugged.get(blocks.clone()).unwrap_or_default();
        match (blocks.contains(&true), blocks.contains(&false)) {
            (true, false) => BlockState::Plugged,
            (false, _) => BlockState::Unplugged,
            (true, true) => BlockState::Mixed,
        }
    }

    /// struct virtio_mem_config: block size, node and padding, address, size, usable size, plugged size, requested size.
    pub fn config(&self) -> [u8; CONFIG_BYTES] {
        let fields = [
            BLOCK,
            0,
            self.room.start.0,
            self.room.length,
            self.usable,
            self.plugged(),
            self.requested,
        ];
        let mut config = [0; CONFIG_BYTES];
        for (byte, value) in config.iter_mut().zip(fields.into_iter().flat_map(u64::to_le_bytes)) {
            *byte = value;
        }
        config
    }
}

#[cfg(test)]
#[path = "state_test.rs"]
mod state_test;
