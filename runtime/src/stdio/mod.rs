//! Standard streams: each is one vsock stream of its own, relayed between containerd's fifo and the guest without a copy in
//! user space (splice) and with the fifo's own back-pressure.
//!
//! Primer. The client makes the fifos and opens its ends before Create; it sees the end of output when the last writer of the
//! fifo is gone. For output we hold a reader of our own, so that a client that comes and goes does not end the container's
//! stream. For input we hold a writer of our own, so that a client that has not come yet is no end of file; CloseIO closes it,
//! and the end of file then comes when the client's writers are gone too, after everything they wrote. A client that left
//! before Start has answered (`echo x | ctr run`) had no process yet to call CloseIO for: for it the
//! end of file comes without that call. What may go wrong: no reader for an output (waited for, with a limit), a reader that stops reading (the
//! container blocks, as it does with runc), a guest that closes early (the relay ends), a deletion while bytes are under way
//! (they are waited for while they move).

mod endpoint;
mod input;
mod relay;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) use endpoint::Endpoints;

use crate::agent_client::StreamIds;
use crate::error::{Error, Result};
use endpoint::Output;
use input::Input;

/// How long a deletion waits for output that does not move, and for output that does.
const DRAIN_IDLE: Duration = Duration::from_secs(2);
const DRAIN_MOST: Duration = Duration::from_secs(30);

/// Guest's ends of a process's streams; `None` where the process has no such stream.
#[derive(Default)]
pub(crate) struct GuestEnds {
    pub(crate) stdin: Option<UnixStream>,
    pub(crate) stdout: Option<UnixStream>,
    pub(crate) stderr: Option<UnixStream>,
}

/// Numbers of the streams that these endpoints need, taken from `next`.
pub(crate) fn assign_ids(endpoints: &Endpoints, next: &AtomicU64) -> StreamIds {
    let id = |wanted: bool| {
        if wanted {
            next.fetch_add(1, Ordering::Relaxed)
        } else {
            0
        }
    };
    StreamIds {
        stdin: id(endpoints.stdin.is_some()),
        stdout: id(endpoints.stdout.is_some()),
        stderr: id(endpoints.stderr.is_some()),
    }
}

/// First bytes of each stream connection. The socket is new, so eight bytes fit its buffer.
pub(crate) fn write_header(stream: &UnixStream, id: u64) -> Result<()> {
    let mut writer = stream;
    writer
        .write_all(&id.to_le_bytes())
        .map_err(|e| Error::internal("cannot name a stream to the guest").caused_by(e))
}

/// A process's running relays. Dropping it ends them and closes the fifos.
pub(crate) struct Streams {
    stdin: Option<Input>,
    outputs: Vec<JoinHandle<()>>,
    moved: Arc<AtomicU64>,
}

impl Streams {
    /// Starts the relays. Needs a tokio runtime around it.
    pub(crate) fn start(endpoints: Endpoints, guest: GuestEnds) -> Result<Streams> {
        let moved = Arc::new(AtomicU64::new(0));
        let mut streams = Streams {
            stdin: None,
            outputs: Vec::new(),
            moved: moved.clone(),
        };
        if let (Some(fifo), Some(stream)) = (endpoints.stdin, guest.stdin) {
            streams.stdin = Some(Input::new(fifo, stream)?);
        }
        for (output, stream) in [(endpoints.stdout, guest.stdout), (endpoints.stderr, guest.stderr)] {
            let (Some(output), Some(stream)) = (output, stream) else {
                continue;
            };
            streams.outputs.push(match output {
                Output::Fifo { writer, reader } => relay::spawn_output(stream, writer, reader, moved.clone())?,
                Output::File(file) => relay::spawn_output_to_file(stream, file, moved.clone())?,
            });
        }
        Ok(streams)
    }

    /// The client writes nothing more: the end of file comes once its own writers are closed. Twice is fine.
    pub(crate) fn close_stdin(&self) {
        if let Some(stdin) = &self.stdin {
            stdin.release();
        }
    }

    /// The process runs: its stdin is relayed from now on.
    pub(crate) fn started(&self) {
        if let Some(stdin) = &self.stdin {
            stdin.start();
        }
    }

    /// Waits until all output has reached the client, for as long as it moves. Called when the process has ended.
    pub(crate) async fn drain(&mut self) {
        let most = Instant::now() + DRAIN_MOST;
        while !self.outputs.iter().all(JoinHandle::is_finished) && Instant::now() < most {
            let before = self.moved.load(Ordering::Relaxed);
            let idle = Instant::now() + DRAIN_IDLE;
            for output in &mut self.outputs {
                if !output.is_finished() {
                    // A relay that has ended, or the time: both are looked at above.
                    let _ = tokio::time::timeout_at(idle.min(most), output).await;
                }
            }
            if before == self.moved.load(Ordering::Relaxed) && Instant::now() >= idle {
                return;
            }
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for task in &self.outputs {
            task.abort();
        }
    }
}

#[cfg(test)]
#[path = "stdio_test.rs"]
mod stdio_test;
