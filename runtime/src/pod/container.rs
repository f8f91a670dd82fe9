//! One container: what it has on the host, its creation in the guest, its processes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_agent_protocol::STREAM_PORT;
use bulkhead_vmm_control::{OWN_ROOTFS, READY_ROOTFS};
use serde_json::Value;
use tokio::sync::watch;

use super::calls::{Pod, Reservation, SIGKILL};
use super::demand::Demand;
use super::disks::{self, OpenDisk, Taken};
use super::hooks::Hooks;
use super::machine::set_oom_score;
use super::process::{KILLED, Process};
use super::types::{ContainerSpec, PodEvent, StdioPaths};
use super::undo::{Remote, Undo};
use crate::agent_client::{ProcessIo, StreamIds};
use crate::error::{Error, ErrorKind, Result, blocking};
use crate::identity::{FileMap, GuestIds, Identity};
use crate::ids::ContainerId;
use crate::spec::{self, CRI_CONTAINER_TYPE, HostLimits, Neighbours, PidOwner, text};
use crate::stdio::{Endpoints, GuestEnds, Streams, assign_ids, write_header};
use crate::volumes::SharedVolumes;
use crate::{rootfs, volumes};

/// How long the guest may take to accept a stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a deletion waits for starts of further processes that are under way.
const SETTLE: Duration = Duration::from_secs(5);
/// How long the removal of what the guest has made too late may take.
const TAKE_BACK: Duration = Duration::from_secs(10);
/// Pause between two attempts at it.
const TAKE_BACK_RETRY: Duration = Duration::from_millis(100);
/// Most processes added to a container at a time.
const MAX_EXECS: usize = 1024;

/// A container whose files are in the share, not yet known to the guest.
pub(super) struct Prepared {
    id: ContainerId,
    bundle: PathBuf,
    stdio: StdioPaths,
    mounted: Mounted,
    undo: Undo,
}

impl Prepared {
    /// Mounts root filesystem and volumes. On failure nothing is left.
    pub(super) async fn on_host(
        mut container: ContainerSpec,
        share: PathBuf,
        volumes: Arc<SharedVolumes>,
        identity: Arc<Identity>,
    ) -> Result<Prepared> {
        let given_up = container.given_up();
        let mut undo = Undo::default();
        let remote = undo.remote();
        let work = move || match mount(&mut container, &share, &volumes, &identity, &mut undo) {
            Ok(mounted) => {
                let ContainerSpec { id, bundle, stdio, .. } = container;
                Ok(Prepared {
                    id,
                    bundle,
                    stdio,
                    mounted,
                    undo,
                })
            }
            Err(error) => {
                let _ = undo.run();
                Err(error)
            }
        };
        let prepared = blocking("preparing the container's files", work);
        unless_given_up(Some(given_up), prepared, remote).await
    }

    /// Takes it all back.
    pub(super) async fn discard(self) -> Result<()> {
        self.undo.run_async().await
    }
}

/// Waits for work on a container's files, unless nobody wants the container any more: then takes back what was done so far.
pub(super) async fn unless_given_up<T>(
    container: Option<(ContainerId, watch::Receiver<bool>)>,
    work: impl Future<Output = Result<T>>,
    undo: Remote,
) -> Result<T> {
    let Some((id, mut given_up)) = container else {
        return work.await;
    };
    let given_up = async {
        if given_up.wait_for(|given_up| *given_up).await.is_err() {
            // Nobody is left who could say so.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        done = work => done,
        () = given_up => {
            // What cannot be removed is in the log.
            let _ = undo.run_async().await;
            Err(Error::not_found(format!(
                "container {id}: was deleted while its files were being prepared"
            )))
        }
    }
}

/// A container's files in the share.
struct Mounted {
    /// With the guest's paths of the volumes.
    spec: Value,
    /// These, and their sources.
    names: Vec<(String, String)>,
    /// Who they can belong to, where a process that is added later could be somebody else.
    owners: Option<FileMap>,
    disks: Vec<OpenDisk>,
}

/// Takes the spec out of `container`.
fn mount(
    container: &mut ContainerSpec,
    share: &std::path::Path,
    volumes: &Arc<SharedVolumes>,
    identity: &Identity,
    undo: &mut Undo,
) -> Result<Mounted> {
    let mut spec = container.spec.take();
    let named = |e: Error| e.context(format!("container {}", container.id));
    let in_user_namespace = spec::in_user_namespace(&spec);
    let ids = GuestIds::of(&spec).map_err(named)?;
    let files = identity.files_of(&ids).map_err(named)?;
    let rootfs = if rootfs::lies_ready(&container.rootfs) {
        READY_ROOTFS
    } else {
        OWN_ROOTFS
    };
    let folders = rootfs::make_folders(share, &container.id, rootfs, undo)?;
    let root_path = text(&spec, "/root/path").map(str::to_owned);
    spec::set_root(&mut spec, &container.id, rootfs)?;
    let disk_root = rootfs::on_disk(&container.rootfs).map_err(named)?;
    if disk_root.is_none() {
        rootfs::prepare(
            &container.rootfs,
            &container.bundle,
            root_path.as_deref(),
            &folders.rootfs,
            files.as_ref(),
            undo,
        )?;
    }
    let names = volumes::prepare(
        &mut spec,
        &container.id,
        &container.bundle,
        volumes,
        files.as_ref(),
        undo,
    )?;
    if let Some(files) = &files {
        files.tried().clear();
    }
    Ok(Mounted {
        disks: disks::open(&spec, disk_root).map_err(named)?,
        spec,
        names,
        // Behind a user namespace the guest's kernel says which there are.
        owners: files.filter(|_| !in_user_namespace),
    })
}

/// A container that the guest knows.
pub(super) struct Container {
    pub(super) id: ContainerId,
    pub(super) bundle: PathBuf,
    pub(super) init: Arc<Process>,
    pub(super) hooks: Hooks,
    frozen: AtomicBool,
    oom_score_adj: Option<i32>,
    pub(super) host_limits: HostLimits,
    /// As in [`Mounted`].
    owners: Option<FileMap>,
    /// Path of the user namespace that its specification has.
    user_namespace: Option<String>,
    /// Block devices and image files of the host that are plugged for it.
    pub(super) disks: Taken,
    execs: Mutex<BTreeMap<String, Exec>>,
    undo: Mutex<Undo>,
}

/// A process added to a container, and its OCI "process" until it is started.
struct Exec {
    process: Arc<Process>,
    json: Option<Vec<u8>>,
}

impl Container {
    /// Nobody is told of an exec that was never started, but whoever waits for it must not do so for ever.
    pub(super) fn finish_quietly(&self) {
        for process in self.processes() {
            let _ = process.finish(KILLED);
        }
    }

    pub(super) fn processes(&self) -> Vec<Arc<Process>> {
        let execs = self.execs();
        std::iter::once(self.init.clone())
            .chain(execs.values().map(|exec| exec.process.clone()))
            .collect()
    }

    pub(super) fn process(&self, exec_id: Option<&str>) -> Result<Arc<Process>> {
        let Some(exec_id) = exec_id else {
            return Ok(self.init.clone());
        };
        let exec = self.execs().get(exec_id).map(|exec| exec.process.clone());
        exec.ok_or_else(|| Error::not_found(format!("process {exec_id} of container {}: not found", self.id)))
    }

    /// Registers a process to be started later.
    pub(super) fn add_exec(&self, exec_id: &str, json: Vec<u8>, size: (u32, u32), stdio: StdioPaths) -> Result<()> {
        let process = Arc::new(Process::new(self.id.as_str(), Some(exec_id), stdio, size));
        let mut execs = self.execs();
        if execs.contains_key(exec_id) {
            let message = format!("process {exec_id} of container {}: already exists", self.id);
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        if execs.len() >= MAX_EXECS {
            return Err(Error::precondition(format!(
                "container {}: has {MAX_EXECS} added processes already",
                self.id
            )));
        }
        execs.insert(
            exec_id.to_owned(),
            Exec {
                process,
                json: Some(json),
            },
        );
        Ok(())
    }

    /// Refuses an OCI "process" whose ids the container's files cannot belong to.
    pub(super) fn check_ids(&self, process: Option<&Value>) -> Result<()> {
        self.owners.as_ref().map_or(Ok(()), |owners| owners.check(process))
    }

    /// The OCI "process" of an exec, once.
    pub(super) fn take_exec_json(&self, exec_id: &str) -> Option<Vec<u8>> {
        self.execs().get_mut(exec_id)?.json.take()
    }

    pub(super) fn remove_exec(&self, exec_id: &str) {
        self.execs().remove(exec_id);
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    pub(super) fn set_frozen(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
    }

    /// Steps that remove what it has on the host; empty from the second call on.
    pub(super) fn take_undo(&self) -> Undo {
        std::mem::take(&mut *self.undo.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits, not for long, for the starts of execs that are under way. Called when the init has ended, which lets no other begin.
    pub(super) async fn settle_execs(&self) {
        let starts = async {
            for process in self.processes().iter().filter(|process| process.exec_id.is_some()) {
                drop(process.operation.lock().await);
            }
        };
        if tokio::time::timeout(SETTLE, starts).await.is_err() {
            tracing::warn!("container {}: deleted while a process is being started", self.id);
        }
    }

    fn execs(&self) -> MutexGuard<'_, BTreeMap<String, Exec>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pod {
    /// Creates the first container, whose files were made ready before there was a pod. On failure nothing of it is left.
    pub(super) async fn create_first(&self, prepared: Prepared) -> Result<u32> {
        match self.reserve(&prepared.id) {
            Ok(reservation) => self.create_prepared(prepared, reservation).await,
            Err(error) => {
                let _ = prepared.discard().await;
                Err(error)
            }
        }
    }

    /// Creates a container whose files are ready. On failure nothing of it is left.
    pub(super) async fn create_prepared(&self, mut prepared: Prepared, reservation: Reservation<'_>) -> Result<u32> {
        match self.create_in_guest(&mut prepared, &reservation).await {
            Ok(container) => {
                let init = container.init.clone();
                container
                    .undo
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .append(std::mem::take(&mut prepared.undo));
                let container = Arc::new(container);
                reservation.keep(container.clone());
                self.raise_oom_score();
                self.watch_process(init.clone());
                Ok(init.pid())
            }
            Err(error) => {
                let _ = prepared.discard().await;
                drop(reservation);
                Err(error)
            }
        }
    }

    async fn create_in_guest(&self, prepared: &mut Prepared, reservation: &Reservation<'_>) -> Result<Container> {
        let wanted = std::mem::take(&mut prepared.mounted.disks);
        let disks = self.take_disks(wanted, &mut prepared.mounted.spec).await?;
        prepared.mounted.names.extend(disks.root_names.clone());
        let created = self.create_with(prepared, reservation, disks.clone()).await;
        if created.is_err() {
            self.give_back_disks(&disks).await;
        }
        created
    }

    async fn create_with(
        &self,
        prepared: &mut Prepared,
        reservation: &Reservation<'_>,
        disks: Taken,
    ) -> Result<Container> {
        let id = prepared.id.clone();
        let mut spec = std::mem::take(&mut prepared.mounted.spec);
        let hooks = Hooks::of(&spec, id.as_str(), &prepared.bundle)?;
        let placed = self.identity.placed();
        if !placed.is_empty() {
            self.vmm.place_ids(placed).await?;
        }
        let in_cri = spec.get("annotations").and_then(|a| a.get(CRI_CONTAINER_TYPE)).cloned();
        let sandbox = in_cri.as_ref().is_some_and(|kind| kind == "sandbox");
        let limits = match reservation.first && in_cri.is_none() {
            true => HostLimits::OfThePod,
            false => HostLimits::OfTheContainer,
        };
        let score = spec
            .pointer("/process/oomScoreAdj")
            .and_then(Value::as_i64)
            .and_then(|n| i32::try_from(n).ok());
        // That of a sandbox limits its pause process, and the pod by its annotations.
        let demand = (!sandbox).then(|| Demand::of(spec.pointer("/linux/resources")));
        let user_namespace = spec::user_namespace(&spec).map(str::to_owned);
        if let Some(demand) = demand {
            let made = self.make_room_for(&id, demand).await;
            made.map_err(|e| e.context(format!("container {id}")))?;
        }
        if let Some(most) = self.grows_to().await {
            spec::size_tmpfs(&mut spec, most);
        }
        let guest_spec = spec::for_guest(spec, &id, self, limits)?;
        let size = guest_spec.console_size;
        let init = Arc::new(Process::new(id.as_str(), None, prepared.stdio.clone(), size));
        let created = async {
            hooks.run_created(self.vmm_pid()).await?;
            let (io, streams) = self.open_streams(&init).await?;
            let guest_pid = self
                .vmm
                .unless_ended(self.agent.create(id.as_str(), guest_spec, io, disks.told()))
                .await?;
            Ok((guest_pid, streams))
        };
        let (guest_pid, streams) = match created.await {
            Ok(created) => created,
            Err(error) => {
                let error: Error = error;
                if error.kind() == ErrorKind::DeadlineExceeded {
                    // The guest may finish it yet; before its files are taken away it goes again.
                    self.take_back(id.as_str(), "").await;
                }
                // What the first hooks have made, the last ones take away.
                hooks.run_stopped().await;
                let names = prepared.mounted.names.iter();
                return Err(names.fold(error, |error, (ours, theirs)| error.naming(ours, theirs)));
            }
        };
        init.set_pids(reservation.pid, guest_pid);
        init.set_streams(streams);
        Ok(Container {
            bundle: prepared.bundle.clone(),
            init,
            hooks,
            frozen: AtomicBool::new(false),
            oom_score_adj: score.filter(|_| !sandbox),
            host_limits: limits,
            owners: prepared.mounted.owners.take(),
            user_namespace,
            disks,
            execs: Mutex::new(BTreeMap::new()),
            undo: Mutex::new(Undo::default()),
            id,
        })
    }

    /// Starts a registered process; gives its number.
    pub(super) async fn start_exec(&self, container: &Container, process: &Arc<Process>) -> Result<u32> {
        let exec_id = process.agent_id();
        let number = self.take_number()?;
        let Some(json) = container.take_exec_json(exec_id) else {
            self.numbers().give_back(number);
            let message = format!("{}: its start has failed before", process.name());
            return Err(Error::precondition(message));
        };
        let started = async {
            let (io, streams) = self.open_streams(process).await?;
            let started = self
                .vmm
                .unless_ended(self.agent.exec(container.id.as_str(), exec_id, json, io))
                .await;
            if started.as_ref().is_err_and(|e| e.kind() == ErrorKind::DeadlineExceeded) {
                self.take_back(container.id.as_str(), exec_id).await;
            }
            Ok((started?, streams, io.size))
        };
        match started.await {
            // Its container was deleted meanwhile, and with it whatever the guest had started in it.
            Ok(_) if !self.has(container) => {
                self.numbers().give_back(number);
                Err(Error::not_found(format!(
                    "{}: its container was deleted",
                    process.name()
                )))
            }
            Ok((guest_pid, streams, size)) => {
                process.set_pids(number, guest_pid);
                process.set_streams(streams);
                process.set_running();
                process.streams_started();
                self.watch_process(process.clone());
                self.resize_if_changed(process, size).await;
                Ok(number)
            }
            Err(error) => {
                self.numbers().give_back(number);
                Err(error)
            }
        }
    }

    fn has(&self, container: &Container) -> bool {
        let now = self.container(container.id.as_str());
        now.is_ok_and(|now| std::ptr::eq(Arc::as_ptr(&now), container))
    }

    /// Removes from the guest what it may have made after the host had given up waiting.
    async fn take_back(&self, container: &str, exec_id: &str) {
        let removed = async {
            // Until it is finished, the guest refuses to act on it.
            loop {
                let signalled = self
                    .vmm
                    .unless_ended(self.agent.signal(container, exec_id, SIGKILL, false))
                    .await;
                match signalled {
                    Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                        tokio::time::sleep(TAKE_BACK_RETRY).await;
                    }
                    result => break result?,
                }
            }
            self.vmm.unless_ended(self.agent.wait(container, exec_id)).await?;
            self.vmm.unless_ended(self.agent.delete(container, exec_id)).await
        };
        // Nothing more can be done when this fails too: most likely the guest does not answer at all.
        if let Ok(Ok(_)) = tokio::time::timeout(TAKE_BACK, removed).await {
            tracing::warn!("container {container}: what the guest made too late was removed");
        }
    }

    /// A size that came while the process was being started, with `told`, is passed on now.
    async fn resize_if_changed(&self, process: &Process, told: (u32, u32)) {
        let (width, height) = process.size();
        if !process.stdio.terminal || (width, height) == told {
            return;
        }
        let resized =
            self.vmm.unless_ended(
                self.agent
                    .resize_pty(&process.container, process.agent_id(), width, height),
            );
        // It may have ended already.
        if let Err(error) = resized.await {
            tracing::debug!("{}: its terminal keeps its size: {error}", process.name());
        }
    }

    /// Opens the client's ends and connects each with the guest.
    async fn open_streams(&self, process: &Process) -> Result<(ProcessIo, Streams)> {
        let endpoints = self.vmm.unless_ended(Endpoints::open(&process.stdio)).await?;
        let ids = assign_ids(&endpoints, &self.next_stream);
        let StreamIds { stdin, stdout, stderr } = ids;
        let (stdin, stdout, stderr) = tokio::try_join!(
            self.guest_stream(stdin),
            self.guest_stream(stdout),
            self.guest_stream(stderr)
        )?;
        let streams = Streams::start(endpoints, GuestEnds { stdin, stdout, stderr })?;
        let io = ProcessIo {
            terminal: process.stdio.terminal,
            streams: ids,
            size: process.size(),
        };
        Ok((io, streams))
    }

    async fn guest_stream(&self, id: u64) -> Result<Option<std::os::unix::net::UnixStream>> {
        if id == 0 {
            return Ok(None);
        }
        let stream = self.vmm.connect(STREAM_PORT, STREAM_TIMEOUT).await?;
        write_header(&stream, id)?;
        Ok(Some(stream))
    }

    /// Sees the end of a process and tells it.
    fn watch_process(&self, process: Arc<Process>) {
        let Some(pod) = self.me.upgrade() else { return };
        self.spawn(async move {
            let status = match pod
                .vmm
                .unless_ended(pod.agent.wait(&process.container, process.agent_id()))
                .await
            {
                Ok(status) => status,
                // It was deleted before it had ended, or is just being deleted with its container.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::FailedPrecondition) => KILLED,
                Err(error) => {
                    // The machine has ended, or its agent cannot be understood, which leaves nothing to be done with it.
                    tracing::warn!("{}: its end cannot be seen: {error}", process.name());
                    pod.vmm.kill();
                    KILLED
                }
            };
            pod.finish(&process, status);
        });
    }

    /// Notes and tells the end of a process, once.
    pub(super) fn finish(&self, process: &Process, status: u32) {
        if !process.finish(status) {
            return;
        }
        let Some(exit) = process.exit() else { return };
        let event = PodEvent::Exited {
            container: process.container.clone(),
            exec_id: process.exec_id.clone(),
            pid: process.pid(),
            status: exit.status,
            at: exit.at,
        };
        // Without a receiver nobody is interested.
        let _ = self.events.send(event);
    }

    /// The vmm is as expendable as the most expendable of its containers.
    fn raise_oom_score(&self) {
        let highest = self.all_containers().iter().filter_map(|c| c.oom_score_adj).max();
        if let Some(score) = highest
            && let Err(error) = set_oom_score(self.vmm_pid(), score)
        {
            tracing::warn!("pod {}: {error}", self.id);
        }
    }
}

impl Neighbours for Pod {
    fn owner_of(&self, pid: u32) -> PidOwner {
        let owner = self.all_containers().into_iter().find(|c| c.init.pid() == pid);
        match owner {
            Some(container) => PidOwner::Container(container.id.to_string()),
            None if pid == self.vmm_pid() => PidOwner::Pod,
            None => PidOwner::Nobody,
        }
    }

    fn with_user_namespace(&self, path: &str) -> Option<String> {
        let mut containers = self.all_containers().into_iter();
        let lives = |c: &Container| c.init.exit().is_none();
        let container = containers.find(|c| lives(c) && c.user_namespace.as_deref() == Some(path))?;
        Some(container.id.to_string())
    }
}

#[cfg(test)]
#[path = "pod_test.rs"]
mod pod_test;
