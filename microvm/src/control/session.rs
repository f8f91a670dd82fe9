//! One machine's life as the runtime sees it.

use std::fmt::Display;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bulkhead_vmm_control::{Channel, ChannelError, Reply, Request, StopReason, VmSpec};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

use super::boot_fds::{BootFds, BootFdsError};
use super::replies::Replies;
use crate::file_server::reserve_descriptors;
use crate::jail::{self, JailError, Policies, PolicyError, SpawnError, Spawner};
use crate::machine::stop::StopCause;
use crate::machine::{Machine, MachineError, Parts};

/// How long a report of the end waits for vCPUs that do not stop.
const HALT_PATIENCE: Duration = Duration::from_millis(500);

/// Most console text in a report, in bytes.
const CONSOLE_IN_REPORT: usize = 4096;

/// Why the process ends without a machine that ran.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The channel.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Something else came first.
    #[error("the first request is not Boot")]
    NotBoot,
    /// Descriptors.
    #[error(transparent)]
    BootFds(#[from] BootFdsError),
    /// The limit of open files.
    #[error("cannot raise the limit of open files: {0}")]
    Descriptors(#[source] Errno),
    /// The jail.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// The policies.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The spawner.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// An event.
    #[error("cannot wait for events: {0}")]
    Wait(#[from] Errno),
}

/// Serves the runtime at the other end of `channel` until the machine has stopped. True: the guest powered itself off.
///
/// Must be called while the process has one thread; returns in another process than it was called in.
pub fn run(channel: Channel) -> bool {
    let (reason, running) = match boot(&channel) {
        Ok(mut running) => (running.serve(&channel), Some(running)),
        Err(error) => (
            StopReason::Failed {
                message: error.to_string(),
                console: String::new(),
            },
            None,
        ),
    };
    tracing::debug!("stopped: {reason:?}");
    let powered_off = reason == StopReason::PoweredOff;
    match channel.send(&Reply::Stopped(reason), &[]) {
        Ok(()) | Err(ChannelError::Closed) => {}
        Err(error) => tracing::error!("cannot report the end: {error}"),
    }
    // The devices end after the report: a file system of the host that does not answer holds up only this process's end.
    drop(running);
    powered_off
}

/// A machine whose vCPUs run. The spawner outlives the machine, whose devices may still start and stop.
struct Running {
    machine: Machine,
    replies: Replies,
    _spawner: Spawner,
}

fn boot(channel: &Channel) -> Result<Running, SessionError> {
    let (request, fds) = channel.receive()?;
    let Request::Boot(spec) = request else {
        return Err(SessionError::NotBoot);
    };
    let BootFds {
        kvm,
        share,
        kernel,
        agent_image,
        network,
        disks,
        ids_locks,
        console_log,
    } = BootFds::sort(&spec, fds)?;
    reserve_descriptors().map_err(SessionError::Descriptors)?;
    let entered = jail::enter(&spec.jail, &share, network.as_ref(), channel)?;
    drop((share, network));
    let parts = Parts {
        kvm,
        kernel,
        agent_image,
        disks,
        console_log,
        descriptors: entered.descriptors,
    };
    let running = start(channel, &spec, parts)?;
    // Open until the process has ended, whatever of it ends before.
    std::mem::forget(ids_locks);
    Ok(running)
}

fn start(channel: &Channel, spec: &VmSpec, parts: Parts) -> Result<Running, SessionError> {
    let policies = Policies::new()?;
    let main_policy = policies.main();
    let spawner = Spawner::start(policies)?;
    let mut machine = Machine::build(spec, parts)?;
    let replies = Replies::new()?;
    main_policy.enter()?;
    channel.send(&Reply::Booted, &[])?;
    machine.start()?;
    Ok(Running {
        machine,
        replies,
        _spawner: spawner,
    })
}

impl Running {
    fn serve(&mut self, channel: &Channel) -> StopReason {
        let served = self.serve_until_stop(channel);
        self.machine.halt(HALT_PATIENCE);
        let cause = match served {
            Ok(cause) => cause,
            // The runtime gave up on the guest: where that was may say why.
            Err(SessionError::Channel(ChannelError::Closed)) => {
                let stopped_at = self.machine.stopped_at();
                StopCause::Failed(format!("the runtime closed the control socket; {stopped_at}"))
            }
            Err(error) => StopCause::Failed(error.to_string()),
        };
        let console = self.machine.console();
        let text = || console.last(CONSOLE_IN_REPORT);
        match cause {
            StopCause::PoweredOff => StopReason::PoweredOff,
            StopCause::Reset if console.panicked() => StopReason::Panicked { console: text() },
            StopCause::Reset => StopReason::Reset { console: text() },
            StopCause::Failed(message) => StopReason::Failed {
                message,
                console: text(),
            },
        }
    }

    fn serve_until_stop(&mut self, channel: &Channel) -> Result<StopCause, SessionError> {
        loop {
            if let Some(cause) = self.machine.stop_signal().cause() {
                return Ok(cause);
            }
            if self.wait(channel)? {
                let (request, fds) = channel.receive()?;
                self.serve_request(request, fds);
            }
            self.replies.clear_bell();
            while let Some(reply) = self.replies.next() {
                channel.send(&reply, &[])?;
            }
        }
    }

    /// Waits for a request, a reply or the end. True: a request is there, or the runtime is gone.
    fn wait(&self, channel: &Channel) -> Result<bool, Errno> {
        let stop = self.machine.stop_signal().event().as_raw_fd();
        // SAFETY: the machine owns the event and outlives this call.
        #[allow(unsafe_code)]
        let stop = unsafe { BorrowedFd::borrow_raw(stop) };
        let mut events = [channel.as_fd(), stop, self.replies.bell()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut events, PollTimeout::NONE) {
            Ok(_) => Ok(events.first().and_then(PollFd::any).unwrap_or(false)),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn serve_request(&mut self, request: Request, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let reply = match (request, fds.next()) {
            (Request::Connect { port }, Some(stream)) => {
                let promise = self.replies.promise();
                let done = move |result: Result<(), crate::virtio::vsock::ConnectError>| {
                    promise.keep(done_or_failed(result));
                };
                self.machine.vsock().connect(port, stream, Box::new(done));
                return;
            }
            (Request::AttachDisk(spec), Some(disk)) => match self.machine.attach_disk(&spec, File::from(disk)) {
                Ok(slot) => Reply::Attached { slot },
                Err(error) => failed(error),
            },
            (Request::SaveText, Some(file)) => done_or_failed(self.machine.save_text(&mut File::from(file))),
            (Request::ShareText, Some(file)) => match self.machine.share_text(File::from(file)) {
                Ok(bytes) => Reply::TextShared { bytes },
                Err(error) => failed(error),
            },
            (Request::DetachDisk { id }, _) => done_or_failed(self.machine.detach_disk(&id)),
            (Request::AwaitCrowd, _) => {
                let promise = self.replies.promise_aside();
                self.machine
                    .when_crowded(Box::new(move || promise.keep(Reply::Crowded)));
                return;
            }
            (Request::PlaceIds { ids }, _) => done_or_failed(self.machine.place_ids(ids)),
            (Request::ResizeMemory { mib }, _) => done_or_failed(self.machine.resize_memory(mib)),
            (Request::PlugLateDevices, _) => done_or_failed(self.machine.plug_late_devices()),
            (Request::ReadMemory, _) => Reply::Memory(self.machine.memory_state()),
            (Request::AddVcpus { count }, _) => done_or_failed(self.machine.add_vcpus(count)),
            (Request::ReadCounters, _) => Reply::Counters(self.machine.counters()),
            (Request::Boot(_), _) => failed("the machine has been booted already"),
            (Request::Connect { .. } | Request::AttachDisk(_) | Request::SaveText | Request::ShareText, None) => {
                failed("the request came without its descriptor")
            }
        };
        self.replies.push(reply);
    }
}

fn done_or_failed<E: Display>(result: Result<(), E>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) => failed(error),
    }
}

fn failed(error: impl Display) -> Reply {
    Reply::Failed {
        message: error.to_string(),
    }
}
