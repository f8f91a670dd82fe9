//! The agent of one pod: its ttrpc service over a stream that the vmm opened to the guest.
//!
//! Distrusts the agent, which is the guest: every call but the two that wait for events has a time limit, messages are bounded
//! by the protocol (4 MiB), texts are cut, and lists are cut to what a container can have.

use std::collections::HashMap;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bulkhead_agent_protocol::agent as message;
use bulkhead_agent_protocol::agent_ttrpc::AgentClient;
use ttrpc::context::Context;

use crate::error::{Error, ErrorKind, Result};
use crate::spec::GuestSpec;

/// Calls that only look something up or pass something on.
const QUICK: Duration = Duration::from_secs(10);
/// Calls that create or remove something in the guest, which may be short of CPU.
const SLOW: Duration = Duration::from_secs(60);
/// Longest text of the agent's that is passed on, characters.
const TEXT: usize = 4096;
/// Most pids and statistics files of one answer.
const MAX_PIDS: usize = 1 << 15;
const MAX_FILES: usize = 256;

/// Streams of a process as the agent is told; 0: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StreamIds {
    pub(crate) stdin: u64,
    pub(crate) stdout: u64,
    pub(crate) stderr: u64,
}

/// What the agent is told about a process's streams.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProcessIo {
    pub(crate) terminal: bool,
    pub(crate) streams: StreamIds,
    pub(crate) size: (u32, u32),
}

/// What happens in a guest without being asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GuestEvent {
    /// An out-of-memory kill in this container; empty: none in particular.
    OutOfMemory(String),
    /// The guest wants this much more memory, bytes.
    MemoryWanted(u64),
}

/// The agent of one pod.
#[derive(Clone)]
pub(crate) struct Agent {
    client: AgentClient,
}

impl Agent {
    /// Takes over a stream to the agent's control port. Needs a tokio runtime around it.
    pub(crate) fn new(stream: UnixStream) -> Result<Agent> {
        let stream = tokio::net::UnixStream::from_std(stream)
            .map_err(|e| Error::internal("cannot use the stream to the agent").caused_by(e))?;
        let client = ttrpc::r#async::Client::new(ttrpc::r#async::transport::Socket::from(stream));
        Ok(Agent {
            client: AgentClient::new(client),
        })
    }

    pub(crate) async fn hello(
        &self,
        hostname: &str,
        sysctls: HashMap<String, String>,
        entropy: Vec<u8>,
        timeout: Duration,
    ) -> Result<(String, String)> {
        let request = message::HelloRequest {
            entropy,
            hostname: hostname.to_owned(),
            realtime_ns: realtime_ns(),
            sysctls,
            ..Default::default()
        };
        let answer = within(timeout, "Hello", self.client.hello(Context::default(), &request)).await?;
        Ok((cut(&answer.agent_version, 100), cut(&answer.kernel_release, 100)))
    }

    /// `disks`: those that were plugged for it, and what is on the one of the root file system.
    pub(crate) async fn create(
        &self,
        container: &str,
        spec: GuestSpec,
        io: ProcessIo,
        disks: (Vec<message::Disk>, Option<message::RootDisk>),
    ) -> Result<u32> {
        let (disks, root_disk) = disks;
        let (with, kinds) = spec.shared.map_or_else(Default::default, |s| (s.with, s.kinds));
        let request = message::CreateContainerRequest {
            container_id: container.to_owned(),
            spec: spec.json,
            stdio: Some(stdio(io)).into(),
            share_namespaces_with: with,
            shared_namespaces: kinds,
            disks,
            root_disk: root_disk.into(),
            ..Default::default()
        };
        let answer = within(
            SLOW,
            "CreateContainer",
            self.client.create_container(Context::default(), &request),
        )
        .await?;
        Ok(answer.guest_pid)
    }

    pub(crate) async fn start(&self, container: &str) -> Result<()> {
        let request = message::ContainerRequest {
            container_id: container.to_owned(),
            ..Default::default()
        };
        within(
            SLOW,
            "StartContainer",
            self.client.start_container(Context::default(), &request),
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn exec(&self, container: &str, exec_id: &str, process: Vec<u8>, io: ProcessIo) -> Result<u32> {
        let request = message::ExecRequest {
            container_id: container.to_owned(),
            exec_id: exec_id.to_owned(),
            process,
            stdio: Some(stdio(io)).into(),
            ..Default::default()
        };
        Ok(within(SLOW, "Exec", self.client.exec(Context::default(), &request))
            .await?
            .guest_pid)
    }

    pub(crate) async fn signal(&self, container: &str, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let request = message::SignalRequest {
            container_id: container.to_owned(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
            ..Default::default()
        };
        within(QUICK, "Signal", self.client.signal(Context::default(), &request)).await?;
        Ok(())
    }

    /// Exit status 0-255. Waits for as long as it takes.
    pub(crate) async fn wait(&self, container: &str, exec_id: &str) -> Result<u32> {
        let answer = self.client.wait(Context::default(), &process(container, exec_id)).await;
        Ok(answer.map_err(|e| failed("Wait", e))?.exit_status & 0xff)
    }

    /// Exit status 0-255.
    pub(crate) async fn delete(&self, container: &str, exec_id: &str) -> Result<u32> {
        let answer = within(
            SLOW,
            "Delete",
            self.client.delete(Context::default(), &process(container, exec_id)),
        )
        .await?;
        Ok(answer.exit_status & 0xff)
    }

    pub(crate) async fn resize_pty(&self, container: &str, exec_id: &str, width: u32, height: u32) -> Result<()> {
        let request = message::ResizePtyRequest {
            container_id: container.to_owned(),
            exec_id: exec_id.to_owned(),
            width,
            height,
            ..Default::default()
        };
        within(QUICK, "ResizePty", self.client.resize_pty(Context::default(), &request)).await?;
        Ok(())
    }

    pub(crate) async fn pids(&self, container: &str) -> Result<Vec<u32>> {
        let request = message::ContainerRequest {
            container_id: container.to_owned(),
            ..Default::default()
        };
        let answer = within(QUICK, "Pids", self.client.pids(Context::default(), &request)).await?;
        let mut pids = answer.guest_pids;
        pids.truncate(MAX_PIDS);
        Ok(pids)
    }

    pub(crate) async fn stats(&self, container: &str) -> Result<HashMap<String, String>> {
        let request = message::ContainerRequest {
            container_id: container.to_owned(),
            ..Default::default()
        };
        let answer = within(QUICK, "Stats", self.client.stats(Context::default(), &request)).await?;
        Ok(answer.files.into_iter().take(MAX_FILES).collect())
    }

    pub(crate) async fn set_frozen(&self, container: &str, frozen: bool) -> Result<()> {
        let request = message::SetFrozenRequest {
            container_id: container.to_owned(),
            frozen,
            ..Default::default()
        };
        within(QUICK, "SetFrozen", self.client.set_frozen(Context::default(), &request)).await?;
        Ok(())
    }

    /// The next thing that happens in the guest. Waits for as long as it takes.
    pub(crate) async fn next_event(&self) -> Result<GuestEvent> {
        let answer = self
            .client
            .next_event(Context::default(), &message::Empty::default())
            .await;
        let event = answer.map_err(|e| failed("NextEvent", e))?;
        Ok(match event.wanted_bytes {
            0 => GuestEvent::OutOfMemory(cut(&event.oom_container_id, 256)),
            bytes => GuestEvent::MemoryWanted(bytes),
        })
    }

    /// Changes limits of a container. `resources`: OCI "linux.resources" as JSON.
    pub(crate) async fn update(&self, container: &str, resources: Vec<u8>) -> Result<()> {
        let request = message::UpdateRequest {
            container_id: container.to_owned(),
            resources,
            ..Default::default()
        };
        within(SLOW, "Update", self.client.update(Context::default(), &request)).await?;
        Ok(())
    }

    /// Has the guest ask for more memory before its containers run short, up to `bytes` more than it has.
    pub(crate) async fn grow_memory(&self, bytes: u64) -> Result<()> {
        let request = message::GrowMemoryRequest {
            bytes,
            ..Default::default()
        };
        within(
            QUICK,
            "GrowMemory",
            self.client.grow_memory(Context::default(), &request),
        )
        .await?;
        Ok(())
    }

    /// Has the guest use that many CPUs, which are there.
    pub(crate) async fn use_cpus(&self, count: u8) -> Result<()> {
        let request = message::UseCpusRequest {
            count: count.into(),
            ..Default::default()
        };
        within(SLOW, "UseCpus", self.client.use_cpus(Context::default(), &request)).await?;
        Ok(())
    }

    /// Has the guest look for devices that were plugged.
    pub(crate) async fn rescan_bus(&self) -> Result<()> {
        let request = message::Empty::default();
        within(SLOW, "RescanBus", self.client.rescan_bus(Context::default(), &request)).await?;
        Ok(())
    }

    /// Has the guest give a disk up, which can then be unplugged.
    pub(crate) async fn let_go_disk(&self, slot: u8) -> Result<()> {
        let request = message::DiskRequest {
            slot: slot.into(),
            ..Default::default()
        };
        within(SLOW, "LetGoDisk", self.client.let_go_disk(Context::default(), &request)).await?;
        Ok(())
    }

    /// Makes the guest forget the files that nobody uses.
    pub(crate) async fn forget_files(&self) -> Result<()> {
        let request = message::Empty::default();
        let forgotten = self.client.forget_files(Context::default(), &request);
        within(SLOW, "ForgetFiles", forgotten).await?;
        Ok(())
    }

    /// Has the guest look at names below its share that have become something else, so that it lets go of what they were.
    pub(crate) async fn look_again(&self, paths: Vec<PathBuf>) -> Result<()> {
        let request = message::LookAgainRequest {
            paths: paths.into_iter().map(|path| path.into_os_string().into_vec()).collect(),
            ..Default::default()
        };
        within(SLOW, "LookAgain", self.client.look_again(Context::default(), &request)).await?;
        Ok(())
    }

    /// How far the guest's clock was from the host's, host minus guest, nanoseconds.
    pub(crate) async fn sync_clock(&self, step: bool) -> Result<i64> {
        let request = message::SyncClockRequest {
            realtime_ns: realtime_ns(),
            step,
            ..Default::default()
        };
        let answer = within(QUICK, "SyncClock", self.client.sync_clock(Context::default(), &request)).await?;
        Ok(answer.offset_ns)
    }

    pub(crate) async fn shutdown(&self, timeout: Duration) -> Result<()> {
        within(
            timeout,
            "Shutdown",
            self.client.shutdown(Context::default(), &message::Empty::default()),
        )
        .await?;
        Ok(())
    }
}

fn process(container: &str, exec_id: &str) -> message::ProcessRequest {
    message::ProcessRequest {
        container_id: container.to_owned(),
        exec_id: exec_id.to_owned(),
        ..Default::default()
    }
}

fn stdio(io: ProcessIo) -> message::Stdio {
    message::Stdio {
        terminal: io.terminal,
        stdin_stream: io.streams.stdin,
        stdout_stream: io.streams.stdout,
        stderr_stream: io.streams.stderr,
        width: io.size.0,
        height: io.size.1,
        ..Default::default()
    }
}

fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A call that takes at most `limit`.
async fn within<T>(limit: Duration, call: &str, answer: impl Future<Output = ttrpc::Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|e| failed(call, e)),
        Err(_) => Err(late(call)),
    }
}

fn late(call: &str) -> Error {
    Error::timeout(format!("the agent in the guest did not answer {call} in time"))
}

/// The agent's own errors are shown as they are; what fails on the way is told apart.
fn failed(call: &str, error: ttrpc::Error) -> Error {
    use ttrpc::Code;
    match error {
        ttrpc::Error::RpcStatus(status) => {
            let kind = match status.code() {
                Code::NOT_FOUND => ErrorKind::NotFound,
                Code::ALREADY_EXISTS => ErrorKind::AlreadyExists,
                Code::FAILED_PRECONDITION => ErrorKind::FailedPrecondition,
                Code::INVALID_ARGUMENT => ErrorKind::InvalidArgument,
                Code::DEADLINE_EXCEEDED => {
                    return late(call);
                }
                _ => ErrorKind::Internal,
            };
            Error::new(kind, cut(&status.message, TEXT))
        }
        other => Error::unavailable(format!("the connection to the agent in the guest broke in {call}"))
            .caused_by(cut(&other.to_string(), 200)),
    }
}

/// Text of the guest without control characters, at most `most` characters.
fn cut(text: &str, most: usize) -> String {
    text.chars()
        .filter(|c| *c == '\n' || !c.is_control())
        .take(most)
        .collect()
}

#[cfg(test)]
#[path = "agent_client_test.rs"]
pub(crate) mod agent_client_test;
