//! The task that owns the control socket: requests out, replies in, and the end of the machine.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use bulkhead_vmm_control::{Channel, ChannelError, Reply, Request, StopReason};
use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::sync::{mpsc, oneshot};

use super::process::{END_TIMEOUT, Tail, status_text, tail_text};
use super::{End, Order, Pending};
use crate::pidfd::PidFd;
use crate::watched::{Watched, watch};

/// Longest text of a vmm's message that is passed on, bytes.
const MESSAGE: usize = 1024;
/// Longest console extract that is passed on, bytes.
const CONSOLE: usize = 4096;

/// The control socket, watched.
pub(super) type Socket = Watched<Channel>;

/// Sends one message, waiting while the socket's buffer is full.
pub(super) async fn send(channel: &Socket, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
    loop {
        let mut ready = channel.writable().await.map_err(io_error)?;
        match channel.get_ref().send(request, fds) {
            Err(ChannelError::WouldBlock) => ready.clear_ready(),
            result => return result,
        }
    }
}

/// Receives one message. Descriptors that come with it are closed: the protocol has none in this direction.
pub(super) async fn receive(channel: &Socket) -> Result<Reply, ChannelError> {
    loop {
        let mut ready = channel.readable().await.map_err(io_error)?;
        match channel.get_ref().receive::<Reply>() {
            Err(ChannelError::WouldBlock) => ready.clear_ready(),
            Ok((reply, _fds)) => return Ok(reply),
            Err(error) => return Err(error),
        }
    }
}

fn io_error(error: io::Error) -> ChannelError {
    ChannelError::Io(nix::errno::Errno::from_raw(
        error.raw_os_error().unwrap_or(nix::libc::EIO),
    ))
}

/// Runs until the machine is gone; then the process is reaped and `ended` told.
pub(super) async fn run(
    channel: Socket,
    process: Arc<PidFd>,
    tail: Tail,
    mut queue: mpsc::UnboundedReceiver<Order>,
    ended: tokio::sync::watch::Sender<Option<End>>,
) {
    let mut waiting: VecDeque<oneshot::Sender<Reply>> = VecDeque::new();
    // Its answer comes out of turn.
    let mut crowd: Option<oneshot::Sender<Reply>> = None;
    let exit = exit_of(&process);
    tokio::pin!(exit);
    let stopped = loop {
        tokio::select! {
            // What it said before it ended comes first.
            biased;
            order = queue.recv() => match order {
                Some(Order::Send(Pending { request, fds, answer })) => {
                    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                    match send(&channel, &request, &borrowed).await {
                        Ok(()) if matches!(request, Request::AwaitCrowd) => crowd = Some(answer),
                        Ok(()) => waiting.push_back(answer),
                        // It is about to be seen that the machine has ended, which is then the answer.
                        Err(ChannelError::Closed | ChannelError::Io(Errno::EPIPE | Errno::ECONNRESET)) => {
                            waiting.push_back(answer);
                        }
                        Err(error) => {
                            tracing::warn!("monitor {}: {error}", process.pid());
                            let message = format!("cannot be sent: {error}");
                            drop(answer.send(Reply::Failed { message }));
                        }
                    }
                }
                Some(Order::HangUp) => {
                    // Only our direction: its report still comes. Fails when it has gone already.
                    let _ = shutdown(channel.get_ref().as_fd().as_raw_fd(), Shutdown::Write);
                }
                None => break Some(End { orderly: false, reason: "nobody needs it any more".into() }),
            },
            reply = receive(&channel) => match reply {
                Ok(Reply::Stopped(reason)) => break Some(describe(&reason)),
                Ok(Reply::Crowded) => match crowd.take() {
                    Some(answer) => drop(answer.send(Reply::Crowded)),
                    None => break Some(protocol_error("it says that the guest remembers many files, which nobody asked")),
                },
                Ok(reply) => match waiting.pop_front() {
                    // A request whose caller has gone is answered for nothing.
                    Some(answer) => drop(answer.send(reply)),
                    None => break Some(protocol_error("it answered what nobody asked")),
                },
                Err(ChannelError::Closed) => break None,
                Err(error) => break Some(protocol_error(&error.to_string())),
            },
            _ = &mut exit => break None,
        }
    };
    let end = bury(&process, stopped, &tail).await;
    tracing::info!("microVM {}: ended: {}", process.pid(), end.reason);
    // Callers that still wait find the reason when their answer is dropped, so it is told first.
    ended.send_replace(Some(end));
    drop((waiting, crowd));
}

/// Answers when the process has ended, whoever still holds its end of the socket.
async fn exit_of(process: &PidFd) {
    let watched = process
        .as_fd()
        .try_clone_to_owned()
        .and_then(|fd| watch(fd, Interest::READABLE));
    match watched {
        // Only the end makes it readable.
        Ok(fd) => drop(fd.readable().await),
        // The closed socket still tells.
        Err(_) => std::future::pending().await,
    }
}

/// Waits for the process to vanish, kills it if it does not, and takes its status.
pub(super) async fn bury(process: &Arc<PidFd>, stopped: Option<End>, tail: &Tail) -> End {
    let theirs = process.clone();
    let killed = stopped.as_ref().is_some_and(|end| !end.orderly);
    let status = tokio::task::spawn_blocking(move || {
        if !killed && theirs.wait_ended(END_TIMEOUT).unwrap_or(false) {
            return theirs.reap();
        }
        // It may still be writing a report; what matters of it has arrived with its last message.
        if !theirs
            .wait_ended(std::time::Duration::from_millis(200))
            .unwrap_or(false)
        {
            let _ = theirs.signal(nix::sys::signal::Signal::SIGKILL);
            let _ = theirs.wait_ended(END_TIMEOUT);
        }
        theirs.reap()
    });
    let status = status.await.ok().flatten();
    stopped.unwrap_or_else(|| End {
        orderly: false,
        reason: format!(
            "the monitor's process {} ended ({}){}",
            process.pid(),
            status_text(status),
            tail_text(tail)
        ),
    })
}

/// A stop reason in words.
pub(super) fn describe(reason: &StopReason) -> End {
    let with_console = |what: &str, console: &str| {
        let console = tame(console, CONSOLE);
        let said = if console.is_empty() {
            "the console is empty".to_owned()
        } else {
            format!("last console lines:\n{console}")
        };
        End {
            orderly: false,
            reason: format!("{what}; {said}"),
        }
    };
    match reason {
        StopReason::PoweredOff => End {
            orderly: true,
            reason: "the guest powered itself off".into(),
        },
        StopReason::Reset { console } => with_console("the guest reset itself", console),
        StopReason::Panicked { console } => with_console("the guest's kernel panicked", console),
        StopReason::Failed { message, console } if console.is_empty() => End {
            orderly: false,
            reason: tame(message, MESSAGE),
        },
        StopReason::Failed { message, console } => with_console(&tame(message, MESSAGE), console),
    }
}

fn protocol_error(what: &str) -> End {
    End {
        orderly: false,
        reason: format!("the monitor broke the control protocol: {what}"),
    }
}

/// Text from the other side, cut to `most` bytes (its end is kept) and without control characters other than line ends.
pub(super) fn tame(text: &str, most: usize) -> String {
    let text = text.trim_end();
    let mut start = text.len().saturating_sub(most);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let kept = text.get(start..).unwrap_or_default();
    kept.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}
