//! The file behind a disk.
//!
//! Unsafe, because vectored I/O on guest memory has no safe wrapper.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc::{self, iovec};
use thiserror::Error;

use super::SECTOR;
use super::request::{Bounds, Range, Request, SERIAL_BYTES, Status};
use crate::virtio::buffers::{Buffers, MAX_PIECES};

/// Why a descriptor is no disk.
#[derive(Debug, Error)]
pub enum DiskError {
    /// Its size is unknown.
    #[error("disk {id}: cannot find its size: {source}")]
    Size {
        /// The disk's name.
        id: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Too small.
    #[error("disk {id}: {bytes} bytes are less than one sector of {SECTOR}")]
    Empty {
        /// The disk's name.
        id: String,
        /// Its size.
        bytes: u64,
    },
}

/// An open disk.
#[derive(Debug)]
pub struct Disk {
    file: File,
    id: String,
    bounds: Bounds,
}

impl Disk {
    /// A file or block device; what is beyond the last whole sector is not visible.
    pub fn new(file: File, id: String, read_only: bool) -> Result<Disk, DiskError> {
        let bytes = match (&file).seek(SeekFrom::End(0)) {
            Ok(bytes) => bytes,
            Err(source) => return Err(DiskError::Size { id, source }),
        };
        let capacity = bytes / SECTOR * SECTOR;
        if capacity == 0 {
            return Err(DiskError::Empty { id, bytes });
        }
        Ok(Disk {
            file,
            id,
            bounds: Bounds { capacity, read_only },
        })
    }

    /// What requests are checked against.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Another handle of the same disk, for a worker.
    pub fn try_clone(&self) -> std::io::Result<Disk> {
        Ok(Disk {
            file: self.file.try_clone()?,
            id: self.id.clone(),
            bounds: self.bounds,
        })
    }

    /// Performs a request; returns the status and how many bytes of its room were filled.
    pub fn perform(&self, request: &Request<'_>) -> (Status, u32) {
        let done = match request {
            Request::Read { start, data } => self.transfer(data, *start, libc::preadv),
            Request::Write { start, data } => self.transfer(data, *start, libc::pwritev).map(|_| 0),
            Request::Flush => self.file.sync_data().map(|()| 0).map_err(into_errno),
            Request::GetId { data } => {
                let mut serial = [0u8; SERIAL_BYTES];
                for (to, from) in serial.iter_mut().zip(self.id.bytes()) {
                    *to = from;
                }
                Ok(data.copy_from(&serial) as u32)
            }
            Request::Discard(ranges) => self.each(ranges, FallocateFlags::FALLOC_FL_PUNCH_HOLE),
            Request::WriteZeroes(ranges) => {
                let (unmap, keep): (Vec<Range>, Vec<Range>) = ranges.iter().partition(|range| range.may_unmap);
                self.each(&unmap, FallocateFlags::FALLOC_FL_PUNCH_HOLE)
                    .and_then(|_| self.each(&keep, FallocateFlags::FALLOC_FL_ZERO_RANGE))
            }
        };
        match done {
            Ok(filled) => (Status::Ok, filled),
            Err(Errno::EOPNOTSUPP) => (Status::Unsupported, 0),
            Err(error) => {
                tracing::warn!("disk {}: {error}", self.id);
                (Status::IoError, 0)
            }
        }
    }

    fn each(&self, ranges: &[Range], mode: FallocateFlags) -> Result<u32, Errno> {
        for range in ranges.iter().filter(|range| range.length > 0) {
            let mode = mode | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(&self.file, mode, range.start as i64, range.length as i64)?;
        }
        Ok(0)
    }

    /// Moves all of `data` from or to byte `start` on; returns how many bytes that were.
    fn transfer(
        &self,
        data: &Buffers<'_>,
        start: u64,
        call: unsafe extern "C" fn(libc::c_int, *const iovec, libc::c_int, libc::off_t) -> libc::ssize_t,
    ) -> Result<u32, Errno> {
        let mut done = 0;
        while done < data.len() {
            let rest = data.part(done, usize::MAX);
            let guards: Vec<_> = rest
                .slices()
                .iter()
                .take(MAX_PIECES)
                .map(|slice| slice.ptr_guard_mut())
                .collect();
            let pieces: Vec<iovec> = guards
                .iter()
                .map(|guard| iovec {
                    iov_base: guard.as_ptr().cast(),
                    iov_len: guard.len(),
                })
                .collect();
            // SAFETY: every piece lies in guest memory, which `data` borrows; the kernel's accesses to it are no Rust references,
            // and what the guest does to that memory meanwhile is its own business.
            let moved = unsafe {
                call(
                    self.file.as_raw_fd(),
                    pieces.as_ptr(),
                    pieces.len() as i32,
                    (start + done as u64) as i64,
                )
            };
            match Errno::result(moved) {
                // The file became shorter.
                Ok(0) => return Err(Errno::EIO),
                Ok(moved) => done += moved as usize,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done as u32)
    }
}

fn into_errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
