//! One end of the control socket: whole messages in and out, with their descriptors.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Largest packet in bytes; a longer one is refused on both sides.
pub const MAX_PACKET: usize = 64 * 1024;

/// Most descriptors in one packet.
pub const MAX_FDS: usize = 32;

/// The kernel's own bound (SCM_MAX_FD, unix(7)). Room for that many is always offered, so that a peer that sends too many cannot
/// make the kernel install descriptors which nobody then owns.
const KERNEL_MAX_FDS: usize = 253;

/// Why a message did not come through.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The peer is gone.
    #[error("the control socket was closed by the other side")]
    Closed,
    /// No packet is there and the call was told not to wait.
    #[error("no message is waiting on the control socket")]
    WouldBlock,
    /// The system call failed.
    #[error("control socket: {0}")]
    Io(#[source] Errno),
    /// A packet was cut off: larger than [`MAX_PACKET`] or with more than [`MAX_FDS`] descriptors.
    #[error("control message larger than the protocol allows")]
    TooLarge,
    /// The bytes are no message.
    #[error("control message cannot be decoded: {0}")]
    Malformed(#[source] postcard::Error),
}

/// One end of the control socket.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

impl Channel {
    /// A connected pair, both close-on-exec.
    pub fn pair() -> Result<(Channel, Channel), ChannelError> {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(ChannelError::Io)?;
        Ok((Channel { socket: a }, Channel { socket: b }))
    }

    /// Takes over a SOCK_SEQPACKET socket, for the vmm: its inherited descriptor.
    pub fn from_fd(socket: OwnedFd) -> Channel {
        Channel { socket }
    }

    /// Gives the socket away, for the runtime: to pass it to the new process.
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// Sends one message with its descriptors; waits while the socket's buffer is full, unless the socket is non-blocking.
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let bytes = postcard::to_allocvec(message).map_err(ChannelError::Malformed)?;
        if bytes.len() > MAX_PACKET || fds.len() > MAX_FDS {
            return Err(ChannelError::TooLarge);
        }
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        loop {
            match sendmsg::<()>(
                self.socket.as_raw_fd(),
                &[IoSlice::new(&bytes)],
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(into_error(e)),
            }
        }
    }

    /// Receives one message with its descriptors (close-on-exec); waits for it, unless the socket is non-blocking.
    pub fn receive<M: DeserializeOwned>(&self) -> Result<(M, Vec<OwnedFd>), ChannelError> {
        let mut bytes = vec![0u8; MAX_PACKET];
        let mut control = cmsg_space!([RawFd; KERNEL_MAX_FDS]);
        let (length, fds, flags) = loop {
            let mut iov = [IoSliceMut::new(&mut bytes)];
            match recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut iov,
                Some(&mut control),
                MsgFlags::MSG_CMSG_CLOEXEC,
            ) {
                Ok(message) => break (message.bytes, received_fds(&message)?, message.flags),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(into_error(e)),
            }
        };
        if length == 0 {
            return Err(ChannelError::Closed);
        }
        if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) || fds.len() > MAX_FDS {
            return Err(ChannelError::TooLarge);
        }
        let packet = bytes.get(..length).ok_or(ChannelError::TooLarge)?;
        let message = postcard::from_bytes(packet).map_err(ChannelError::Malformed)?;
        Ok((message, fds))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Takes every received descriptor into ownership, so that none leaks when the packet is refused afterwards.
#[allow(unsafe_code)]
fn received_fds(message: &nix::sys::socket::RecvMsg<'_, '_, ()>) -> Result<Vec<OwnedFd>, ChannelError> {
    use std::os::fd::FromRawFd;
    let mut fds = Vec::new();
    for control in message.cmsgs().map_err(ChannelError::Io)? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just installed these descriptors for us and nothing else knows their numbers.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(fds)
}

fn into_error(errno: Errno) -> ChannelError {
    match errno {
        Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN => ChannelError::Closed,
        Errno::EAGAIN => ChannelError::WouldBlock,
        other => ChannelError::Io(other),
    }
}

#[cfg(test)]
#[path = "channel_test.rs"]
mod channel_test;
