//! From `start` to the server: the program runs itself again, with everything it needs in three inherited descriptors.
//!
//! Descriptor 0 is the listening socket, 1 a memory file with [`Launch`] as JSON, 2 a pipe. What the server writes to the pipe
//! is the reason why it cannot serve; when it closes the pipe without a word, it is ready and `start` may answer.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{getsockopt, sockopt};
use serde::{Deserialize, Serialize};

use crate::options::RuntimeOptions;

/// How long the server may take to be ready. containerd gives all of `start` more.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// Highest `oom_score_adj` there is (uapi/linux/oom.h).
const OOM_SCORE_ADJ_MAX: i32 = 1000;

/// What the server is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// containerd's namespace.
    pub namespace: String,
    /// The pod this server is for.
    pub pod_id: String,
    /// Bundle of the container that `start` ran for; containerd's log pipe lies in it.
    pub bundle: PathBuf,
    /// Address of the socket.
    pub address: String,
    /// Where events go.
    pub events_address: String,
    /// Log in detail.
    pub debug: bool,
    /// The server's OOM score; `None`: as inherited.
    pub oom_score_adj: Option<i32>,
    /// What the client asked of this runtime.
    pub options: RuntimeOptions,
    /// When `start` began, in microseconds of CLOCK_MONOTONIC.
    pub started_us: i64,
}

/// containerd's own OOM score and one more, so that containerd outlives its shims.
pub fn oom_score_beside_containerd() -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", nix::unistd::getppid())).ok()?;
    let score: i32 = text.trim().parse().ok()?;
    Some((score + 1).min(OOM_SCORE_ADJ_MAX))
}

/// Starts the server and waits until it is ready.
pub fn spawn(launch: &Launch, listener: UnixListener) -> Result<Child> {
    let name = OsStr::new("containerd-shim-bulkhead-v2");
    let program = own_program()?;
    let mut command = Command::new(&program);
    command
        .arg0(name)
        .args([
            "-namespace",
            &launch.namespace,
            "-id",
            &launch.pod_id,
            "-address",
            &launch.address,
        ])
        .stdin(OwnedFd::from(listener))
        .stdout(OwnedFd::from(memory_file(&serde_json::to_vec(launch)?)?))
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    drop(command);
    let ready = wait_until_ready(&mut child);
    if ready.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    ready.map(|()| child)
}

/// The path of this program, which names the server in process lists; by its inode when an upgrade has replaced the path.
fn own_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot find this program")?;
    Ok(if path.exists() {
        path
    } else {
        PathBuf::from("/proc/self/exe")
    })
}

fn memory_file(content: &[u8]) -> Result<File> {
    let fd = memfd_create(c"bulkhead-launch", MFdFlags::MFD_CLOEXEC).context("cannot create a memory file")?;
    let mut file = File::from(fd);
    file.write_all(content).context("cannot fill the memory file")?;
    Ok(file)
}

fn wait_until_ready(child: &mut Child) -> Result<()> {
    let said = match child.stderr.take() {
        Some(pipe) => read_all(pipe)?,
        None => String::new(),
    };
    if !said.is_empty() {
        bail!("the shim's server cannot start: {}", said.trim_end());
    }
    if let Some(status) = child.try_wait().context("cannot ask for the server's state")? {
        bail!("the shim's server ended at once ({status})");
    }
    Ok(())
}

fn read_all(mut pipe: ChildStderr) -> Result<String> {
    let deadline = Instant::now() + READY_TIMEOUT;
    let mut said = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => bail!("the shim's server was not ready within {} s", READY_TIMEOUT.as_secs()),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(e).context("cannot wait for the shim's server"),
            Ok(_) => {}
        }
        let count = pipe
            .read(&mut buffer)
            .context("cannot read what the shim's server says")?;
        let Some(part) = buffer
            .get(..count)
            .filter(|part| !part.is_empty() && said.len() < buffer.len())
        else {
            return Ok(String::from_utf8_lossy(&said).into_owned());
        };
        said.extend_from_slice(part);
    }
}

/// The server's side: takes the three descriptors over and leaves /dev/null in the places of the first two.
pub fn take_inheritance() -> Result<(Launch, UnixListener)> {
    let by_hand = "without an action this program is the server that containerd's call of start leaves behind";
    let given = Path::new("/proc/self/fd/1");
    if !given.metadata().is_ok_and(|meta| meta.is_file()) {
        bail!("{by_hand}");
    }
    let launch: Launch = serde_json::from_slice(&std::fs::read(given)?).context(by_hand)?;
    let socket = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot take the socket over")?;
    if !getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false) {
        bail!("stdin is not a listening socket: {by_hand}");
    }
    let null = null()?;
    nix::unistd::dup2_stdin(&null).context("cannot close stdin")?;
    nix::unistd::dup2_stdout(&null).context("cannot close stdout")?;
    Ok((launch, UnixListener::from(socket)))
}

/// Tells `start` that the server is set up.
pub fn report_ready() -> Result<()> {
    nix::unistd::dup2_stderr(null()?).context("cannot close stderr")
}

fn null() -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("cannot open /dev/null")
}

#[cfg(test)]
#[path = "launch_test.rs"]
mod launch_test;
