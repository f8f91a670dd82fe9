//! The pod's containers and their processes: which exist, in which state, and every operation of the protocol on them.
//!
//! A container is created (its init waits), running (started) or ended (its init has). A name is taken from the moment that
//! its creation begins until it is deleted. Operations never hold a lock while they wait.

pub mod cgroup;
mod cgroup_tree;
mod complaints;
mod copy_up;
mod create;
mod devices;
pub mod exec;
pub mod helper;
mod keyring;
mod limits;
mod mounts;
mod oom;
pub mod process;
mod program;
mod restrictions;
mod rlimits;
mod scheduling;
mod seccomp;
pub mod share;
mod spec;
mod stream_owner;
mod user_namespace;
mod working_directory;

use crate::apart::apart;
use crate::disks;
use crate::error::{Error, Kind, Result};
use crate::events::Events;
use crate::reaper::{Reaper, ended};
use crate::stdio;
use crate::streams::Streams;
use bulkhead_agent_protocol::{SHARE_MOUNT, agent, disk_path};
use cgroup::Cgroup;
use helper::{Request, TerminalSize};
use nix::libc;
use oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp};
use process::Process;
use scheduling::Scheduling;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a start may wait for the init to run its program, which may be a cold file: less than the 60 s that the host waits.
const START_PATIENCE: Duration = Duration::from_secs(50);
/// How long a killed init may take to end before its container is deleted.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Where the agent keeps its things; differs in tests.
#[derive(Clone, Debug)]
pub struct Places {
    /// The agent's own program, which is started anew as helper.
    pub program: PathBuf,
    /// Directory for the containers' state, on a tmpfs.
    pub state: PathBuf,
    /// Mount point of the cgroup v2 tree.
    pub cgroups: PathBuf,
}

/// One container.
struct Container {
    init: Arc<Process>,
    cgroup: Cgroup,
    directory: PathBuf,
    capabilities: Option<LinuxCapabilities>,
    seccomp: Option<LinuxSeccomp>,
    scheduling: Scheduling,
    /// Whether it uses files of the pod's share.
    shares: bool,
    started: Mutex<bool>,
    /// Until the start: the pipe that ends when the init's program runs.
    waiting: Mutex<Option<OwnedFd>>,
    /// By exec id; `None` while the process is being started.
    execs: Mutex<HashMap<String, Option<Arc<Process>>>>,
}

/// All containers of the pod.
pub struct Containers {
    places: Places,
    reaper: Arc<Reaper>,
    streams: Arc<Streams>,
    events: Arc<Events>,
    /// By container id; `None` while the container is being created or deleted.
    containers: Mutex<HashMap<String, Option<Arc<Container>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses what cannot be a container's or exec's name: it becomes a file name.
fn check_id(what: &str, id: &str) -> Result<()> {
    let well_formed = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if !well_formed || !(1..=200).contains(&id.len()) || id.bytes().all(|byte| byte == b'.') {
        let shown: String = id.chars().take(40).collect();
        return Err(Error::invalid(format!(
            "{what} id {shown:?} is not made of 1 to 200 letters, digits, '_', '.' or '-'"
        )));
    }
    Ok(())
}

async fn find_disks(request: &agent::CreateContainerRequest) -> Result<Vec<disks::Translation>> {
    let wanted = request.disks.clone();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let failed =
        |error: &dyn std::error::Error| Error::internal(format!("container {:?}", request.container_id), error);
    let found = apart(move || disks::find(&wanted)).await;
    found.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

fn terminal_size(stdio: &agent::Stdio) -> Option<TerminalSize> {
    let side = |characters: u32| u16::try_from(characters).unwrap_or(u16::MAX);
    stdio.terminal.then(|| TerminalSize {
        width: side(stdio.width),
        height: side(stdio.height),
    })
}

impl Containers {
    /// An empty pod.
    pub fn new(places: Places, reaper: Arc<Reaper>, streams: Arc<Streams>) -> Self {
        Self {
            places,
            reaper,
            streams,
            events: Arc::default(),
            containers: Mutex::default(),
        }
    }

    /// What happens to them.
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// The cgroup v2 folder that holds all of them.
    pub fn top_cgroup(&self) -> PathBuf {
        cgroup::top(&self.places.cgroups)
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        match lock(&self.containers).get(id) {
            Some(Some(container)) => Ok(container.clone()),
            Some(None) => Err(Error::new(
                Kind::FailedPrecondition,
                format!("container {id:?} is being created or deleted"),
            )),
            None => Err(Error::new(
                Kind::NotFound,
                format!("container {id:?} does not exist in the guest"),
            )),
        }
    }

    /// The process with this name; an empty exec id is the container's init.
    pub fn process(&self, id: &str, exec_id: &str) -> Result<Arc<Process>> {
        let container = self.container(id)?;
        if exec_id.is_empty() {
            return Ok(container.init.clone());
        }
        match lock(&container.execs).get(exec_id) {
            Some(Some(process)) => Ok(process.clone()),
            Some(None) => Err(Error::new(
                Kind::FailedPrecondition,
                format!("exec {exec_id:?} is being started"),
            )),
            None => Err(Error::new(
                Kind::NotFound,
                format!("exec {exec_id:?} does not exist in container {id:?}"),
            )),
        }
    }

    /// Creates a container whose init waits for its start.
    pub async fn create(&self, request: &agent::CreateContainerRequest) -> Result<u32> {
        let id = request.container_id.as_str();
        check_id("container", id)?;
        {
            let mut containers = lock(&self.containers);
            if containers.contains_key(id) {
                return Err(Error::new(
                    Kind::AlreadyExists,
                    format!("container {id:?} exists already"),
                ));
            }
            containers.insert(id.to_string(), None);
        }
        let mut place = Reserved {
            map: &self.containers,
            id,
            value: None,
        };
        let container = self.make(request).await?;
        let pid = container.init.pid();
        place.value = Some(container);
        Ok(pid)
    }

    async fn make(&self, request: &agent::CreateContainerRequest) -> Result<Arc<Container>> {
        let id = request.container_id.as_str();
        let mut parsed = spec::parse(&request.spec)?;
        let found = find_disks(request).await?;
        disks::bind_nodes(&mut parsed, &request.disks);
        disks::rename(&mut parsed, &found);
        let sharer;
        let joined = match request.share_namespaces_with.as_str() {
            "" => None,
            other => {
                sharer = self.container(other)?;
                let pid = sharer.init.living_pid().ok_or_else(|| {
                    Error::new(
                        Kind::FailedPrecondition,
                        format!("container {other:?}, whose namespaces are to be shared, has ended"),
                    )
                })?;
                Some(spec::Joined {
                    pid,
                    types: &request.shared_namespaces,
                })
            }
        };
        let share = Path::new(SHARE_MOUNT).join(id);
        let shares = share::is_used(&share, &parsed);
        let cgroup_failed = |error: cgroup::CgroupError| Error::internal(format!("container {id:?}"), &error);
        let cgroup = Cgroup::create(&self.places.cgroups, id).map_err(cgroup_failed)?;
        let directory = self.places.state.join(id);
        let made = self
            .make_in(request, parsed, joined.as_ref(), &cgroup, &directory, shares)
            .await;
        let made = made.map_err(|error| match cgroup.oom_kills() {
            0 => error,
            _ => Error::new(
                error.kind,
                format!("{error}: a process was OOM-killed (memory limit too low?)"),
            ),
        });
        if made.is_err() {
            if let Err(error) = cgroup.remove().await {
                crate::kmsg::notice(&format!("after a failed creation: {}", crate::error::chain(&error)));
            }
            remove_directory(&directory);
            share::forget(share, shares).await;
        }
        made
    }

    async fn make_in(
        &self,
        request: &agent::CreateContainerRequest,
        parsed: oci_spec::runtime::Spec,
        joined: Option<&spec::Joined<'_>>,
        cgroup: &Cgroup,
        directory: &Path,
        shares: bool,
    ) -> Result<Arc<Container>> {
        let id = request.container_id.as_str();
        let scheduling = Scheduling::of(&parsed);
        let adapted = spec::adapt(parsed, cgroup, joined)?;
        let resources = adapted.resources.unwrap_or_default();
        cgroup
            .apply(&resources)
            .map_err(|error| Error::internal(format!("container {id:?}"), &error))?;
        std::fs::create_dir_all(directory).map_err(|error| Error::internal("container state", &error))?;
        let (ends, prepared) = stdio::prepare(&self.streams, &request.stdio).await?;
        let seccomp = spec::seccomp(&adapted.spec);
        let capabilities = spec::capabilities(&adapted.spec);
        let kill_rest_at_end = !spec::owns_pid_namespace(&adapted.spec);
        let helper_request = Request::Create(Box::new(create::Request {
            id: id.to_string(),
            spec: adapted.spec,
            directory: directory.to_owned(),
            procs_file: cgroup.procs_file(),
            terminal: terminal_size(&request.stdio),
            network_sysctls: adapted.network_sysctls,
            disks: request.disks.iter().map(|disk| disk_path(disk.slot).into()).collect(),
            root_disk: request.root_disk.as_ref().map(|disk| create::RootDisk {
                source: disk_path(disk.slot).into(),
                file_system: disk.file_system.clone(),
                flags: disk.flags,
                data: disk.data.clone(),
            }),
        }));
        let mut started = helper::run(&self.places.program, &self.reaper, &helper_request, ends).await?;
        let attached = prepared
            .attach(started.terminal.take())
            .map_err(|error| Error::internal("cannot attach the container's streams", &error))?;
        let init = Arc::new(Process::new(started.pid, started.exit, attached));
        oom::watch(&self.events, cgroup, id, init.exit());
        if kill_rest_at_end {
            kill_rest(cgroup.clone(), init.clone());
        }
        Ok(Arc::new(Container {
            init,
            cgroup: cgroup.clone(),
            directory: directory.to_owned(),
            capabilities,
            seccomp,
            scheduling,
            shares,
            started: Mutex::new(false),
            waiting: Mutex::new(started.waiting),
            execs: Mutex::default(),
        }))
    }

    /// Lets the init of a created container run its program.
    pub async fn start(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        {
            let mut started = lock(&container.started);
            if *started {
                return Err(Error::new(
                    Kind::FailedPrecondition,
                    format!("container {id:?} has been started already"),
                ));
            }
            if container.init.living_pid().is_none() {
                return Err(Error::new(
                    Kind::FailedPrecondition,
                    format!("container {id:?} has ended before its start"),
                ));
            }
            *started = true;
        }
        let waiting = lock(&container.waiting).take();
        let result = tokio::time::timeout(START_PATIENCE, release_init(&container.directory, id, waiting)).await;
        let failed = match result {
            Ok(Ok(())) => return Ok(()),
            // A kill between create and start is no failure of the start: the end is reported like any other.
            _ if container.init.living_pid().is_none() => return Ok(()),
            Ok(Err(error)) => Error::internal(format!("cannot start container {id:?}"), &error),
            Err(_) => Error::new(
                Kind::Internal,
                format!("the init of container {id:?} does not take its start"),
            ),
        };
        // The init may have been told already: nothing may run that the host believes has failed.
        if let Err(error) = container.cgroup.kill() {
            crate::kmsg::notice(&format!("after a failed start: {}", crate::error::chain(&error)));
        }
        Err(failed)
    }

    /// Starts a further process in a running container.
    pub async fn exec(&self, request: &agent::ExecRequest) -> Result<u32> {
        let (id, exec_id) = (request.container_id.as_str(), request.exec_id.as_str());
        check_id("exec", exec_id)?;
        let container = self.container(id)?;
        {
            let mut execs = lock(&container.execs);
            if execs.contains_key(exec_id) {
                return Err(Error::new(
                    Kind::AlreadyExists,
                    format!("exec {exec_id:?} exists already in container {id:?}"),
                ));
            }
            execs.insert(exec_id.to_string(), None);
        }
        let mut place = Reserved {
            map: &container.execs,
            id: exec_id,
            value: None,
        };
        let process = self.start_exec(request, &container).await?;
        let pid = process.pid();
        place.value = Some(process);
        Ok(pid)
    }

    async fn start_exec(&self, request: &agent::ExecRequest, container: &Container) -> Result<Arc<Process>> {
        let id = request.container_id.as_str();
        let mut process = spec::parse_process(&request.process, container.capabilities.as_ref())?;
        process.set_terminal(Some(request.stdio.terminal));
        let (ends, prepared) = stdio::prepare(&self.streams, &request.stdio).await?;
        let refused = |why: &str| {
            Error::new(
                Kind::FailedPrecondition,
                format!("cannot exec in container {id:?}: it {why}"),
            )
        };
        // Checked after every wait: nothing may come between this and the helper's start.
        let init = container.init.living_pid().ok_or_else(|| refused("has ended"))?;
        if container.cgroup.is_frozen() {
            return Err(refused("is paused"));
        }
        let helper_request = Request::Exec(Box::new(exec::Request {
            id: id.to_string(),
            init: init.as_raw(),
            procs_file: container.cgroup.procs_file(),
            init_procs_file: container.cgroup.procs_file_of(init),
            scheduling: container.scheduling.clone().with(&process),
            process,
            seccomp: container.seccomp.clone(),
            terminal: terminal_size(&request.stdio),
        }));
        let mut started = helper::run(&self.places.program, &self.reaper, &helper_request, ends).await?;
        let attached = prepared.attach(started.terminal.take()).map_err(|error| {
            // Nobody would know it.
            let _gone = crate::sys::send_signal(started.pid, libc::SIGKILL);
            Error::internal("cannot attach the process's streams", &error)
        })?;
        Ok(Arc::new(Process::new(started.pid, started.exit, attached)))
    }

    /// Sends a signal to one process, or to all of the container.
    pub async fn signal(&self, request: &agent::SignalRequest) -> Result<()> {
        let signal = i32::try_from(request.signal)
            .ok()
            .filter(|signal| (1..=libc::SIGRTMAX()).contains(signal));
        let signal =
            signal.ok_or_else(|| Error::invalid(format!("invalid argument: there is no signal {}", request.signal)))?;
        if request.all {
            let container = self.container(&request.container_id)?;
            let failed = |error: cgroup::CgroupError| {
                Error::internal(
                    format!("cannot signal all processes of container {:?}", request.container_id),
                    &error,
                )
            };
            return container.cgroup.signal(signal).await.map_err(failed);
        }
        self.process(&request.container_id, &request.exec_id)?.signal(signal)
    }

    /// Changes limits of a container. `resources`: OCI "linux.resources" as JSON.
    pub async fn update(&self, id: &str, resources: &[u8]) -> Result<()> {
        let cgroup = self.container(id)?.cgroup.clone();
        let resources = spec::parse_resources(resources)?;
        let failed = |error: &dyn std::error::Error| Error::internal(format!("container {id:?}"), error);
        // A memory limit below what is in use is written for as long as the kernel takes memory back and kills.
        let done = apart(move || cgroup.update(&resources)).await;
        done.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
    }

    /// Waits for the end of a process.
    pub async fn wait(&self, id: &str, exec_id: &str) -> Result<agent::WaitResponse> {
        let container = self.container(id)?;
        let process = self.process(id, exec_id)?;
        let mut exit = process.exit();
        ended(&mut exit).await;
        Ok(container.answer(&process))
    }

    /// Forgets an ended process; with the init goes the container.
    pub async fn delete(&self, id: &str, exec_id: &str) -> Result<agent::WaitResponse> {
        let container = self.container(id)?;
        if !exec_id.is_empty() {
            let process = self.process(id, exec_id)?;
            if process.living_pid().is_some() {
                return Err(Error::new(
                    Kind::FailedPrecondition,
                    format!("exec {exec_id:?} of container {id:?} is running"),
                ));
            }
            lock(&container.execs).remove(exec_id);
            return Ok(container.answer(&process));
        }
        if container.init.living_pid().is_some() && *lock(&container.started) {
            return Err(Error::new(
                Kind::FailedPrecondition,
                format!("container {id:?} is running"),
            ));
        }
        lock(&self.containers).insert(id.to_string(), None);
        let mut place = Reserved {
            map: &self.containers,
            id,
            value: Some(container.clone()),
        };
        let answer = container.remove(id).await?;
        place.value = None;
        Ok(answer)
    }

    /// Guest pids of all processes of a container.
    pub async fn pids(&self, id: &str) -> Result<Vec<u32>> {
        let container = self.container(id)?;
        let pids = container.cgroup.pids().await;
        pids.map_err(|error| Error::internal(format!("container {id:?}"), &error))
    }

    /// The container's cgroup files.
    pub fn stats(&self, id: &str) -> Result<HashMap<String, String>> {
        Ok(self.container(id)?.cgroup.stats())
    }

    /// Freezes or thaws a container.
    pub async fn set_frozen(&self, id: &str, frozen: bool) -> Result<()> {
        let container = self.container(id)?;
        if container.init.living_pid().is_none() {
            return Err(Error::new(
                Kind::FailedPrecondition,
                format!("container {id:?} has ended"),
            ));
        }
        container
            .cgroup
            .set_frozen(frozen)
            .await
            .map_err(|error| Error::internal(format!("container {id:?}"), &error))
    }

    /// Kills everything in every container, without waiting.
    pub fn kill_all(&self) {
        for container in lock(&self.containers).values().flatten() {
            // The guest goes down: what cannot be killed goes with it.
            let _dying = container.cgroup.kill();
        }
    }
}

impl Container {
    fn answer(&self, process: &Process) -> agent::WaitResponse {
        let exit = *process.exit().borrow();
        agent::WaitResponse {
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at_ns: exit.map_or(0, |exit| exit.at_ns),
            oom_killed: self.cgroup.oom_kills() > 0,
            ..Default::default()
        }
    }

    /// Kills what is left and removes everything that the guest holds for the container.
    async fn remove(&self, id: &str) -> Result<agent::WaitResponse> {
        let failed = |error: cgroup::CgroupError| Error::internal(format!("cannot delete container {id:?}"), &error);
        self.cgroup.kill().map_err(failed)?;
        let mut exit = self.init.exit();
        let in_time = tokio::time::timeout(END_PATIENCE, ended(&mut exit)).await;
        if in_time.is_err() {
            return Err(Error::new(
                Kind::Internal,
                format!("the init of container {id:?} cannot be killed"),
            ));
        }
        let answer = self.answer(&self.init);
        self.cgroup.remove().await.map_err(failed)?;
        remove_directory(&self.directory);
        share::forget(Path::new(SHARE_MOUNT).join(id), self.shares).await;
        Ok(answer)
    }
}

/// A taken name: on drop it gets its value, or is free again if there is none.
struct Reserved<'a, T> {
    map: &'a Mutex<HashMap<String, Option<Arc<T>>>>,
    id: &'a str,
    value: Option<Arc<T>>,
}

impl<T> Drop for Reserved<'_, T> {
    fn drop(&mut self) {
        let mut map = lock(self.map);
        match self.value.take() {
            Some(value) => drop(map.insert(self.id.to_string(), Some(value))),
            None => drop(map.remove(self.id)),
        }
    }
}

/// Tells the waiting init to run its program and waits until it does.
async fn release_init(directory: &Path, id: &str, waiting: Option<OwnedFd>) -> std::io::Result<()> {
    use tokio::io::AsyncWriteExt;
    let socket = create::start_socket(directory, id);
    // By way of the directory's descriptor: a socket's path has room for 107 bytes only.
    let parent = std::fs::File::open(socket.parent().unwrap_or(directory))?;
    let short = format!("/proc/self/fd/{}/notify.sock", parent.as_raw_fd());
    let mut stream = tokio::net::UnixStream::connect(short).await?;
    stream.write_all(b"start").await?;
    stream.shutdown().await?;
    if let Some(waiting) = waiting {
        // Nothing is ever written to it now: it ends with the init's descriptors, when the program takes its place.
        let mut ended = tokio::net::unix::pipe::Receiver::from_owned_fd(waiting)?;
        let _nothing = tokio::io::AsyncReadExt::read(&mut ended, &mut [0]).await?;
    }
    Ok(())
}

/// A container in a shared pid namespace does not end with its init by itself.
fn kill_rest(cgroup: Cgroup, init: Arc<Process>) {
    tokio::spawn(async move {
        let mut exit = init.exit();
        drop(init);
        ended(&mut exit).await;
        if let Err(error) = cgroup.kill() {
            crate::kmsg::notice(&format!("rest of a container: {}", crate::error::chain(&error)));
        }
    });
}

fn remove_directory(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        crate::kmsg::notice(&format!("cannot remove {}: {error}", directory.display()));
    }
}

#[cfg(test)]
#[path = "container_test.rs"]
mod tests;
