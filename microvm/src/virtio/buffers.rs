//! The guest memory behind one descriptor chain, as volatile slices whose bounds are already checked.

use thiserror::Error;
use vm_memory::{Bytes, GuestMemory as _, VolatileSlice};

use super::device::GuestMemory;
use super::ring::Chain;

/// Why a chain cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BufferError {
    /// A descriptor points outside of guest memory.
    #[error("descriptor outside of guest memory")]
    OutOfRange,
    /// A device-readable descriptor where only device-writable ones belong, or the reverse.
    #[error("descriptor of the wrong direction")]
    WrongDirection,
    /// More pieces than any driver makes.
    #[error("more than {MAX_PIECES} pieces")]
    TooManyPieces,
}

/// Most pieces of one chain, and of one vectored system call (UIO_MAXIOV). An indirect table may hold 65,535 descriptors, so without
/// a bound a small table would cost the process a hundred times its size. Drivers stay below the queue's size (virtio 1.2,
/// 2.7.5.3.1), and no queue here is larger.
pub const MAX_PIECES: usize = 1024;

/// Which way the device uses a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The device reads it.
    Readable,
    /// The device writes it.
    Writable,
}

/// Consecutive pieces of guest memory.
#[derive(Debug, Clone, Default)]
pub struct Buffers<'m> {
    slices: Vec<VolatileSlice<'m>>,
    length: usize,
}

impl<'m> Buffers<'m> {
    /// All of `chain`, every descriptor of which must have the given direction.
    pub fn collect(
        memory: &'m GuestMemory,
        chain: Chain<'m>,
        direction: Direction,
    ) -> Result<Buffers<'m>, BufferError> {
        let mut buffers = Buffers::default();
        for descriptor in chain {
            if descriptor.is_write_only() != (direction == Direction::Writable) {
                return Err(BufferError::WrongDirection);
            }
            for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
                buffers.push(slice.map_err(|_| BufferError::OutOfRange)?)?;
            }
        }
        Ok(buffers)
    }

    /// The device-readable and the device-writable half of `chain`; `None` if a descriptor leaves guest memory, there are too many, or
    /// a readable one follows a writable one.
    pub fn split(memory: &'m GuestMemory, chain: Chain<'m>) -> Option<(Buffers<'m>, Buffers<'m>)> {
        let mut halves = (Buffers::default(), Buffers::default());
        for descriptor in chain {
            let half = match (descriptor.is_write_only(), halves.1.len()) {
                (true, _) => &mut halves.1,
                (false, 0) => &mut halves.0,
                (false, _) => return None,
            };
            for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
                half.push(slice.ok()?).ok()?;
            }
        }
        Some(halves)
    }

    pub(super) fn push(&mut self, slice: VolatileSlice<'m>) -> Result<(), BufferError> {
        if self.slices.len() == MAX_PIECES {
            return Err(BufferError::TooManyPieces);
        }
        // A chain is at most 2^32 bytes long, which virtio-queue enforces.
        self.length += slice.len();
        if !slice.is_empty() {
            self.slices.push(slice);
        }
        Ok(())
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.length
    }

    /// The pieces in order; none is empty.
    pub fn slices(&self) -> &[VolatileSlice<'m>] {
        &self.slices
    }

    /// The part from byte `start` on, at most `count` bytes of it.
    pub fn part(&self, start: usize, count: usize) -> Buffers<'m> {
        let mut part = Buffers::default();
        let mut skip = start;
        let mut wanted = count;
        for slice in &self.slices {
            if wanted == 0 {
                break;
            }
            let from = skip.min(slice.len());
            skip -= from;
            let take = wanted.min(slice.len() - from);
            if let Ok(piece) = slice.subslice(from, take)
                && part.push(piece).is_ok()
            {
                wanted -= take;
            }
        }
        part
    }

    /// Copies the first bytes into `out`; returns how many there were.
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in &self.slices {
            let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            done += slice.copy_to(rest);
        }
        done
    }

    /// Overwrites the first bytes with `data`; returns how many fitted.
    pub fn copy_from(&self, data: &[u8]) -> usize {
        let mut done = 0;
        for slice in &self.slices {
            let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            done += slice.write(rest, 0).unwrap_or(0);
        }
        done
    }
}

/// Copies the part of a config space from `offset` on into `data`; what lies beyond its end reads as zero.
pub fn copy_config(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| config.get(offset..))
        .unwrap_or_default();
    data.fill(0);
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}
