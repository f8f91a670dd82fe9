//! stdin: when it is relayed, and what keeps it from ending.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{endpoint::nonblocking, relay};
use crate::error::{Error, Result};

/// A process's stdin. Dropping it ends the relay.
pub(super) struct Input {
    pub(super) relay: JoinHandle<()>,
    state: Mutex<State>,
}

enum State {
    /// The process does not run yet and nothing is relayed: the fifo has no writer of ours, so that it knows whether a client
    /// has come and gone.
    Waiting { fifo: OwnedFd, go: oneshot::Sender<()> },
    /// Relayed; our own writer keeps the fifo from ending while no client has it open.
    Kept { _writer: OwnedFd },
    /// Ends with its clients.
    Released,
}

impl Input {
    pub(super) fn new(fifo: OwnedFd, guest: UnixStream) -> Result<Input> {
        let failed = |e| Error::internal("cannot watch stdin").caused_by(e);
        let state = fifo.try_clone().map_err(failed)?;
        let (go, gone) = oneshot::channel();
        Ok(Input {
            relay: relay::spawn_input(fifo, guest, gone)?,
            state: Mutex::new(State::Waiting { fifo: state, go }),
        })
    }

    /// The process runs. A client that has come and gone will not call CloseIO any more: for it the end of file comes without.
    pub(super) fn start(&self) {
        let mut state = self.state();
        *state = match std::mem::replace(&mut *state, State::Released) {
            State::Waiting { fifo, go } => {
                let kept = if was_left(&fifo) { State::Released } else { keep(&fifo) };
                // Nobody waits any more when the guest's end could not be relayed.
                let _ = go.send(());
                kept
            }
            running => running,
        };
    }

    /// The client writes nothing more. Twice is fine, and so is before the start.
    pub(super) fn release(&self) {
        if let State::Waiting { go, .. } = std::mem::replace(&mut *self.state(), State::Released) {
            let _ = go.send(());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

/// pipe(7): a fifo hangs up once its last writer is gone; one that never had a writer does not (fifo_open in the kernel's
/// fs/pipe.c notes the count of writers for a reader that opens without blocking).
fn was_left(fifo: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fifo.as_fd(), PollFlags::POLLIN)];
    // Nothing known counts as not left.
    let _ = poll(&mut fds, PollTimeout::ZERO);
    let [fd] = fds;
    fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

fn keep(fifo: &OwnedFd) -> State {
    // The path may be gone by now.
    let path = format!("/proc/self/fd/{}", fifo.as_raw_fd());
    let writer: std::io::Result<_> = OpenOptions::open(nonblocking().write(true), path);
    match writer {
        Ok(writer) => State::Kept { _writer: writer.into() },
        Err(error) => {
            tracing::warn!("stdin will end with its client: cannot open it for writing: {error}");
            State::Released
        }
    }
}
