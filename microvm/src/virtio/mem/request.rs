//! Requests and responses as they lie in the buffers (virtio 1.2, 5.15.6).

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::virtio::buffers::Buffers;

/// Bytes of a response, whatever it says.
pub const RESPONSE_BYTES: usize = 10;

/// Request types.
mod kind {
    pub const PLUG: u16 = 0;
    pub const UNPLUG: u16 = 1;
    pub const UNPLUG_ALL: u16 = 2;
    pub const STATE: u16 = 3;
}

/// struct virtio_mem_req.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawRequest {
    kind: u16,
    padding: [u16; 3],
    address: u64,
    blocks: u16,
    more_padding: [u16; 3],
}

/// Blocks as the driver names them; nothing is checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Guest-physical address of the first one.
    pub address: u64,
    /// How many.
    pub count: u16,
}

/// What the driver wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// These blocks.
    Plug(Span),
    /// To be rid of these blocks.
    Unplug(Span),
    /// To be rid of all blocks.
    UnplugAll,
    /// To know whether these blocks are plugged.
    State(Span),
}

/// Whether blocks are plugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum BlockState {
    /// All of them.
    Plugged = 0,
    /// None of them.
    Unplugged = 1,
    /// Some of them.
    Mixed = 2,
}

/// What the device answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// Done.
    Ack,
    /// Not with what is requested of the guest now; Linux looks at that again.
    Nack,
    /// Not now; Linux tries again after a while.
    Busy,
    /// The request makes no sense; Linux gives the device up.
    Error,
    /// Done, and this is the answer.
    State(BlockState),
}

impl Response {
    /// struct virtio_mem_resp.
    pub fn bytes(self) -> [u8; RESPONSE_BYTES] {
        let (kind, state) = match self {
            Response::Ack => (0u8, 0u8),
            Response::Nack => (1, 0),
            Response::Busy => (2, 0),
            Response::Error => (3, 0),
            Response::State(state) => (0, state as u8),
        };
        [kind, 0, 0, 0, 0, 0, 0, 0, state, 0]
    }
}

/// Reads a request; `None` for one that is too short or unknown.
pub fn parse(readable: &Buffers<'_>) -> Option<Request> {
    let mut raw = RawRequest::new_zeroed();
    if readable.copy_to(raw.as_mut_bytes()) < size_of::<RawRequest>() {
        return None;
    }
    let span = Span {
        address: raw.address,
        count: raw.blocks,
    };
    match raw.kind {
        kind::PLUG => Some(Request::Plug(span)),
        kind::UNPLUG => Some(Request::Unplug(span)),
        kind::UNPLUG_ALL => Some(Request::UnplugAll),
        kind::STATE => Some(Request::State(span)),
        _ => None,
    }
}
