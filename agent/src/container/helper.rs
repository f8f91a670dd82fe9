//! The one-shot helper: the agent's own program, started anew for each container and each exec.
//!
//! libcontainer changes directory, dumpability and namespaces of the process that calls it, and forks; so does joining a
//! container. None of that may happen in PID 1. The helper gets one request and gives one reply over a socket pair whose number
//! is its argument; its descriptors 0 to 2 are the container's. The process that it leaves behind becomes the agent's child.
//!
//! On the socket: a length (u32, little endian) and JSON, first the request, then the reply. Descriptors travel with the reply's
//! first byte, in the order of the reply's fields.

use super::{create, exec};
use crate::error::{Error, Kind, Result, chain};
use crate::reaper::{ExitWatch, Reaper, ended};
use crate::stdio::ChildEnds;
use crate::sys;
use nix::cmsg_space;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::time::timeout;

/// The first argument that makes the program a helper; the second is the socket's number.
pub const ARGUMENT: &str = "container-helper";

/// How long a container may take to be made. Mounts can be slow, but not for ever: less than the 60 s that the host waits.
const PATIENCE: Duration = Duration::from_secs(50);

/// Largest request or reply, bytes: a spec fits into one ttrpc message, and JSON grows when it is written again.
const MAX_MESSAGE: usize = 16 << 20;

/// What the helper is asked.
#[derive(Serialize, Deserialize)]
pub enum Request {
    /// Make a container and its waiting init.
    Create(Box<create::Request>),
    /// Start a process in a running container.
    Exec(Box<exec::Request>),
}

/// What it answers.
#[derive(Serialize, Deserialize)]
pub enum Reply {
    /// A new process.
    Started {
        /// In the guest's root pid namespace.
        pid: i32,
        /// A descriptor comes along: the master side of its terminal.
        terminal: bool,
        /// A descriptor comes along: [`create::Made::waiting`].
        waiting: bool,
    },
    /// Nothing is left; what the user shall read.
    Failed(String),
}

/// Initial size of a terminal in characters; 0: not known.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// A process that a helper has left to the agent.
pub struct Started {
    /// Its pid in the guest's root pid namespace.
    pub pid: Pid,
    /// Its end.
    pub exit: ExitWatch,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// For an init: [`create::Made::waiting`].
    pub waiting: Option<OwnedFd>,
}

/// Has a helper do `request`. `program` is the agent's own executable.
pub async fn run(program: &Path, reaper: &Arc<Reaper>, request: &Request, ends: ChildEnds) -> Result<Started> {
    let expectation = reaper.expect();
    let failed =
        |what: &str, error: &dyn std::error::Error| Error::internal(format!("container helper: {what}"), error);
    let message = frame(request).map_err(|error| failed("request", &error))?;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|error| failed("socket pair", &error))?;
    sys::set_inheritable(&theirs).map_err(|error| failed("socket pair", &error))?;
    let child = Command::new(program)
        .args([ARGUMENT, &theirs.as_raw_fd().to_string()])
        .env_clear()
        .stdin(Stdio::from(ends.stdin))
        .stdout(Stdio::from(ends.stdout))
        .stderr(Stdio::from(ends.stderr))
        .spawn()
        .map_err(|error| failed("start", &error))?;
    drop(theirs);
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut helper_exit = expectation.watch(pid);
    let outcome = timeout(PATIENCE, converse(ours, &message)).await;
    if outcome.is_err() && helper_exit.borrow().is_none() {
        // Not reaped yet, so the pid is still the helper's; and so are those of its children, which nobody else could reap.
        // What is being made goes first: it would become a process that nobody knows.
        for process in children(pid).into_iter().chain([pid]) {
            let _gone = sys::send_signal(process, Signal::SIGKILL as i32);
        }
    }
    match outcome {
        Ok(Ok((Reply::Started { pid, terminal, waiting }, fds))) => {
            let pid = Pid::from_raw(pid);
            let mut fds = fds.into_iter();
            let (terminal, waiting) = (
                terminal.then(|| fds.next()).flatten(),
                waiting.then(|| fds.next()).flatten(),
            );
            Ok(Started {
                pid,
                exit: expectation.watch(pid),
                terminal,
                waiting,
            })
        }
        Ok(Ok((Reply::Failed(message), _))) => Err(Error::invalid(message)),
        Ok(Err(error)) => {
            let status = timeout(Duration::from_secs(1), ended(&mut helper_exit))
                .await
                .ok()
                .flatten();
            let status = status.map_or("is stuck".to_string(), |exit| {
                format!("ended with status {}", exit.status)
            });
            Err(Error::internal(format!("container helper {status}"), &error))
        }
        Err(_) => Err(Error::new(
            Kind::Internal,
            format!(
                "creating the process took longer than {} s and was given up",
                PATIENCE.as_secs()
            ),
        )),
    }
}

/// Children of a process of one thread (proc_pid_task_children(5)); those of a stopped one do not change.
fn children(parent: Pid) -> Vec<Pid> {
    let _gone = sys::send_signal(parent, Signal::SIGSTOP as i32);
    let list = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.map(Pid::from_raw).collect()
}

fn frame(message: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).map_err(|_| std::io::ErrorKind::InvalidData)?;
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend_from_slice(&json);
    Ok(frame)
}

async fn converse(socket: OwnedFd, request: &[u8]) -> std::io::Result<(Reply, Vec<OwnedFd>)> {
    let std_socket = UnixStream::from(socket);
    std_socket.set_nonblocking(true)?;
    let mut socket = tokio::net::UnixStream::from_std(std_socket)?;
    socket.write_all(request).await?;
    let (mut bytes, mut fds) = (Vec::new(), Vec::new());
    loop {
        socket.readable().await?;
        match socket.try_io(Interest::READABLE, || receive(socket.as_raw_fd(), &mut bytes, &mut fds)) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                if let Some(reply) = parse(&bytes)? {
                    return Ok((reply, fds));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// The message in `bytes`, once it is whole.
fn parse<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> std::io::Result<Option<T>> {
    let Some((length, json)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_MESSAGE {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    match json.get(..length) {
        None => Ok(None),
        Some(json) => Ok(Some(serde_json::from_slice(json)?)),
    }
}

/// Appends what the socket has to `bytes`, and the descriptors that come along (two at most) to `fds`.
pub fn receive(socket: RawFd, bytes: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> std::io::Result<usize> {
    let mut buffer = [0; 4096];
    let mut control = cmsg_space!([RawFd; 2]);
    let count = {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(socket, &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = part {
                fds.extend(received.into_iter().map(own));
            }
        }
        message.bytes
    };
    bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
    Ok(count)
}

#[allow(unsafe_code)] // recvmsg hands descriptors out as numbers
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: recvmsg has just installed this descriptor for us alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The helper's main: one request, one reply. Returns the exit status.
pub fn main(socket: &str) -> i32 {
    let served = socket
        .parse()
        .map_err(|_| std::io::ErrorKind::InvalidInput.into())
        .and_then(serve);
    match served {
        Ok(()) => 0,
        Err(error) => {
            crate::kmsg::notice(&format!("container helper: {}", chain(&error)));
            1
        }
    }
}

fn serve(socket: RawFd) -> std::io::Result<()> {
    // The agent protects itself from the out-of-memory killer; a container starts without that protection.
    std::fs::write("/proc/self/oom_score_adj", "0")?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, crate::boot::USUAL_DESCRIPTORS.min(most), most)?;
    let mut socket = UnixStream::from(sys::inherited(socket)?);
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let mut json = vec![0; (u32::from_le_bytes(length) as usize).min(MAX_MESSAGE)];
    socket.read_exact(&mut json)?;
    let outcome = match serde_json::from_slice(&json)? {
        Request::Create(request) => create::run(*request),
        Request::Exec(request) => exec::run(*request),
    };
    let (reply, kept) = match outcome {
        Ok(create::Made { pid, terminal, waiting }) => {
            let reply = Reply::Started {
                pid: pid.as_raw(),
                terminal: terminal.is_some(),
                waiting: waiting.is_some(),
            };
            (reply, terminal.into_iter().chain(waiting).collect())
        }
        Err(message) => (Reply::Failed(message), Vec::new()),
    };
    let message = frame(&reply)?;
    let fds: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &control[..0] } else { &control[..] };
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&message)],
        control,
        MsgFlags::empty(),
        None,
    )?;
    socket.write_all(message.get(sent..).unwrap_or_default())
}
