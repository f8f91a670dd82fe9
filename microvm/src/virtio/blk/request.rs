//! From a descriptor chain to a request (virtio 1.2, 5.2.6).
//!
//! The driver sends a header of 16 bytes, data to write or room for data to read, and one last writable byte for the status.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::SECTOR;
use crate::virtio::buffers::Buffers;
use crate::virtio::device::GuestMemory;
use crate::virtio::ring::Chain;

/// Most ranges in one discard or write-zeroes request.
pub const MAX_RANGES: usize = 16;
/// Most sectors in one such range: 1 GiB.
pub const MAX_RANGE_SECTORS: u32 = 1 << 21;
/// Bytes of the serial number that a driver reads.
pub const SERIAL_BYTES: usize = 20;

/// Request types.
mod kind {
    pub const READ: u32 = 0;
    pub const WRITE: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// Flag of a write-zeroes range: the sectors may be deallocated.
const MAY_UNMAP: u32 = 1;

/// What the status byte says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed, or not allowed.
    IoError = 1,
    /// Unknown to this device.
    Unsupported = 2,
}

/// Header of every request.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    kind: u32,
    reserved: u32,
    sector: u64,
}

/// One range of a discard or write-zeroes request.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawRange {
    sector: u64,
    sectors: u32,
    flags: u32,
}

/// A checked byte range of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// The driver does not mind losing the allocation.
    pub may_unmap: bool,
}

/// What the driver wants, within the disk's bounds.
#[derive(Debug, Clone)]
pub enum Request<'m> {
    /// Read from byte `start` into `data`.
    Read {
        /// First byte.
        start: u64,
        /// Where to.
        data: Buffers<'m>,
    },
    /// Write `data` from byte `start` on.
    Write {
        /// First byte.
        start: u64,
        /// What.
        data: Buffers<'m>,
    },
    /// Make everything written durable.
    Flush,
    /// Tell the serial number.
    GetId {
        /// Where to.
        data: Buffers<'m>,
    },
    /// Content of these ranges is not needed any more.
    Discard(Vec<Range>),
    /// These ranges shall read as zeros.
    WriteZeroes(Vec<Range>),
}

/// A request and where its status goes.
#[derive(Debug)]
pub struct Parsed<'m> {
    /// What to do, or the status to answer at once.
    pub request: Result<Request<'m>, Status>,
    /// One writable byte.
    pub status: Buffers<'m>,
}

/// The parts of the disk that requests are checked against.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Size in bytes.
    pub capacity: u64,
    /// Refuse everything that changes it.
    pub read_only: bool,
}

/// Parses a chain. `None`: there is no byte to answer in, so it can only be given back.
pub fn parse<'m>(memory: &'m GuestMemory, chain: Chain<'m>, bounds: Bounds) -> Option<Parsed<'m>> {
    let (readable, writable) = Buffers::split(memory, chain)?;
    let room = writable.len().checked_sub(1)?;
    let status = writable.part(room, 1);
    let request = parse_request(&readable, writable.part(0, room), bounds);
    Some(Parsed { request, status })
}

fn parse_request<'m>(readable: &Buffers<'m>, room: Buffers<'m>, bounds: Bounds) -> Result<Request<'m>, Status> {
    let mut header = Header::new_zeroed();
    if readable.copy_to(header.as_mut_bytes()) < size_of::<Header>() {
        return Err(Status::IoError);
    }
    let payload = readable.part(size_of::<Header>(), usize::MAX);
    match header.kind {
        kind::READ => {
            let start = check(header.sector, room.len() as u64, bounds)?;
            Ok(Request::Read { start, data: room })
        }
        kind::WRITE => {
            writable(bounds)?;
            let start = check(header.sector, payload.len() as u64, bounds)?;
            Ok(Request::Write { start, data: payload })
        }
        kind::FLUSH => Ok(Request::Flush),
        kind::GET_ID if room.len() >= SERIAL_BYTES => Ok(Request::GetId { data: room }),
        kind::GET_ID => Err(Status::IoError),
        kind::DISCARD => {
            writable(bounds)?;
            // A discard never carries the flag.
            ranges(&payload, bounds, 0).map(Request::Discard)
        }
        kind::WRITE_ZEROES => {
            writable(bounds)?;
            ranges(&payload, bounds, MAY_UNMAP).map(Request::WriteZeroes)
        }
        _ => Err(Status::Unsupported),
    }
}

fn writable(bounds: Bounds) -> Result<(), Status> {
    if bounds.read_only { Err(Status::IoError) } else { Ok(()) }
}

/// First byte of `length` bytes from `sector` on, if they are whole sectors inside the disk.
fn check(sector: u64, length: u64, bounds: Bounds) -> Result<u64, Status> {
    let start = sector.checked_mul(SECTOR).ok_or(Status::IoError)?;
    let end = start.checked_add(length).ok_or(Status::IoError)?;
    if end <= bounds.capacity && length.is_multiple_of(SECTOR) {
        Ok(start)
    } else {
        Err(Status::IoError)
    }
}

fn ranges(payload: &Buffers<'_>, bounds: Bounds, allowed_flags: u32) -> Result<Vec<Range>, Status> {
    let count = payload.len() / size_of::<RawRange>();
    if !payload.len().is_multiple_of(size_of::<RawRange>()) || !(1..=MAX_RANGES).contains(&count) {
        return Err(Status::IoError);
    }
    let parse = |index: usize| {
        let mut raw = RawRange::new_zeroed();
        payload
            .part(index * size_of::<RawRange>(), size_of::<RawRange>())
            .copy_to(raw.as_mut_bytes());
        if raw.flags & !allowed_flags != 0 {
            return Err(Status::Unsupported);
        }
        if raw.sectors > MAX_RANGE_SECTORS {
            return Err(Status::IoError);
        }
        let length = u64::from(raw.sectors) * SECTOR;
        Ok(Range {
            start: check(raw.sector, length, bounds)?,
            length,
            may_unmap: raw.flags & MAY_UNMAP != 0,
        })
    };
    (0..count).map(parse).collect()
}

#[cfg(test)]
#[path = "request_test.rs"]
mod request_test;
