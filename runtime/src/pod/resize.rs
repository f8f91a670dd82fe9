//! A pod's size while it runs: it grows when its guest asks, and follows its limits when a client changes them.
//!
//! More comes before it is promised and less is promised before it goes: first the host's cgroup, the machine and its CPUs, then the
//! container's own limits in the guest; downwards the other way round.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::calls::Pod;
use super::container::Container;
use super::demand::{Demand, Quota};
use super::sizing::{MIB, Size, host_memory, vcpus_of, with_guest_overhead};
use super::spec_input::resources_of;
use super::types::{PodResources, PodSpec, Status};
use crate::cgroup::{self, Lifted, Limits};
use crate::config::Config;
use crate::cpus::host_cpus;
use crate::error::{Error, Result, blocking};
use crate::ids::ContainerId;
use crate::spec::{self, HostLimits};

/// How long a guest may take to use more of the memory that was plugged, before a limit that needs it is refused.
const PLUG_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// How long a guest that gives memory back may make no progress until that is all that it gives.
const UNPLUG_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
const LOOK: std::time::Duration = std::time::Duration::from_millis(5);
/// Unit in which a guest takes and gives memory.
const BLOCK_MIB: u32 = 2;

/// What a pod's machine has, and what it can have.
pub(super) struct Sizes {
    cgroup: Option<String>,
    pub(super) config: Config,
    pub(super) most: Size,
    now: Mutex<Now>,
}

struct Now {
    vcpus: u8,
    /// What the guest was told last that it shall have.
    memory_mib: u32,
    /// What its containers may have; those that are gone, too, until the next look.
    demands: BTreeMap<String, Demand>,
    /// Limits of the host cgroup; `None`: none.
    host_memory_bytes: Option<u64>,
    host_quota: Option<Quota>,
    /// Host CPUs that it may run on, as a list.
    cpuset: Option<String>,
    /// It grows by itself.
    grows: bool,
    /// The device that memory is plugged by has been found by the guest.
    has_device: bool,
}

impl Sizes {
    pub(super) fn new(size: Size, spec: &PodSpec, config: &Config) -> Sizes {
        Sizes {
            cgroup: spec.cgroup_path.clone(),
            config: config.clone(),
            most: size,
            now: Mutex::new(Now {
                vcpus: size.vcpus,
                memory_mib: size.memory_mib,
                demands: BTreeMap::new(),
                host_memory_bytes: size.host_memory_bytes,
                host_quota: Quota::of(&spec.resources),
                cpuset: spec.resources.cpuset_cpus.clone(),
                grows: size.grows,
                has_device: false,
            }),
        }
    }

    /// Memory of the machine, MiB, when its containers may have so much: it never has less than at first.
    fn machine_for(&self, containers_mib: u64) -> u32 {
        let needed = with_guest_overhead(containers_mib, &self.config);
        let needed = u32::try_from(needed).unwrap_or(u32::MAX);
        needed.min(self.most.max_memory_mib).max(self.most.memory_mib)
    }
}

impl Pod {
    /// Has the guest of a pod without a memory limit ask for memory when it needs some.
    pub(super) async fn let_grow(&self) {
        let now = self.sizes.now.lock().await;
        if now.grows {
            self.ask_to_grow(&now).await;
        }
    }

    async fn ask_to_grow(&self, now: &Now) {
        let left = u64::from(self.sizes.most.growth_mib.saturating_sub(now.memory_mib)) * MIB;
        let asked = self.vmm.unless_ended(self.agent.grow_memory(left)).await;
        if let Err(error) = asked
            && self.vmm.end().is_none()
        {
            tracing::warn!("pod {}: its memory will not grow: {error}", self.id);
        }
    }

    /// The guest wants more memory than it has. False: it gets none.
    pub(super) async fn grow(&self, bytes: u64) -> bool {
        let mut now = self.sizes.now.lock().await;
        if !now.grows {
            return false;
        }
        let grown = async {
            let more = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX);
            let wanted = self.guest_memory().await?.saturating_add(more);
            // What it was told and did not take yet it is told again.
            let wanted = wanted.min(self.sizes.most.growth_mib).max(now.memory_mib);
            let before = now.memory_mib;
            self.resize_memory(&mut now, wanted).await?;
            if wanted > before {
                tracing::info!("pod {}: the guest's memory grows to {wanted} MiB", self.id);
            }
            Ok(wanted > before)
        };
        let grown: Result<bool> = grown.await;
        grown.unwrap_or_else(|error| {
            tracing::warn!("pod {}: the guest's memory does not grow: {error}", self.id);
            false
        })
    }

    /// Gives the guest the devices that no start waits for, that for its growth among them.
    pub(super) async fn plug_late_devices(&self) -> Result<()> {
        self.vmm.unless_ended(self.vmm.plug_late_devices()).await?;
        self.look_for_devices().await?;
        self.sizes.now.lock().await.has_device = true;
        Ok(())
    }

    /// What the guest has, MiB.
    async fn guest_memory(&self) -> Result<u32> {
        let memory = self.vmm.unless_ended(self.vmm.memory()).await?;
        Ok(memory.boot_mib.saturating_add(memory.plugged_mib))
    }

    async fn resize_memory(&self, now: &mut Now, memory_mib: u32) -> Result<()> {
        self.vmm.unless_ended(self.vmm.resize_memory(memory_mib)).await?;
        now.memory_mib = memory_mib;
        if !now.has_device {
            self.look_for_devices().await?;
            now.has_device = true;
        }
        Ok(())
    }

    /// Gives the machine and its host cgroup what a container needs that is about to be created: all but the first came later than the
    /// pod's size, and of those with a limit alone the sums of Kubernetes tell.
    pub(super) async fn make_room_for(&self, id: &ContainerId, demand: Demand) -> Result<()> {
        let mut now = self.sizes.now.lock().await;
        now.demands.insert(id.to_string(), demand);
        let all = self.demand_of_all(&mut now);
        let cpuset = now.cpuset.clone();
        self.make_room_for_cpus(&mut now, all.cpu, cpuset.as_deref()).await?;
        self.make_room_for_memory(&mut now, all.memory_mib).await
    }

    /// Bytes that the guest's memory can become; `None`: it does not grow by itself.
    pub(super) async fn grows_to(&self) -> Option<u64> {
        let grows = self.sizes.now.lock().await.grows;
        grows.then(|| u64::from(self.sizes.most.growth_mib) * MIB)
    }

    /// Of the containers that there are or are being created. One that has ended needs nothing, and those that are gone are forgotten.
    fn demand_of_all(&self, now: &mut Now) -> Demand {
        let containers = self.map();
        now.demands.retain(|id, _| containers.contains_key(id));
        let has_ended = |id: &str| {
            let container = containers.get(id).and_then(Option::as_ref);
            container.is_some_and(|container| container.init.status() == Status::Stopped)
        };
        Demand::of_all(
            now.demands
                .iter()
                .filter(|(id, _)| !has_ended(id))
                .map(|(_, demand)| *demand),
        )
    }

    async fn make_room_for_cpus(&self, now: &mut Now, quota: Option<Quota>, cpuset: Option<&str>) -> Result<()> {
        if !self.sizes.most.fixed.vcpus {
            let wanted = vcpus_of(quota, cpuset, &self.sizes.config, host_cpus().into());
            self.add_vcpus(now, wanted).await?;
        }
        let is_more = match (quota, now.host_quota) {
            (Some(quota), Some(had)) => quota.compared(had) == Ordering::Greater,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if is_more {
            self.limit_host_cpus(now, quota).await?;
        }
        Ok(())
    }

    async fn make_room_for_memory(&self, now: &mut Now, memory_mib: Option<u64>) -> Result<()> {
        if now.grows || self.sizes.most.fixed.memory {
            return Ok(());
        }
        let Some(memory_mib) = memory_mib else {
            // Without a limit on the host first, where it would be ended when it grew.
            now.host_memory_bytes = None;
            self.limit_host_memory(now).await?;
            now.grows = true;
            self.ask_to_grow(now).await;
            return Ok(());
        };
        match self.sizes.machine_for(memory_mib) {
            target if target > now.memory_mib => self.raise(now, target).await,
            _ => Ok(()),
        }
    }

    /// Changes limits of a container. `resources`: OCI "linux.resources" as JSON; what it does not name stays.
    pub async fn update(&self, container: &str, resources: &[u8]) -> Result<()> {
        let container = self.container(container)?;
        let name = container.init.name();
        if container.init.status() == Status::Stopped {
            return Err(Error::precondition(format!("{name}: has stopped")));
        }
        let mut asked: Map<String, Value> = serde_json::from_slice(resources)
            .map_err(|e| Error::invalid(format!("{name}: the limits are no JSON object")).caused_by(e))?;
        let whole = Value::Object(asked.clone());
        let limits = resources_of(&whole).map_err(|e| e.context(name.clone()))?;
        spec::drop_host_resources(&mut asked, &container.id, container.host_limits)?;
        let json = serde_json::to_vec(&asked).map_err(|e| Error::internal(name.clone()).caused_by(e))?;
        let mut now = self.sizes.now.lock().await;
        let had = now.memory_mib;
        let id = container.id.to_string();
        let before = now.demands.get(&id).copied();
        if let Some(before) = before {
            now.demands.insert(id.clone(), before.updated(&whole));
        }
        let all = self.demand_of_all(&mut now);
        let cpuset = match (container.host_limits, &limits.cpuset_cpus) {
            (HostLimits::OfThePod, Some(cpus)) => Some(cpus.clone()),
            _ => now.cpuset.clone(),
        };
        let updated = async {
            let room = async {
                self.make_room_for_cpus(&mut now, all.cpu, cpuset.as_deref()).await?;
                self.make_room_for_memory(&mut now, all.memory_mib).await
            };
            room.await.map_err(|e| e.context(name.clone()))?;
            self.vmm
                .unless_ended(self.agent.update(container.id.as_str(), json))
                .await
        };
        let updated: Result<()> = updated.await;
        if let Err(error) = updated {
            if let Some(before) = before {
                now.demands.insert(id, before);
            }
            if now.memory_mib > had && !now.grows {
                self.lower(&mut now, had).await;
            }
            return Err(error);
        }
        self.take_what_nobody_needs(&mut now, all, had).await?;
        self.limit_on_host(&container, limits).await?;
        now.cpuset = cpuset;
        Ok(())
    }

    /// What a limit that was lowered leaves to the host. vCPUs stay.
    async fn take_what_nobody_needs(&self, now: &mut Now, all: Demand, had_mib: u32) -> Result<()> {
        let target = all.memory_mib.filter(|_| !now.grows);
        if let Some(target) = target
            .map(|mib| self.sizes.machine_for(mib))
            .filter(|mib| *mib < had_mib)
        {
            self.lower(now, target).await;
        }
        if all.cpu.is_some() && all.cpu != now.host_quota {
            self.limit_host_cpus(now, all.cpu).await?;
        }
        Ok(())
    }

    async fn raise(&self, now: &mut Now, target: u32) -> Result<()> {
        if now.host_memory_bytes.is_some() {
            // It may have kept more than it was told.
            let most = target.max(self.guest_memory().await?);
            now.host_memory_bytes = Some(host_memory(most, &self.sizes.config));
            self.limit_host_memory(now).await?;
        }
        self.resize_memory(now, target).await?;
        let (mut most, mut deadline) = (0, Instant::now());
        loop {
            let has = self.guest_memory().await?;
            if has >= target {
                return Ok(());
            }
            if has > most {
                most = has;
                deadline = Instant::now() + PLUG_PATIENCE;
            }
            if Instant::now() >= deadline {
                return Err(Error::timeout(format!(
                    "the guest uses {has} MiB of {target} MiB of memory, and for {} s no more",
                    PLUG_PATIENCE.as_secs()
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The guest gives back what it can do without.
    async fn lower(&self, now: &mut Now, target: u32) {
        let lowered = async {
            self.resize_memory(now, target).await?;
            if now.host_memory_bytes.is_none() {
                return Ok(());
            }
            // Below what the guest still has, the host would end the machine.
            let kept = self.given_back(target).await?;
            now.host_memory_bytes = Some(host_memory(kept.max(target), &self.sizes.config));
            self.limit_host_memory(now).await
        };
        let lowered: Result<()> = lowered.await;
        if let Err(error) = lowered {
            tracing::warn!("pod {}: the guest keeps its memory: {error}", self.id);
        }
    }

    /// Waits until the guest has no more than `target` MiB, as long as it goes on giving some back; gives what it has then.
    async fn given_back(&self, target: u32) -> Result<u32> {
        let end = Instant::now() + PLUG_PATIENCE;
        let (mut least, mut deadline) = (u32::MAX, end);
        loop {
            let has = self.guest_memory().await?;
            if has < least {
                least = has;
                deadline = end.min(Instant::now() + UNPLUG_PATIENCE);
            }
            if has < target.saturating_add(BLOCK_MIB) || Instant::now() >= deadline {
                return Ok(has);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn add_vcpus(&self, now: &mut Now, wanted: u64) -> Result<()> {
        let most = self.sizes.most.max_vcpus;
        if wanted > u64::from(most) {
            return Err(Error::invalid(format!(
                "a quota of {wanted} CPUs is asked for, the pod can have at most {most} (max_vcpus in the config file, and the host's CPUs)"
            )));
        }
        let wanted = u8::try_from(wanted).unwrap_or(most).min(most);
        if wanted <= now.vcpus {
            return Ok(());
        }
        self.vmm.unless_ended(self.vmm.add_vcpus(wanted)).await?;
        self.vmm.unless_ended(self.agent.use_cpus(wanted)).await?;
        now.vcpus = wanted;
        Ok(())
    }

    async fn limit_host_memory(&self, now: &Now) -> Result<()> {
        let limits = Limits {
            resources: PodResources::default(),
            memory_bytes: now.host_memory_bytes,
            lifted: Lifted {
                memory: now.host_memory_bytes.is_none(),
                cpu_quota: false,
            },
        };
        self.change_host_cgroup(limits).await
    }

    async fn limit_host_cpus(&self, now: &mut Now, quota: Option<Quota>) -> Result<()> {
        let limits = Limits {
            resources: PodResources {
                cpu_quota_us: quota.map(|quota| quota.us),
                cpu_period_us: quota.map(|quota| quota.period_us),
                ..PodResources::default()
            },
            memory_bytes: None,
            lifted: Lifted {
                memory: false,
                cpu_quota: quota.is_none(),
            },
        };
        self.change_host_cgroup(limits).await?;
        now.host_quota = quota;
        Ok(())
    }

    /// What acts on the host alone.
    async fn limit_on_host(&self, container: &Arc<Container>, limits: PodResources) -> Result<()> {
        if container.host_limits != HostLimits::OfThePod {
            return Ok(());
        }
        let resources = PodResources {
            memory_bytes: None,
            cpu_quota_us: None,
            cpu_period_us: None,
            ..limits
        };
        self.change_host_cgroup(Limits {
            resources,
            ..Limits::default()
        })
        .await
    }

    async fn change_host_cgroup(&self, limits: Limits) -> Result<()> {
        let Some(path) = self.sizes.cgroup.clone() else {
            return Ok(());
        };
        blocking("changing the pod's limits", move || cgroup::change(&path, &limits)).await
    }
}

#[cfg(test)]
#[path = "resize_test.rs"]
mod resize_test;
