//! From the program to a booted machine.

// One descriptor has to survive into the new program, which needs a step between fork and exec.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bulkhead_vmm_control::{Channel, ChannelError, Reply, Request, VmSpec};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use tokio::io::{AsyncBufReadExt, BufReader, Interest};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::session::Socket;
use super::{Vmm, session, unexpected};
use crate::error::{Error, Result};
use crate::pidfd::PidFd;
use crate::watched::watch;

/// Lines of the vmm's standard error that are kept for a report, and those that reach the log at most.
const KEPT_LINES: usize = 10;
const LOGGED_LINES: usize = 500;
/// Pause after each further one.
const DROPPED_LINE: Duration = Duration::from_millis(1);
/// Longest line of it, bytes.
const LINE: usize = 1024;
/// How long a process may take to vanish after SIGKILL or after it said goodbye.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Last lines of the vmm's standard error.
pub(super) type Tail = Arc<Mutex<VecDeque<String>>>;

/// A process that is killed and reaped when this is dropped, unless it was taken out.
struct KillOnDrop(Option<Arc<PidFd>>);

impl KillOnDrop {
    fn new(process: PidFd) -> KillOnDrop {
        KillOnDrop(Some(Arc::new(process)))
    }

    fn get(&self) -> Result<Arc<PidFd>> {
        self.0
            .clone()
            .ok_or_else(|| Error::internal("the monitor's process is not ours any more"))
    }

    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let Some(process) = self.0.take() else { return };
        let _ = process.signal(Signal::SIGKILL);
        let reaper = std::thread::Builder::new().name("reap".into());
        if let Err(error) = reaper.spawn(move || process.kill(END_TIMEOUT)) {
            tracing::error!("cannot wait for a killed monitor: {error}");
        }
    }
}

/// A vmm that has not been told anything yet. Killed when dropped.
pub(crate) struct Spawned {
    program: PathBuf,
    outer: KillOnDrop,
    pid: u32,
    channel: Socket,
    tail: Tail,
}

impl Spawned {
    /// Starts the program. Blocks for the time of a fork; needs a tokio runtime around it.
    pub(crate) fn spawn(program: &Path) -> Result<Spawned> {
        let (ours, theirs) =
            Channel::pair().map_err(|e| Error::internal("cannot make the control socket").caused_by(e))?;
        let theirs = theirs.into_fd();
        let mut command = Command::new(program);
        command
            .args(["--control-fd", &theirs.as_raw_fd().to_string()])
            .env_clear()
            .current_dir("/");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        keep_open_in(&mut command, theirs.as_raw_fd());
        let child = command.spawn().map_err(|e| {
            Error::internal(format!(
                "cannot start the monitor {} (check \"vmm\" in the config file)",
                program.display()
            ))
            .caused_by(e)
        });
        let mut child = child?;
        let outer =
            PidFd::open(child.id()).map_err(|e| Error::internal("cannot watch the monitor's process").caused_by(e))?;
        let outer = KillOnDrop::new(outer);
        let spawned = |e: std::io::Error| Error::internal("cannot watch the monitor's process").caused_by(e);
        let tail = Tail::default();
        if let Some(stderr) = child.stderr.take() {
            let stderr = pipe::Receiver::from_owned_fd(OwnedFd::from(stderr)).map_err(spawned)?;
            tokio::spawn(log_lines(stderr, child.id(), tail.clone()));
        }
        set_nonblocking(ours.as_fd()).map_err(|e| spawned(e.into()))?;
        let channel = watch(ours, Interest::READABLE | Interest::WRITABLE).map_err(spawned)?;
        Ok(Spawned {
            program: program.to_owned(),
            pid: child.id(),
            outer,
            channel,
            tail,
        })
    }

    /// Pid of the process that is there now, to put it into its cgroup before it is told anything.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends the machine's description and waits until the vmm is in its jail, which gives it another process.
    pub(crate) async fn jail(self, spec: VmSpec, fds: Vec<OwnedFd>, timeout: Duration) -> Result<Jailed> {
        let deadline = Instant::now() + timeout;
        let outer = self.outer.get()?;
        let request = Request::Boot(Box::new(spec));
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        if let Err(error) = session::send(&self.channel, &request, &borrowed).await {
            let what = format!("the monitor {} took no request", self.program.display());
            return Err(failure(&what, &outer, &self.tail, error).await);
        }
        drop(fds);
        let reply = match tokio::time::timeout_at(deadline, session::receive(&self.channel)).await {
            Err(_) => return Err(late("entered its jail", timeout, &self.tail)),
            Ok(Err(error)) => {
                let what = format!(
                    "the monitor {} ended before it entered its jail",
                    self.program.display()
                );
                return Err(failure(&what, &outer, &self.tail, error).await);
            }
            Ok(Ok(reply)) => reply,
        };
        let pid = match reply {
            Reply::Jailed { pid } => pid,
            Reply::Stopped(reason) => return Err(Error::internal(session::describe(&reason).reason)),
            other => return Err(unexpected("Boot", &other)),
        };
        let inner = adopt(outer, pid, deadline).await?;
        self.outer.release();
        Ok(Jailed {
            inner,
            channel: self.channel,
            tail: self.tail,
            deadline,
            timeout,
        })
    }
}

/// The outer process ends after it named the inner one, which thereby becomes a child of ours. Only then is it what it claims.
async fn adopt(outer: Arc<PidFd>, pid: u32, deadline: Instant) -> Result<KillOnDrop> {
    let not_ours = |cause: &str| {
        Error::internal(format!(
            "the monitor names process {pid} as its own, which {cause} (does this process adopt orphans, as a child subreaper?)"
        ))
    };
    let inner = PidFd::open(pid).map_err(|e| not_ours("is not there").caused_by(e))?;
    let left = deadline.saturating_duration_since(Instant::now());
    let ended = crate::error::blocking("waiting for the monitor's first process", move || {
        let ended = outer.wait_ended(left).unwrap_or(false);
        outer.reap();
        Ok(ended)
    });
    if !ended.await? {
        return Err(Error::timeout("the monitor's first process did not end in time"));
    }
    if !inner.is_child() {
        return Err(not_ours("is no child of ours"));
    }
    Ok(KillOnDrop::new(inner))
}

/// A vmm in its jail that builds its machine. Killed when dropped.
pub(crate) struct Jailed {
    inner: KillOnDrop,
    channel: Socket,
    tail: Tail,
    deadline: Instant,
    timeout: Duration,
}

impl Jailed {
    /// Its pid from now on, for what is recorded on disk.
    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.inner.get()?.pid())
    }

    /// Waits until the vCPUs run and starts the task that carries requests and sees the end.
    pub(crate) async fn booted(self) -> Result<Vmm> {
        let process = self.inner.get()?;
        let reply = match tokio::time::timeout_at(self.deadline, session::receive(&self.channel)).await {
            Err(_) => return Err(late("built its machine", self.timeout, &self.tail)),
            Ok(Err(error)) => {
                let end = session::bury(&process, None, &self.tail).await;
                let what = format!("the monitor ended while it built its machine: {}", end.reason);
                return Err(Error::internal(what).caused_by(error));
            }
            Ok(Ok(reply)) => reply,
        };
        match reply {
            Reply::Booted => {}
            Reply::Stopped(reason) => return Err(Error::internal(session::describe(&reason).reason)),
            other => return Err(unexpected("Boot", &other)),
        }
        // From here on the session sees to its end.
        self.inner.release();
        let (orders, queue) = mpsc::unbounded_channel();
        let (ended, end) = watch::channel(None);
        tokio::spawn(session::run(self.channel, process.clone(), self.tail, queue, ended));
        Ok(Vmm { process, orders, end })
    }
}

fn late(what: &str, timeout: Duration, tail: &Tail) -> Error {
    Error::timeout(format!(
        "the monitor has not {what} within {} s{}",
        timeout.as_secs(),
        tail_text(tail)
    ))
}

async fn failure(what: &str, process: &Arc<PidFd>, tail: &Tail, error: ChannelError) -> Error {
    let process = process.clone();
    let end = tokio::task::spawn_blocking(move || {
        let ended = process.wait_ended(Duration::from_secs(1)).unwrap_or(false);
        if ended { process.reap() } else { None }
    });
    let status = end.await.ok().flatten();
    Error::internal(format!("{what} ({}){}", status_text(status), tail_text(tail))).caused_by(error)
}

/// Reads the vmm's standard error for as long as it lives; what it writes may come from an attacker.
async fn log_lines(stderr: pipe::Receiver, pid: u32, tail: Tail) {
    let mut reader = BufReader::new(stderr);
    let mut logged = 0usize;
    let mut line = Vec::new();
    loop {
        line.clear();
        match read_line(&mut reader, &mut line).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
        let text = session::tame(&String::from_utf8_lossy(&line), LINE);
        if text.is_empty() {
            continue;
        }
        logged += 1;
        if logged < LOGGED_LINES {
            tracing::info!("monitor {pid}: {text}");
        } else if logged == LOGGED_LINES {
            tracing::warn!("monitor {pid}: says too much, further lines are dropped");
        } else {
            // Nobody else pays for the time that reading takes.
            tokio::time::sleep(DROPPED_LINE).await;
        }
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.len() == KEPT_LINES {
            tail.pop_front();
        }
        tail.push_back(text);
    }
}

/// One line without its end, cut to [`LINE`] bytes; false at the end of the stream.
async fn read_line(reader: &mut BufReader<pipe::Receiver>, line: &mut Vec<u8>) -> std::io::Result<bool> {
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = available.iter().position(|b| *b == b'\n');
        let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        let room = LINE.saturating_sub(line.len());
        line.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// The kept lines as the end of a sentence.
pub(super) fn tail_text(tail: &Tail) -> String {
    let tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    if tail.is_empty() {
        return String::new();
    }
    format!(
        "; it said: {}",
        tail.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    )
}

pub(super) fn status_text(status: Option<WaitStatus>) -> String {
    match status {
        Some(WaitStatus::Exited(_, code)) => format!("exit status {code}"),
        Some(WaitStatus::Signaled(_, Signal::SIGKILL, _)) => {
            "killed by SIGKILL; dmesg says whether the host, or the pod's cgroup, was out of memory".to_owned()
        }
        Some(WaitStatus::Signaled(_, signal, _)) => format!("killed by {signal}"),
        _ => "exit status unknown".to_owned(),
    }
}

/// Lets the new program have `fd`, which stays close-on-exec here: other programs that are started at the same time do not get it.
fn keep_open_in(command: &mut Command, fd: RawFd) {
    let keep = move || {
        // SAFETY: called in the child before exec, where `fd` is the parent's open socket; it lives until the spawn is over.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        Ok(fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map(drop)?)
    };
    // SAFETY: between fork and exec it does nothing but one fcntl, which is async-signal-safe and allocates nothing.
    unsafe { command.pre_exec(keep) };
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<(), nix::errno::Errno> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}
