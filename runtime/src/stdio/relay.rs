//! Bytes from one descriptor to another.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::watched::{Watched, watch};

/// Most bytes of one splice; a pipe holds less unless somebody enlarged it.
const CHUNK: usize = 1 << 20;
/// Pause when both sides claim to be ready and nothing moves.
const STUCK_PAUSE: Duration = Duration::from_millis(1);

/// fifo to guest, from `go` on; ends at the fifo's end of file, which is passed on, or when the guest takes no more.
pub(super) fn spawn_input(fifo: OwnedFd, stream: UnixStream, go: oneshot::Receiver<()>) -> Result<JoinHandle<()>> {
    let from = register(fifo, Interest::READABLE)?;
    let to = register(stream, Interest::WRITABLE)?;
    Ok(tokio::spawn(async move {
        if go.await.is_err() {
            return;
        }
        let result = pump(&from, &to, &AtomicU64::new(0)).await;
        drop(from);
        if result.is_ok() && to.get_ref().shutdown(Shutdown::Write).is_ok() {
            // Closing the whole stream could cut what the guest has not read yet; it lasts as long as the process.
            std::future::pending::<()>().await;
        }
        note(result);
    }))
}

/// Guest to fifo; `keeper` is our own reader, closed with the rest at the end.
pub(super) fn spawn_output(
    stream: UnixStream,
    fifo: OwnedFd,
    keeper: OwnedFd,
    moved: Arc<AtomicU64>,
) -> Result<JoinHandle<()>> {
    let from = register(stream, Interest::READABLE)?;
    let to = register(fifo, Interest::WRITABLE)?;
    Ok(tokio::spawn(async move {
        note(pump(&from, &to, &moved).await);
        drop(to);
        drop(keeper);
    }))
}

/// Guest to a file, on a thread of its own, because a file system can block, and for as long as the process lives. The task stands for
/// it: with the task it ends, once the file system lets it.
pub(super) fn spawn_output_to_file(
    stream: UnixStream,
    mut file: File,
    moved: Arc<AtomicU64>,
) -> Result<JoinHandle<()>> {
    let failed = |e| Error::internal("cannot relay a stream").caused_by(e);
    stream.set_nonblocking(false).map_err(failed)?;
    let end = EndOfStream(stream.try_clone().map_err(failed)?);
    let (done, is_done) = oneshot::channel();
    let relay = move || {
        let mut stream = stream;
        let mut buffer = vec![0u8; 64 * 1024];
        let mut copy = || -> io::Result<()> {
            loop {
                let count = match stream.read(&mut buffer) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    count => count?,
                };
                if count == 0 {
                    return Ok(());
                }
                file.write_all(buffer.get(..count).unwrap_or_default())?;
                moved.fetch_add(count as u64, Ordering::Relaxed);
            }
        };
        note(copy());
        // Nobody listens any more when the task was aborted.
        let _ = done.send(());
    };
    let thread = std::thread::Builder::new().name("output".into());
    thread.spawn(relay).map_err(failed)?;
    Ok(tokio::spawn(async move {
        let _end = end;
        // An error is the end of the thread, too.
        let _ = is_done.await;
    }))
}

/// Ends a stream for whoever reads it.
struct EndOfStream(UnixStream);

impl Drop for EndOfStream {
    fn drop(&mut self) {
        // Fails when the other side is gone.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

fn register<F: AsFd>(fd: F, interest: Interest) -> Result<Watched<F>> {
    watch(fd, interest).map_err(|e| Error::internal("cannot watch a standard stream").caused_by(e))
}

fn note(result: io::Result<()>) {
    if let Err(error) = result {
        // EPIPE, ECONNRESET: the guest closed its end, which is how a process ends that does not read its input.
        tracing::debug!("a standard stream ended: {error}");
    }
}

/// Moves everything from one to the other until the end of file. One of them is a pipe; both do not block.
async fn pump<A: AsFd, B: AsFd>(from: &Watched<A>, to: &Watched<B>, moved: &AtomicU64) -> io::Result<()> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        let mut readable = from.readable().await?;
        let mut writable = to.writable().await?;
        match splice(from.get_ref().as_fd(), None, to.get_ref().as_fd(), None, CHUNK, flags) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                moved.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(Errno::EINTR) => {}
            // It does not say which side it is, and forgetting the readiness of the wrong one would wait for ever.
            Err(Errno::EAGAIN) => {
                let (has_data, has_room) = ready_now(from.get_ref().as_fd(), to.get_ref().as_fd())?;
                if !has_data {
                    readable.clear_ready();
                }
                if !has_room {
                    writable.clear_ready();
                }
                if has_data && has_room {
                    tokio::time::sleep(STUCK_PAUSE).await;
                }
            }
            Err(error) => return Err(error.into()),
        }
        // A stream that always has data must not keep the one thread for itself.
        tokio::task::yield_now().await;
    }
}

fn ready_now(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<(bool, bool)> {
    let mut fds = [
        PollFd::new(from, PollFlags::POLLIN),
        PollFd::new(to, PollFlags::POLLOUT),
    ];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let [from, to] = fds.map(|fd| fd.any().unwrap_or(true));
    Ok((from, to))
}
