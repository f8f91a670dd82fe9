//! Our own writer of stdin's fifo, and when to let go of it without having been told.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::endpoint::nonblocking;
use crate::error::{Error, Result};

/// Keeps stdin from ending while no client has it open.
pub(super) struct Keeper {
    writer: OwnedFd,
    /// To ask the fifo; only until the process runs, because a reader that nobody reads would keep a client waiting for ever.
    reader: Option<OwnedFd>,
    /// Bytes that the relay has taken from the fifo.
    pub(super) moved: Arc<AtomicU64>,
}

impl Keeper {
    pub(super) fn new(reader: &OwnedFd, writer: OwnedFd) -> Result<Keeper> {
        let reader = reader
            .try_clone()
            .map_err(|e| Error::internal("cannot watch stdin").caused_by(e))?;
        Ok(Keeper {
            writer,
            reader: Some(reader),
            moved: Arc::default(),
        })
    }

    /// `None` when a client has written something and closed its end: there is nobody left to end the stream in another way.
    /// A client that has written nothing may still be on its way.
    pub(super) fn unless_client_left(self) -> Option<Keeper> {
        let Some(reader) = self.reader else { return Some(self) };
        let there = revents(&reader);
        if self.moved.load(Ordering::Relaxed) == 0 && !there.contains(PollFlags::POLLIN) {
            return Some(Keeper { reader: None, ..self });
        }
        drop(self.writer);
        if revents(&reader).contains(PollFlags::POLLHUP) {
            return None;
        }
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let reopened: std::io::Result<_> = OpenOptions::open(nonblocking().write(true), path);
        match reopened {
            Ok(writer) => Some(Keeper {
                writer: writer.into(),
                reader: None,
                moved: self.moved,
            }),
            Err(error) => {
                tracing::warn!("stdin will end with its client: cannot open it again: {error}");
                None
            }
        }
    }
}

fn revents(fd: &OwnedFd) -> PollFlags {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    // Nothing known counts as nothing there.
    let _ = poll(&mut fds, PollTimeout::ZERO);
    let [fd] = fds;
    fd.revents().unwrap_or(PollFlags::empty())
}
