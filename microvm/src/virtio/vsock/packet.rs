//! Packets on the wire: `struct virtio_vsock_hdr` (virtio 1.2, 5.10.6) and what its fields may hold.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a header; the payload follows immediately.
pub const HEADER_SIZE: usize = size_of::<Header>();

/// The host's context id.
pub const HOST_CID: u64 = 2;

/// Largest payload of one packet in bytes, both ways. Linux sends no larger one.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// VIRTIO_VSOCK_TYPE_STREAM, the only socket type that is served.
pub const TYPE_STREAM: u16 = 1;

/// VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE: the sender of the packet will receive no more data.
pub const SHUTDOWN_RECEIVE: u32 = 1;

/// VIRTIO_VSOCK_SHUTDOWN_F_SEND: the sender of the packet will send no more data.
pub const SHUTDOWN_SEND: u32 = 2;

/// The header of every packet.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub struct Header {
    /// Context id of the sender.
    pub src_cid: U64,
    /// Context id of the receiver.
    pub dst_cid: U64,
    /// Port of the sender.
    pub src_port: U32,
    /// Port of the receiver.
    pub dst_port: U32,
    /// Bytes of payload.
    pub len: U32,
    /// Socket type.
    pub kind: U16,
    /// Operation, see [`Op`].
    pub op: U16,
    /// Shutdown bits.
    pub flags: U32,
    /// Size of the sender's receive buffer for this connection.
    pub buf_alloc: U32,
    /// Bytes of this connection that the sender's application has taken, modulo 2^32.
    pub fwd_cnt: U32,
}

/// Operations (virtio 1.2, 5.10.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Ask for a connection.
    Request = 1,
    /// Accept a connection.
    Response = 2,
    /// Refuse or abort a connection; never answered.
    Reset = 3,
    /// Say which directions are finished.
    Shutdown = 4,
    /// Carry payload.
    Data = 5,
    /// Tell `buf_alloc` and `fwd_cnt`.
    CreditUpdate = 6,
    /// Ask for a credit update.
    CreditRequest = 7,
}

impl Op {
    /// The operation that the number stands for.
    pub fn from_wire(value: u16) -> Option<Op> {
        [
            Op::Request,
            Op::Response,
            Op::Reset,
            Op::Shutdown,
            Op::Data,
            Op::CreditUpdate,
            Op::CreditRequest,
        ]
        .into_iter()
        .find(|op| *op as u16 == value)
    }
}

impl Header {
    /// The reset that answers this packet, from its receiver to its sender.
    pub fn reset_in_reply(&self) -> Header {
        Header {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: (Op::Reset as u16).into(),
            ..Header::default()
        }
    }
}
