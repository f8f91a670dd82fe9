//! Standard streams: from a process's pipes or terminal to the stream connections and back.
//!
//! Each direction is one task that stops reading while the other side does not take more, so a slow reader on the host slows the process
//! and no byte is kept anywhere else. What goes into a pipe is moved there by the kernel (splice), the rest is copied with a buffer. Ends:
//! - the host shuts stdin down: the pipe's write end closes and the process reads end-of-file;
//! - the last writer of stdout is gone (a terminal answers EIO then): the connection is shut down and closed;
//! - the host drops stdout while the process runs: the pipe's read end closes and the process gets SIGPIPE or EPIPE; a terminal's
//!   output is read on and thrown away, because a terminal that nobody looks at does not stop a program.

use crate::error::{Error, Result};
use crate::streams::Streams;
use crate::transport::set_nonblocking;
use bulkhead_agent_protocol::agent;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

/// Bytes copied at a time once a stream has shown that it is in a hurry: what a pipe holds.
const CHUNK: usize = 64 << 10;
/// Bytes copied at a time until then.
const FIRST_CHUNK: usize = 4 << 10;
/// What the pipe of a process's input holds once it is in a hurry, bytes: the fewer turns its two sides take, the faster it is.
const WIDE_PIPE: usize = 256 << 10;

/// The child's ends, in the order of their descriptor numbers.
pub struct ChildEnds {
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
}

/// The agent's side of a process's streams before the process exists.
pub struct Prepared {
    stdin: Option<(UnixStream, Option<OwnedFd>)>,
    outputs: Vec<(UnixStream, Option<OwnedFd>)>,
}

/// What is left to hold while the process lives.
#[derive(Default)]
pub struct Attached {
    terminal: Option<OwnedFd>,
    stdin_task: Option<AbortHandle>,
}

/// Waits for the connections that `wanted` names and makes the pipes that they need.
pub async fn prepare(streams: &Streams, wanted: &agent::Stdio) -> Result<(ChildEnds, Prepared)> {
    if wanted.terminal && wanted.stderr_stream != 0 {
        return Err(Error::invalid(
            "a process with a terminal has no stderr stream of its own",
        ));
    }
    let (stdin, stdout, stderr) = tokio::try_join!(
        connection(streams, wanted.stdin_stream),
        connection(streams, wanted.stdout_stream),
        connection(streams, wanted.stderr_stream),
    )?;
    let failed = |error: io::Error| Error::internal("cannot make the pipes of a process", &error);
    if wanted.terminal {
        let ends = ChildEnds {
            stdin: null().map_err(failed)?,
            stdout: null().map_err(failed)?,
            stderr: null().map_err(failed)?,
        };
        let prepared = Prepared {
            stdin: stdin.map(|connection| (connection, None)),
            outputs: stdout.into_iter().map(|connection| (connection, None)).collect(),
        };
        return Ok((ends, prepared));
    }
    let mut outputs = Vec::new();
    let mut output = |connection: Option<UnixStream>| -> io::Result<OwnedFd> {
        let Some(connection) = connection else { return null() };
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        outputs.push((connection, Some(read)));
        Ok(write)
    };
    let stdout = output(stdout).map_err(failed)?;
    let stderr = output(stderr).map_err(failed)?;
    let (child_stdin, stdin) = match stdin {
        None => (null().map_err(failed)?, None),
        Some(connection) => {
            let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()))?;
            (read, Some((connection, Some(write))))
        }
    };
    Ok((
        ChildEnds {
            stdin: child_stdin,
            stdout,
            stderr,
        },
        Prepared { stdin, outputs },
    ))
}

async fn connection(streams: &Streams, id: u64) -> Result<Option<UnixStream>> {
    if id == 0 {
        return Ok(None);
    }
    let attempted = format!("cannot attach stream {id}");
    streams
        .take(id)
        .await
        .map(Some)
        .map_err(|error| Error::internal(attempted, &error))
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}

impl Prepared {
    /// Starts copying. `terminal` is the master side for a process that has one.
    pub fn attach(self, terminal: Option<OwnedFd>) -> io::Result<Attached> {
        let mut stdin_task = None;
        if let Some((connection, pipe)) = self.stdin {
            let is_terminal = pipe.is_none();
            let sink = match (pipe, &terminal) {
                (Some(pipe), _) => Some(pipe),
                (None, Some(terminal)) => Some(terminal.try_clone()?),
                (None, None) => None,
            };
            if let Some(sink) = sink {
                let source = readable(connection.into_std()?.into())?;
                let sink = writable(sink)?;
                stdin_task = Some(tokio::spawn(input(source, sink, is_terminal)).abort_handle());
            }
        }
        for (connection, pipe) in self.outputs {
            let is_terminal = pipe.is_none();
            let source = match (pipe, &terminal) {
                (Some(pipe), _) => pipe,
                (None, Some(terminal)) => terminal.try_clone()?,
                (None, None) => continue,
            };
            let (source, sink) = (readable(source)?, writable(connection.into_std()?.into())?);
            tokio::spawn(output(source, sink, is_terminal));
        }
        Ok(Attached { terminal, stdin_task })
    }
}

impl Attached {
    /// Sets the size of the terminal, in characters. False: the process has none.
    pub fn resize(&self, width: u16, height: u16) -> io::Result<bool> {
        match &self.terminal {
            None => Ok(false),
            Some(terminal) => {
                crate::sys::set_terminal_size(terminal, width, height)?;
                Ok(true)
            }
        }
    }
}

impl Drop for Attached {
    /// Output ends by itself when its last writer goes; stdin would wait for a host that has nothing more to say.
    fn drop(&mut self) {
        if let Some(task) = &self.stdin_task {
            task.abort();
        }
    }
}

/// Whichever side ends, both close: the process reads end-of-file, or the host learns that nobody reads.
async fn input(source: AsyncFd<OwnedFd>, sink: AsyncFd<OwnedFd>, is_terminal: bool) {
    if is_terminal {
        copy(&source, &sink).await;
    } else {
        fill(&source, &sink).await;
    }
}

async fn output(source: AsyncFd<OwnedFd>, sink: AsyncFd<OwnedFd>, is_terminal: bool) {
    match copy(&source, &sink).await {
        Ended::Source => drop(shutdown(sink.as_raw_fd(), Shutdown::Write)),
        Ended::Sink => {
            drop(sink);
            if is_terminal {
                discard(&source).await;
            }
        }
    }
}

/// Which side ended a copy.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Source,
    Sink,
}

/// Copies until one side ends. An error of the source is its end.
async fn copy(source: &AsyncFd<OwnedFd>, sink: &AsyncFd<OwnedFd>) -> Ended {
    let mut size = FIRST_CHUNK;
    loop {
        let Ok(mut ready) = source.readable().await else {
            return Ended::Source;
        };
        // Only while there is something to copy: an idle stream holds no buffer.
        let mut buffer = vec![0; size];
        loop {
            if size == CHUNK {
                // The kernel wakes a reader with the first bytes of a writer that has more on the same CPU: each trip to the host costs
                // the same, however little it carries.
                let _always = nix::sched::sched_yield();
            }
            match ready.try_io(|fd| read(fd, &mut buffer)) {
                Err(_would_block) => break,
                Ok(Ok(count @ 1..)) => {
                    let filled = buffer.get(..count).unwrap_or_default();
                    if write_all(sink, filled).await.is_err() {
                        return Ended::Sink;
                    }
                    if count == size && size < CHUNK {
                        size = CHUNK;
                        buffer.resize(size, 0);
                    }
                    // Two sides that are always ready would keep all others from being served.
                    tokio::task::yield_now().await;
                }
                Ok(_) => return Ended::Source,
            }
        }
    }
}

/// Moves everything into a pipe until one side ends.
async fn fill(source: &AsyncFd<OwnedFd>, pipe: &AsyncFd<OwnedFd>) {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    let mut is_in_a_hurry = false;
    let mut is_wide = false;
    loop {
        let Ok(mut readable) = source.readable().await else {
            return;
        };
        let Ok(mut writable) = pipe.writable().await else {
            return;
        };
        if is_in_a_hurry {
            // As in `copy`.
            let _always = nix::sched::sched_yield();
            if !is_wide {
                is_wide = true;
                // It stays as it is when there is no memory for more.
                let _best_effort = fcntl(pipe.get_ref(), FcntlArg::F_SETPIPE_SZ(WIDE_PIPE as i32));
            }
        }
        match splice(source.get_ref(), None, pipe.get_ref(), None, WIDE_PIPE, flags) {
            Ok(0) => return,
            Ok(count) => is_in_a_hurry = count >= FIRST_CHUNK,
            Err(Errno::EINTR) => {}
            // It does not say which side it is. To forget the wrong one would be to wait for ever: what is there brings no news.
            Err(Errno::EAGAIN) => {
                let [has_data, has_room] = ready_now(source.get_ref(), pipe.get_ref());
                if !has_data {
                    readable.clear_ready();
                }
                if !has_room {
                    writable.clear_ready();
                }
            }
            Err(_) => return,
        }
        // Two sides that are always ready would keep all others from being served.
        tokio::task::yield_now().await;
    }
}

/// Whether there is something to read, and room in a pipe to write it to; or an end, or an error.
fn ready_now(source: &OwnedFd, pipe: &OwnedFd) -> [bool; 2] {
    let mut both = [
        PollFd::new(source.as_fd(), PollFlags::POLLIN),
        PollFd::new(pipe.as_fd(), PollFlags::POLLOUT),
    ];
    match poll(&mut both, PollTimeout::ZERO) {
        Ok(_) => both.map(|one| one.any().unwrap_or(true)),
        Err(_) => [true; 2],
    }
}

async fn discard(source: &AsyncFd<OwnedFd>) {
    while let Ok(mut ready) = source.readable().await {
        let mut buffer = vec![0; 4096];
        if let Ok(Ok(0) | Err(_)) = ready.try_io(|fd| read(fd, &mut buffer)) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

async fn write_all(sink: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = sink.writable().await?;
        match ready.try_io(|fd| retry(|| nix::unistd::write(fd, bytes))) {
            Err(_would_block) => {}
            Ok(Ok(written)) => bytes = bytes.get(written..).unwrap_or_default(),
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(())
}

fn read(fd: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    retry(|| nix::unistd::read(fd, buffer))
}

fn retry(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    set_nonblocking(fd.as_fd())?;
    crate::sys::watched(fd, Interest::READABLE)
}

fn writable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    set_nonblocking(fd.as_fd())?;
    crate::sys::watched(fd, Interest::WRITABLE)
}
