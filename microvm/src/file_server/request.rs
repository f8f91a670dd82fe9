//! What the server looks at itself before, or instead of, virtiofsd (`struct fuse_in_header` and the arguments behind it).

use thiserror::Error;
use vm_memory::Bytes;

use crate::virtio::ring::Chain;

/// `sizeof(struct fuse_out_header)`: every answer has one.
const OUT_HEADER: u64 = 16;

/// FUSE_FORGET.
const FORGET: u32 = 2;

/// A header and `struct fuse_forget_in`.
const FORGET_SIZE: usize = 48;

const OPCODE: std::ops::Range<usize> = 4..8;
const NODE: std::ops::Range<usize> = 16..24;
const COUNT: std::ops::Range<usize> = 40..48;

/// Why a request is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// There is no room for the answer's header; virtiofsd panics without.
    #[error("{0} bytes are no room for an answer")]
    NoRoom(u64),
    /// Not readable as a forget.
    #[error("only a whole FORGET may come through the high-priority queue")]
    NoForget,
}

/// Whether a request of the request queue may go to virtiofsd: every one of them has an answer, with a header at least.
pub fn check(chain: &Chain<'_>) -> Result<(), RequestError> {
    let room: u64 = chain
        .clone()
        .writable()
        .map(|descriptor| u64::from(descriptor.len()))
        .sum();
    if room < OUT_HEADER {
        Err(RequestError::NoRoom(room))
    } else {
        Ok(())
    }
}

/// The guest gives up lookups of a node.
#[derive(Debug, PartialEq, Eq)]
pub struct Forget {
    /// The node.
    pub node: u64,
    /// How many lookups.
    pub count: u64,
}

/// Reads what comes through the high-priority queue. Linux sends FORGET there and nothing else.
pub fn forget(chain: &Chain<'_>) -> Result<Forget, RequestError> {
    let mut request = [0; FORGET_SIZE];
    let mut done = 0;
    for descriptor in chain.clone().readable() {
        let Some(rest) = request.get_mut(done..).filter(|rest| !rest.is_empty()) else {
            break;
        };
        let count = rest.len().min(descriptor.len() as usize);
        let part = rest.get_mut(..count).unwrap_or_default();
        chain
            .memory()
            .read_slice(part, descriptor.addr())
            .map_err(|_| RequestError::NoForget)?;
        done += count;
    }
    if done < FORGET_SIZE || number(&request, OPCODE) != u64::from(FORGET) {
        return Err(RequestError::NoForget);
    }
    Ok(Forget {
        node: number(&request, NODE),
        count: number(&request, COUNT),
    })
}

/// A little-endian number.
fn number(bytes: &[u8], range: std::ops::Range<usize>) -> u64 {
    bytes
        .get(range)
        .unwrap_or_default()
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}
