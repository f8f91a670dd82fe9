//! What the server looks at itself before, or instead of, virtiofsd (`struct fuse_in_header` and the arguments behind it).

use thiserror::Error;
use vm_memory::Bytes;

use crate::virtio::ring::Chain;

/// FUSE_FORGET.
const FORGET: u32 = 2;
/// FUSE_GETLK.
pub const GETLK: u32 = 31;
/// FUSE_SETLK.
pub const SETLK: u32 = 32;
/// FUSE_SETLKW.
pub const SETLKW: u32 = 33;
/// FUSE_TMPFILE.
pub const TMPFILE: u32 = 51;

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

/// What a request asks for; `None` when it is too short to say.
pub fn opcode(chain: &Chain<'_>) -> Option<u32> {
    let mut start = [0; OPCODE.end];
    read(chain, &mut start).then(|| number(&start, OPCODE) as u32)
}

/// Fills `bytes` with the beginning of a request; false when it is shorter.
fn read(chain: &Chain<'_>, bytes: &mut [u8]) -> bool {
    let mut done = 0;
    for descriptor in chain.clone().readable() {
        let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) else {
            break;
        };
        let count = rest.len().min(descriptor.len() as usize);
        let part = rest.get_mut(..count).unwrap_or_default();
        if chain.memory().read_slice(part, descriptor.addr()).is_err() {
            return false;
        }
        done += count;
    }
    done == bytes.len()
}

/// Reads what comes through the high-priority queue. Linux sends FORGET there and nothing else.
pub fn forget(chain: &Chain<'_>) -> Result<Forget, RequestError> {
    let mut request = [0; FORGET_SIZE];
    if !read(chain, &mut request) || number(&request, OPCODE) != u64::from(FORGET) {
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
