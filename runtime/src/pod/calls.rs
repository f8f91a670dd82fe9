//! The calls of a pod.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::boot::{self, end_within};
use super::container::{Container, Prepared};
use super::disks::Plugged;
use super::numbers::{Numbers, foreign};
use super::process::{KILLED, Process};
use super::resize::Sizes;
use super::types::{ContainerSpec, Exit, PidInfo, PodEvent, PodSpec, ProcessState, Status, StdioPaths};
use super::undo::Undo;
use crate::agent_client::Agent;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Identity;
use crate::ids::{ContainerId, validate_exec_id};
use crate::spec;
use crate::vmm_client::Vmm;
use crate::volumes::SharedVolumes;

/// The signal that cannot be refused.
pub(super) const SIGKILL: u32 = nix::libc::SIGKILL.cast_unsigned();
/// How long a guest may take to power itself off, and its agent to agree to that.
const POWER_OFF: Duration = Duration::from_secs(2);
/// The same of one that may have something to write to disks of its own, which nobody else would.
const WRITE_BACK: Duration = Duration::from_secs(60);
/// How long a killed init may take to end before its machine is ended instead.
pub(super) const KILL_PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 10_000 });
/// The same when the pod has other containers and the guest still answers: a process can also wait for a file system of the host.
pub(super) const KILL_MOST: Duration = Duration::from_millis(if cfg!(test) { 1000 } else { 60_000 });
/// How long the end of a machine may take that is ended.
const MACHINE_END: Duration = Duration::from_secs(5);
/// How long the guest may take to list pids; containerd waits 5 s for this and one more call when it restarts.
const PIDS_PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 2000 });

/// A running pod. Made by [`Pod::boot`]; ends with [`Pod::shutdown`], which must be called also after its machine has ended.
pub struct Pod {
    pub(super) me: Weak<Pod>,
    pub(super) id: ContainerId,
    pub(super) share: PathBuf,
    pub(super) volumes: Arc<SharedVolumes>,
    pub(super) identity: Arc<Identity>,
    pub(super) disks: Plugged,
    pub(super) sizes: Sizes,
    pub(super) vmm: Vmm,
    pub(super) agent: Agent,
    /// `None`: the id is taken by a creation that is under way.
    pub(super) containers: Mutex<BTreeMap<String, Option<Arc<Container>>>>,
    pub(super) numbers: Mutex<Numbers>,
    /// The vmm's pid has been given to a container.
    pub(super) first_taken: AtomicBool,
    pub(super) next_stream: AtomicU64,
    pub(super) events: mpsc::UnboundedSender<PodEvent>,
    /// The end is wanted.
    pub(super) stopping: AtomicBool,
    pub(super) tasks: Mutex<Vec<AbortHandle>>,
    /// What the pod has on the host; `None` once that is removed.
    pub(super) ground: tokio::sync::Mutex<Option<Undo>>,
}

impl Pod {
    /// Boots an empty pod and waits until its agent answers. On failure nothing is left.
    ///
    /// The caller is a child subreaper in a mount namespace of its own, inside a tokio runtime.
    pub async fn boot(spec: PodSpec, config: &Config) -> Result<(Arc<Pod>, mpsc::UnboundedReceiver<PodEvent>)> {
        Ok(boot::boot(spec, None, config).await?.0)
    }

    /// Boots a pod and creates its first container, whose files are prepared while the machine boots; also gives the container's
    /// pid. Faster than [`Pod::boot`] and then [`Pod::create_container`]. On failure nothing is left.
    pub async fn boot_with(
        spec: PodSpec,
        first: ContainerSpec,
        config: &Config,
    ) -> Result<(Arc<Pod>, mpsc::UnboundedReceiver<PodEvent>, u32)> {
        let ((pod, events), pid) = boot::boot(spec, Some(first), config).await?;
        let pid = pid.unwrap_or_else(|| pod.vmm_pid());
        Ok((pod, events, pid))
    }

    /// Pid of the vmm, which is in the pod's network namespace.
    pub fn vmm_pid(&self) -> u32 {
        self.vmm.pid()
    }

    /// Creates a container with its init process; gives its pid: the vmm's for the first, a host-unique number for others.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<u32> {
        let reservation = self.reserve(&spec.id)?;
        let prepared = self
            .vmm
            .unless_ended(Prepared::on_host(
                spec,
                self.share.clone(),
                self.volumes.clone(),
                self.identity.clone(),
            ))
            .await?;
        self.create_prepared(prepared, reservation).await
    }

    /// Registers a process to be started in a running container. `process_json`: an OCI "process".
    pub async fn add_exec(&self, container: &str, exec_id: &str, process_json: &[u8], stdio: StdioPaths) -> Result<()> {
        validate_exec_id(exec_id)?;
        let container = self.container(container)?;
        match container.init.status() {
            Status::Running | Status::Paused => {}
            Status::Created => {
                return Err(Error::precondition(format!(
                    "{}: has not been started",
                    container.init.name()
                )));
            }
            Status::Stopped => return Err(Error::precondition(format!("{}: has stopped", container.init.name()))),
        }
        let what = format!("process {exec_id} of container {}", container.id);
        let (json, size) = spec::exec_for_guest(process_json, &what)?;
        let process = serde_json::from_slice(&json).ok();
        container.check_ids(process.as_ref()).map_err(|e| e.context(what))?;
        container.add_exec(exec_id, json, size, stdio)
    }

    /// Starts a container's init or a registered exec; gives its pid.
    pub async fn start(&self, container: &str, exec_id: Option<&str>) -> Result<u32> {
        let container = self.container(container)?;
        let process = container.process(exec_id)?;
        let _operation = process.operation.lock().await;
        match process.status() {
            Status::Created => {}
            Status::Running | Status::Paused => {
                return Err(Error::precondition(format!("{}: already started", process.name())));
            }
            Status::Stopped => return Err(Error::precondition(format!("{}: has stopped", process.name()))),
        }
        if exec_id.is_some() {
            if container.init.status() == Status::Stopped {
                return Err(Error::precondition(format!("container {}: has stopped", container.id)));
            }
            if container.is_frozen() {
                return Err(Error::precondition(format!("container {}: is paused", container.id)));
            }
            self.start_exec(&container, &process).await?;
        } else {
            self.vmm.unless_ended(self.agent.start(container.id.as_str())).await?;
            process.set_running();
            process.streams_started();
            container.hooks.run_started(self.vmm_pid()).await;
        }
        Ok(process.pid())
    }

    /// Where a process is in its life.
    pub async fn state(&self, container: &str, exec_id: Option<&str>) -> Result<ProcessState> {
        let container = self.container(container)?;
        let process = container.process(exec_id)?;
        let status = match process.status() {
            Status::Running if container.is_frozen() => Status::Paused,
            status => status,
        };
        Ok(ProcessState {
            status,
            pid: process.pid(),
            exit: process.exit(),
            stdio: process.stdio.clone(),
            bundle: container.bundle.clone(),
        })
    }

    /// Answers when the process has ended; at once if it already has.
    pub async fn wait(&self, container: &str, exec_id: Option<&str>) -> Result<Exit> {
        let process = self.container(container)?.process(exec_id)?;
        process.wait().await
    }

    /// Sends a signal to a process, or with `all` to every process of the container.
    ///
    /// SIGKILL of an init always ends it: when the guest does not, its machine is ended.
    pub async fn kill(&self, container: &str, exec_id: Option<&str>, signal: u32, all: bool) -> Result<()> {
        let container = self.container(container)?;
        let process = container.process(exec_id)?;
        if exec_id.is_some() && process.status() == Status::Created {
            return Err(Error::precondition(format!("{}: has not been started", process.name())));
        }
        // With `all`, processes can be left that outlived the first one.
        if process.status() == Status::Stopped && !all {
            return Err(finished(&process));
        }
        let ends_it = signal == SIGKILL && exec_id.is_none() && process.status() != Status::Stopped;
        if ends_it {
            self.end_unless_killed(process.clone());
        }
        let signalled = self
            .vmm
            .unless_ended(
                self.agent
                    .signal(container.id.as_str(), process.agent_id(), signal, all),
            )
            .await;
        match signalled {
            Err(error) if ends_it && is_silent(&error) => {
                let ended = tokio::time::timeout(KILL_MOST + MACHINE_END, process.wait()).await;
                ended.unwrap_or(Err(error)).map(drop)
            }
            Err(_) if process.status() == Status::Stopped => Err(finished(&process)),
            result => result,
        }
    }

    /// Ends the machine when a killed init does not end: the guest hangs, or does not want to. Other containers, and what is still to be
    /// written to disks, are spared for a while if the guest still answers ([`KILL_MOST`]).
    fn end_unless_killed(&self, process: Arc<Process>) {
        let Some(pod) = self.me.upgrade() else { return };
        self.spawn(async move {
            if tokio::time::timeout(KILL_PATIENCE, process.wait()).await.is_err() {
                let others = pod.all_containers();
                let mut others = others.iter().filter(|c| c.id.as_str() != process.container);
                let is_needed = others.any(|c| c.init.status() != Status::Stopped) || pod.disks.are_written();
                if is_needed && pod.guest_answers(&process.container).await {
                    tracing::warn!("pod {}: {} does not end after SIGKILL", pod.id, process.name());
                    let left = KILL_MOST.saturating_sub(KILL_PATIENCE);
                    if tokio::time::timeout(left, process.wait()).await.is_ok() {
                        return;
                    }
                }
                tracing::warn!(
                    "pod {}: {} did not end in time after SIGKILL, ending the microVM",
                    pod.id,
                    process.name()
                );
                pod.vmm.hang_up().await;
            }
        });
    }

    async fn guest_answers(&self, container: &str) -> bool {
        let asked = tokio::time::timeout(PIDS_PATIENCE, self.vmm.unless_ended(self.agent.pids(container))).await;
        asked.is_ok_and(|answer| !answer.is_err_and(|error| is_silent(&error)))
    }

    /// Forgets an ended process; for an init removes the container. Gives its pid and how it ended.
    pub async fn delete(&self, container: &str, exec_id: Option<&str>) -> Result<(u32, Exit)> {
        let container = self.container(container)?;
        let process = container.process(exec_id)?;
        let _operation = process.operation.lock().await;
        // Another deletion may have been faster, and the names may belong to others by now.
        let now = self.container(container.id.as_str())?.process(exec_id)?;
        if !Arc::ptr_eq(&now, &process) {
            return Err(Error::not_found(format!("{}: was deleted already", process.name())));
        }
        match process.status() {
            Status::Running | Status::Paused => {
                return Err(Error::precondition(format!(
                    "{}: cannot be deleted while it runs",
                    process.name()
                )));
            }
            // One that was never started ends without anybody being told.
            Status::Created if exec_id.is_some() => drop(process.finish(KILLED)),
            Status::Created => self.forget_in_guest(&process).await?,
            Status::Stopped => {
                if exec_id.is_none() {
                    container.settle_execs().await;
                }
                self.drain(&process).await;
                self.forget_in_guest(&process).await?;
            }
        }
        self.drain(&process).await;
        let exit = process.exit().unwrap_or(Exit {
            status: KILLED,
            at: SystemTime::now(),
        });
        let pid = process.pid();
        match exec_id {
            Some(exec_id) => {
                container.remove_exec(exec_id);
                self.numbers().give_back(pid);
            }
            None => self.remove_container(&container).await,
        }
        Ok((pid, exit))
    }

    /// Sets the size of a process's terminal in characters. Without a terminal there is nothing to do, as with runc.
    pub async fn resize_pty(&self, container: &str, exec_id: Option<&str>, width: u32, height: u32) -> Result<()> {
        let process = self.container(container)?.process(exec_id)?;
        if !process.stdio.terminal {
            return Ok(());
        }
        // First: a start that is under way looks at it once the process runs.
        process.set_size((width, height));
        match process.status() {
            Status::Created if exec_id.is_some() => Ok(()),
            Status::Stopped => Err(finished(&process)),
            _ => {
                self.vmm
                    .unless_ended(
                        self.agent
                            .resize_pty(&process.container, process.agent_id(), width, height),
                    )
                    .await
            }
        }
    }

    /// The client will write nothing more to the process's stdin.
    pub async fn close_io(&self, container: &str, exec_id: Option<&str>) -> Result<()> {
        self.container(container)?.process(exec_id)?.close_stdin();
        Ok(())
    }

    /// All processes of a container; of a guest that does not answer, those that clients started.
    pub async fn pids(&self, container: &str) -> Result<Vec<PidInfo>> {
        let container = self.container(container)?;
        let asked = tokio::time::timeout(
            PIDS_PATIENCE,
            self.vmm.unless_ended(self.agent.pids(container.id.as_str())),
        )
        .await;
        let known = container.processes().into_iter();
        let known = known.filter(|p| p.status() != Status::Stopped && p.pid() != 0);
        let known: Vec<PidInfo> = known.map(|p| p.info()).collect();
        let guest_pids = match asked {
            Ok(Ok(pids)) => pids,
            failed => {
                // containerd forgets a task that seems to have no processes: what the host itself knows has to do.
                if !known.is_empty() {
                    return Ok(known);
                }
                failed.unwrap_or_else(|_| Err(Error::timeout(format!("container {}: no answer", container.id))))?
            }
        };
        let info = |guest_pid: u32| {
            let process = known.iter().find(|p| p.guest_pid == guest_pid);
            process.cloned().unwrap_or_else(|| PidInfo {
                pid: foreign(guest_pid),
                guest_pid,
                exec_id: None,
            })
        };
        Ok(guest_pids.into_iter().map(info).collect())
    }

    /// Counters of a container: contents of the guest's cgroup v2 files by name ("memory.current", "cpu.stat", ...). From the guest:
    /// not to be trusted.
    pub async fn stats(&self, container: &str) -> Result<HashMap<String, String>> {
        let container = self.container(container)?;
        self.vmm.unless_ended(self.agent.stats(container.id.as_str())).await
    }

    /// Freezes every process of a container.
    pub async fn pause(&self, container: &str) -> Result<()> {
        self.set_frozen(container, true).await
    }

    /// Thaws them.
    pub async fn resume(&self, container: &str) -> Result<()> {
        self.set_frozen(container, false).await
    }

    /// Whether the pod has no container.
    pub fn is_empty(&self) -> bool {
        self.map().is_empty()
    }

    /// Why the microVM ended, once it has.
    pub fn stopped(&self) -> Option<String> {
        self.vmm.end().map(|end| end.reason)
    }

    /// Powers the guest off, bounded in time, and removes everything the pod had on the host. Twice is fine.
    pub async fn shutdown(&self) -> Result<()> {
        let mut ground = self.ground.lock().await;
        let Some(mut undo) = ground.take() else { return Ok(()) };
        self.stopping.store(true, Ordering::SeqCst);
        if self.vmm.end().is_none() {
            // The answer may be lost with the guest; what counts is its end.
            let _ = self.agent.shutdown(POWER_OFF).await;
            let patience = match self.disks.are_written() {
                true => WRITE_BACK,
                false => POWER_OFF,
            };
            end_within(&self.vmm, patience).await;
        }
        self.finish_all();
        let containers = self.all_containers();
        for container in &containers {
            container.finish_quietly();
            undo.append(container.take_undo());
        }
        self.map().clear();
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        let result = undo.run_async().await;
        for container in &containers {
            container.hooks.run_stopped().await;
        }
        result
    }

    async fn set_frozen(&self, container: &str, frozen: bool) -> Result<()> {
        let container = self.container(container)?;
        if container.init.status() != Status::Running {
            return Err(Error::precondition(format!("{}: does not run", container.init.name())));
        }
        self.vmm
            .unless_ended(self.agent.set_frozen(container.id.as_str(), frozen))
            .await?;
        container.set_frozen(frozen);
        Ok(())
    }

    /// Lets the guest forget a process. One that it does not know, or that went with the machine, is forgotten already; a guest
    /// that does not answer, or does not want to forget an init that has ended, keeps nobody from removing what the host has. A pod
    /// without other containers ends with a guest that does not answer.
    async fn forget_in_guest(&self, process: &Process) -> Result<()> {
        let status = match self
            .vmm
            .unless_ended(self.agent.delete(&process.container, process.agent_id()))
            .await
        {
            Ok(status) => status,
            Err(error) if error.kind() == ErrorKind::NotFound => KILLED,
            Err(error) if is_silent(&error) => {
                if self.vmm.end().is_none() {
                    tracing::warn!(
                        "{}: removed although the guest does not answer: {error}",
                        process.name()
                    );
                    if process.exec_id.is_none() && self.map().len() == 1 {
                        self.vmm.hang_up().await;
                    }
                }
                KILLED
            }
            Err(error) if process.exec_id.is_none() && process.status() == Status::Stopped => {
                tracing::warn!("{}: removed although the guest keeps it: {error}", process.name());
                KILLED
            }
            Err(error) => return Err(error),
        };
        self.finish(process, status);
        Ok(())
    }

    /// Waits for the output of an ended process, then closes its fifos.
    async fn drain(&self, process: &Process) {
        if let Some(mut streams) = process.take_streams() {
            streams.drain().await;
        }
    }

    /// A number for a process besides the first container's.
    pub(super) fn take_number(&self) -> Result<u32> {
        self.numbers().take().ok_or_else(|| {
            Error::precondition(format!(
                "pod {}: has as many processes as can be numbered (1022): delete some",
                self.id
            ))
        })
    }

    pub(super) async fn remove_container(&self, container: &Arc<Container>) {
        container.finish_quietly();
        for process in container.processes() {
            drop(process.take_streams());
            self.numbers().give_back(process.pid());
        }
        self.give_back_disks(&container.disks).await;
        // What cannot be removed is in the log; the container is gone all the same, and the pod's end tries again.
        let _ = container.take_undo().run_async().await;
        container.hooks.run_stopped().await;
        // Last: a pod without containers is ended.
        self.map().remove(container.id.as_str());
    }

    pub(super) fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.map().get(id).cloned().flatten();
        found.ok_or_else(|| {
            let shown: String = id.chars().take(64).collect();
            Error::not_found(format!("container {shown:?}: not found in pod {}", self.id))
        })
    }

    pub(super) fn all_containers(&self) -> Vec<Arc<Container>> {
        self.map().values().flatten().cloned().collect()
    }

    /// Takes an id and a pid for a container that is about to be created.
    pub(super) fn reserve(&self, id: &ContainerId) -> Result<Reservation<'_>> {
        self.check_alive()?;
        let mut map = self.map();
        if map.contains_key(id.as_str()) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("container {id}: already exists"),
            ));
        }
        let first = !self.first_taken.swap(true, Ordering::SeqCst);
        let pid = if first { self.vmm_pid() } else { self.take_number()? };
        map.insert(id.to_string(), None);
        Ok(Reservation {
            pod: self,
            id: id.to_string(),
            pid,
            first,
            kept: false,
        })
    }

    fn check_alive(&self) -> Result<()> {
        match self.vmm.end() {
            Some(end) => Err(end.into()),
            None if self.stopping.load(Ordering::SeqCst) => {
                Err(Error::precondition(format!("pod {}: is being stopped", self.id)))
            }
            None => Ok(()),
        }
    }

    /// Runs a task that ends with the pod at the latest.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let handle = tokio::spawn(task).abort_handle();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle);
    }

    pub(super) fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn map(&self) -> MutexGuard<'_, BTreeMap<String, Option<Arc<Container>>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An id and a pid, given back when dropped unless kept.
pub(super) struct Reservation<'a> {
    pod: &'a Pod,
    id: String,
    pub(super) pid: u32,
    /// No other container was in the pod before.
    pub(super) first: bool,
    kept: bool,
}

impl Reservation<'_> {
    pub(super) fn keep(mut self, container: Arc<Container>) {
        self.kept = true;
        self.pod.map().insert(self.id.clone(), Some(container));
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.pod.map().remove(&self.id);
        if self.first {
            self.pod.first_taken.store(false, Ordering::SeqCst);
        } else {
            self.pod.numbers().give_back(self.pid);
        }
    }
}

fn finished(process: &Process) -> Error {
    Error::not_found(format!("{}: process already finished", process.name()))
}

/// The agent has not answered, or cannot any more.
fn is_silent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::DeadlineExceeded | ErrorKind::Unavailable)
}
