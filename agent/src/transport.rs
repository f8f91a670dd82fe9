//! Listening sockets of either family: AF_VSOCK in the guest, AF_UNIX where the agent runs without a monitor. The agent uses
//! nothing of a stream socket but accept, read, write and shutdown, and these are the same for both.

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, listen, socket};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A listening stream socket.
pub struct Listener(AsyncFd<OwnedFd>);

impl Listener {
    /// Listens on a vsock port for whoever is on the host's side.
    pub fn vsock(port: u32) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Vsock,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        bind(fd.as_raw_fd(), &VsockAddr::new(nix::libc::VMADDR_CID_ANY, port))?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        Self::from_fd(fd)
    }

    /// Serves connections to a socket that listens already.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self(crate::sys::watched(fd, Interest::READABLE)?))
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let mut ready = self.0.readable().await?;
            let attempt = ready.try_io(|fd| {
                Ok(accept4(
                    fd.as_raw_fd(),
                    SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                )?)
            });
            match attempt {
                // tokio's UnixStream only reads, writes and shuts down its descriptor: it serves a vsock as well.
                Ok(Ok(fd)) => return UnixStream::from_std(owned(fd).into()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

#[allow(unsafe_code)] // accept4 hands the descriptor out as a number
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: accept4 has just returned this descriptor to us alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Sets O_NONBLOCK on an open file description.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
