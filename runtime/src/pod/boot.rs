//! How a pod comes to life, and how its machine ends.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_agent_protocol::CONTROL_PORT;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::calls::Pod;
use super::container::{Prepared, unless_given_up};
use super::disks::Plugged;
use super::machine::Ground;
use super::numbers::Numbers;
use super::process::KILLED;
use super::resize::Sizes;
use super::types::{ContainerSpec, PodEvent, PodResources, PodSpec};
use super::undo::Undo;
use super::{sysctls, watch};
use crate::agent_client::Agent;
use crate::cgroup::{self, Limits};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result, blocking};
use crate::identity::Identity;
use crate::phase;
use crate::vmm_client::Vmm;
use crate::volumes::SharedVolumes;

/// Pause between two tries to reach an agent that is not there yet.
const CONNECT_RETRY: Duration = Duration::from_millis(10);
/// How long the files of the first container are waited for when its machine has failed: a file system of the host may not answer.
const FILES_PATIENCE: Duration = Duration::from_secs(5);
/// Entropy for the guest, bytes.
const ENTROPY: usize = 64;

/// What [`Pod::boot`] gives: the pod and what happens to it.
pub(super) type Booted = (Arc<Pod>, mpsc::UnboundedReceiver<PodEvent>);

/// Boots a pod; prepares the first container, if there is one, meanwhile. On failure nothing is left.
pub(super) async fn boot(
    spec: PodSpec,
    first: Option<ContainerSpec>,
    config: &Config,
) -> Result<(Booted, Option<u32>)> {
    let mut undo = Undo::default();
    let cgroup = spec.cgroup_path.clone();
    let quota = PodResources {
        cpu_quota_us: spec.resources.cpu_quota_us,
        cpu_period_us: spec.resources.cpu_period_us,
        ..PodResources::default()
    };
    match launch(spec, first, config, &mut undo).await {
        Ok((machine, agent, prepared, parts)) => {
            let (pod, events) = assemble(machine, agent, undo, parts);
            let made = async {
                let pid = match prepared {
                    Some(prepared) => Some(pod.create_first(prepared).await?),
                    None => None,
                };
                if let Some(cgroup) = cgroup.filter(|_| quota.cpu_quota_us.is_some()) {
                    let limits = Limits {
                        resources: quota,
                        ..Limits::default()
                    };
                    blocking("limiting the pod's CPU time", move || cgroup::change(&cgroup, &limits)).await?;
                }
                Ok(pid)
            };
            match made.await {
                Ok(pid) => Ok(((pod, events), pid)),
                Err(error) => {
                    // Whatever else goes wrong now is in the log; the caller wants the first cause.
                    let _ = pod.shutdown().await;
                    Err(error)
                }
            }
        }
        Err(error) => {
            let _ = undo.run_async().await;
            Err(error)
        }
    }
}

/// What a pod keeps of its description.
pub(super) struct Parts {
    pub(super) spec: PodSpec,
    pub(super) share: std::path::PathBuf,
    pub(super) volumes: Arc<SharedVolumes>,
    pub(super) identity: Arc<Identity>,
    pub(super) sizes: Sizes,
    /// It began with a container, whose pid is the monitor's.
    pub(super) has_first: bool,
}

async fn launch(
    spec: PodSpec,
    first: Option<ContainerSpec>,
    config: &Config,
    undo: &mut Undo,
) -> Result<(Vmm, Agent, Option<Prepared>, Parts)> {
    let failed = |error: Error| error.context(format!("cannot start the microVM of pod {}", spec.id));
    let (ground, early, first) = {
        let (spec, config) = (spec.clone(), config.clone());
        let given_up = first.as_ref().map(ContainerSpec::given_up);
        let mut undo = Undo::default();
        let remote = undo.remote();
        let work = move || match Ground::prepare(&spec, first.as_ref(), &config, &mut undo) {
            Ok(ground) => Ok((ground, undo, first)),
            Err(error) => {
                let _ = undo.run();
                Err(error)
            }
        };
        let prepared = blocking("preparing the pod", work);
        unless_given_up(given_up, prepared, remote).await.map_err(failed)?
    };
    undo.append(early);
    let (share, identity) = (ground.share(), ground.identity());
    let volumes = Arc::new(SharedVolumes::new(&share));
    let sizes = Sizes::new(ground.size(), &spec, config);
    let deadline = Instant::now() + config.boot_timeout();
    let machine_failed = Notify::new();
    let machine = async {
        let machine = ground.start(&spec, config, undo).await.map_err(failed)?;
        let agent = reach_agent(&machine, &spec, config, deadline).await;
        match agent {
            Ok(agent) => Ok((machine, agent)),
            Err(error) => {
                bury(&machine).await;
                Err(failed(error))
            }
        }
    };
    let machine = async {
        let machine = machine.await;
        if machine.is_err() {
            machine_failed.notify_one();
        }
        machine
    };
    let container = async {
        match first {
            Some(first) => {
                let prepared = Prepared::on_host(first, share.clone(), volumes.clone(), identity.clone());
                let in_vain = async {
                    machine_failed.notified().await;
                    tokio::time::sleep(FILES_PATIENCE).await;
                };
                let prepared = tokio::select! {
                    prepared = prepared => Some(prepared?),
                    () = in_vain => None,
                };
                phase::over("mounts", &spec.id);
                Ok(prepared)
            }
            None => Ok(None),
        }
    };
    // Neither is given up at once when the other fails: both clean up after themselves.
    match tokio::join!(machine, container) {
        (Ok((machine, agent)), Ok(prepared)) => {
            let parts = Parts {
                spec,
                share,
                volumes,
                identity,
                sizes,
                has_first: prepared.is_some(),
            };
            Ok((machine, agent, prepared, parts))
        }
        (Ok((machine, _)), Err(error)) => {
            bury(&machine).await;
            Err(error)
        }
        (Err(error), Ok(Some(prepared))) => {
            let _ = prepared.discard().await;
            Err(error)
        }
        (Err(error), _) => Err(error),
    }
}

/// Kills a machine that nobody uses yet and waits for its end, so that its cgroup and share can be removed.
async fn bury(vmm: &Vmm) {
    vmm.kill();
    vmm.ended().await;
}

/// The agent answers some time after the kernel started; until then the guest refuses or does not answer.
async fn reach_agent(vmm: &Vmm, spec: &PodSpec, config: &Config, deadline: Instant) -> Result<Agent> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let stream = loop {
        match vmm.connect(CONTROL_PORT, left()).await {
            Ok(stream) => break stream,
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) if left().is_zero() => return Err(silent(vmm, config, &error.to_string()).await),
            Err(_) => tokio::time::sleep(CONNECT_RETRY).await,
        }
    };
    let agent = Agent::new(stream)?;
    let hostname = spec.hostname.as_deref().unwrap_or_default();
    let sysctls = sysctls::passed_on("/proc/sys".as_ref(), &config.kernel_parameters);
    let hello = agent.hello(hostname, sysctls, entropy()?, left().max(Duration::from_millis(1)));
    match vmm.unless_ended(hello).await {
        Ok((version, kernel)) => {
            phase::over("agent", &spec.id);
            tracing::info!("pod {}: agent {version} on Linux {kernel} answers", spec.id);
            Ok(agent)
        }
        Err(error) if error.kind() == ErrorKind::DeadlineExceeded => {
            Err(silent(vmm, config, "it took the connection and said nothing").await)
        }
        Err(error) => Err(error),
    }
}

/// The error of an agent that does not answer in time, with what the last attempt met and the guest's last words. Ends the machine.
async fn silent(vmm: &Vmm, config: &Config, met: &str) -> Error {
    let seconds = config.boot_timeout_s;
    let end = vmm.hang_up().await;
    Error::timeout(format!(
        "the agent in the guest did not answer within {seconds} s (boot_timeout_s; verbose_console = true in the config file shows \
         all that the guest's kernel says): {met}; {}",
        end.reason
    ))
}

fn entropy() -> Result<Vec<u8>> {
    let mut bytes = vec![0u8; ENTROPY];
    let source = std::path::Path::new("/dev/urandom");
    std::fs::File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| Error::io("cannot read", source, e))?;
    Ok(bytes)
}

pub(super) fn assemble(vmm: Vmm, agent: Agent, undo: Undo, parts: Parts) -> Booted {
    let (events, receiver) = mpsc::unbounded_channel();
    let vmm_pid = vmm.pid();
    let pod = Arc::new_cyclic(|me| Pod {
        me: me.clone(),
        id: parts.spec.id,
        share: parts.share,
        volumes: parts.volumes,
        identity: parts.identity,
        disks: Plugged::default(),
        sizes: parts.sizes,
        vmm,
        agent,
        containers: Mutex::new(BTreeMap::new()),
        numbers: Mutex::new(Numbers::new(vmm_pid)),
        first_taken: AtomicBool::new(!parts.has_first),
        next_stream: AtomicU64::new(1),
        events,
        stopping: AtomicBool::new(false),
        tasks: Mutex::new(Vec::new()),
        ground: tokio::sync::Mutex::new(Some(undo)),
    });
    watch::begin(&pod);
    (pod, receiver)
}

impl Pod {
    /// Ends every process that is known, as if killed: the machine is gone. Of each container the init comes last.
    pub(super) fn finish_all(&self) {
        for container in self.all_containers() {
            for process in container.processes().into_iter().rev() {
                if process.exec_id.is_none() || process.pid() != 0 {
                    self.finish(&process, KILLED);
                }
            }
        }
    }
}

/// Waits for a machine that was asked to end; kills it when it takes too long.
pub(super) async fn end_within(vmm: &Vmm, timeout: Duration) {
    if tokio::time::timeout(timeout, vmm.ended()).await.is_err() {
        tracing::warn!(
            "microVM {}: did not power off within {} ms, killing it",
            vmm.pid(),
            timeout.as_millis()
        );
        vmm.kill();
        vmm.ended().await;
    }
}
