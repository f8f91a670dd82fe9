//! What a FUSE request must look like before virtiofsd sees it (`struct fuse_in_header` and the arguments behind it).
//!
//! Only what virtiofsd does not check itself and gives up on.

use thiserror::Error;
use vm_memory::Bytes;

use crate::virtio::ring::Chain;

/// `sizeof(struct fuse_out_header)`: every answer has one.
const OUT_HEADER: u64 = 16;

/// Bytes up to the end of `offset` in the arguments of FUSE_READ and FUSE_WRITE.
const UP_TO_OFFSET: usize = 56;

const OPCODE: std::ops::Range<usize> = 4..8;
const OFFSET: std::ops::Range<usize> = 48..56;

/// Offsets end well below 2^63, so that those of a long request do too.
const MAX_OFFSET: u64 = i64::MAX as u64 - (1 << 24);

const FUSE_READ: u32 = 15;
const FUSE_WRITE: u32 = 16;
const FUSE_READDIR: u32 = 28;
const FUSE_READDIRPLUS: u32 = 44;

/// Why a request is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// Not even a header.
    #[error("{0} bytes are no request")]
    Short(usize),
    /// The header cannot be read.
    #[error("request outside of guest memory")]
    OutOfRange,
    /// There is no room for the answer's header.
    #[error("{0} bytes are no room for an answer")]
    NoRoom(u64),
    /// The offset is beyond what a file can have.
    #[error("offset {0:#x} is out of range")]
    Offset(u64),
}

/// Looks at a request without using it up.
pub fn check(chain: &Chain<'_>) -> Result<(), RequestError> {
    let mut start = [0; UP_TO_OFFSET];
    let length = peek(chain, &mut start)?;
    let opcode = number(&start, OPCODE) as u32;
    if length < OPCODE.end {
        return Err(RequestError::Short(length));
    }
    let room: u64 = chain
        .clone()
        .writable()
        .map(|descriptor| u64::from(descriptor.len()))
        .sum();
    let needs_room = room > 0 || matches!(opcode, FUSE_READ | FUSE_READDIR | FUSE_READDIRPLUS);
    if needs_room && room < OUT_HEADER {
        return Err(RequestError::NoRoom(room));
    }
    let offset = number(&start, OFFSET);
    if matches!(opcode, FUSE_READ | FUSE_WRITE) && offset > MAX_OFFSET {
        return Err(RequestError::Offset(offset));
    }
    Ok(())
}

/// Copies the first bytes of the readable part; returns how many there were.
fn peek(chain: &Chain<'_>, start: &mut [u8]) -> Result<usize, RequestError> {
    let mut done = 0;
    for descriptor in chain.clone().readable() {
        let Some(rest) = start.get_mut(done..).filter(|rest| !rest.is_empty()) else {
            break;
        };
        let count = rest.len().min(descriptor.len() as usize);
        let Some(part) = rest.get_mut(..count) else { break };
        chain
            .memory()
            .read_slice(part, descriptor.addr())
            .map_err(|_| RequestError::OutOfRange)?;
        done += count;
    }
    Ok(done)
}

/// A little-endian number; zero where the request is shorter.
fn number(bytes: &[u8], range: std::ops::Range<usize>) -> u64 {
    bytes
        .get(range)
        .unwrap_or_default()
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}
