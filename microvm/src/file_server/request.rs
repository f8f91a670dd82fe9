//! What the server looks at itself before, or instead of, virtiofsd (`struct fuse_in_header` and the arguments behind it).

use thiserror::Error;
use vm_memory::Bytes;

use crate::virtio::ring::Chain;

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
    /// Not readable as a forget.
    #[error("only a whole FORGET may come through the high-priority queue")]
    NoForget,
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
