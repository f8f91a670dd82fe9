//! The host's end of a connection: socket calls that move bytes between a stream and guest memory without a copy in between.
//!
//! Opts into unsafe code for `recvmsg` and `sendmsg`: their buffers are guest memory, which must never become a slice or a
//! reference, so the safe wrappers of other crates cannot be used. Nothing here ever waits.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;
use vm_memory::VolatileSlice;

use crate::virtio::buffers::MAX_PIECES;

/// Receives into `pieces` as much as is there; 0 is the end of the stream, `WouldBlock` means that nothing is there yet.
pub fn receive(stream: BorrowedFd<'_>, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let guards: Vec<_> = pieces
        .iter()
        .take(MAX_PIECES)
        .map(VolatileSlice::ptr_guard_mut)
        .collect();
    let mut vectors: Vec<libc::iovec> = guards
        .iter()
        .map(|guard| libc::iovec {
            iov_base: guard.as_ptr().cast(),
            iov_len: guard.len(),
        })
        .collect();
    let mut message = message_of(&mut vectors);
    // SAFETY: `message` points to `vectors`, whose entries lie in guest memory that the guards keep mapped; only the system
    // writes there, and guest memory may change at any time anyway.
    checked(|| unsafe {
        libc::recvmsg(
            stream.as_raw_fd(),
            &mut message,
            libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
        )
    })
}

/// Sends of `pieces` as much as the stream takes now; `WouldBlock` means nothing.
pub fn send(stream: BorrowedFd<'_>, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let guards: Vec<_> = pieces.iter().take(MAX_PIECES).map(VolatileSlice::ptr_guard).collect();
    let mut vectors: Vec<libc::iovec> = guards
        .iter()
        .map(|guard| libc::iovec {
            iov_base: guard.as_ptr().cast_mut().cast(),
            iov_len: guard.len(),
        })
        .collect();
    let message = message_of(&mut vectors);
    // SAFETY: as above, and the system only reads.
    checked(|| unsafe { libc::sendmsg(stream.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

/// Sends of `bytes` as much as the stream takes now; `WouldBlock` means nothing.
pub fn send_bytes(stream: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of a slice that lives across the call.
    checked(|| unsafe {
        libc::send(
            stream.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    })
}

fn message_of(vectors: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all zeroes is a valid msghdr: no name, no control data, no pieces.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr();
    message.msg_iovlen = vectors.len();
    message
}

/// Makes the call again while a signal interrupts it.
fn checked(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
