//! A pod's size while it runs: it grows when its guest asks, and follows its limits when a client changes them.
//!
//! More comes before it is promised and less is promised before it goes: first the host's cgroup, the machine and its CPUs, then the
//! container's own limits in the guest; downwards the other way round.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::calls::Pod;
use super::container::Container;
use super::sizing::{MIB, Size, host_memory, vcpus_of_quota};
use super::spec_input::resources_of;
use super::types::{PodResources, Status};
use crate::cgroup::{self, Lifted, Limits};
use crate::config::{Config, host_cpus};
use crate::error::{Error, Result, blocking};
use crate::spec::{self, HostLimits};

/// How long a guest may take to use memory that was plugged, before a limit that needs it is refused.
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
    /// What the limits of the containers need, MiB: less than the machine began with, or more than it can have.
    needed_mib: u64,
    /// Limit of the host cgroup, bytes; `None`: none.
    host_memory_bytes: Option<u64>,
    /// It grows by itself.
    grows: bool,
    /// The device that memory is plugged by has been found by the guest.
    has_device: bool,
}

impl Sizes {
    pub(super) fn new(size: Size, cgroup: Option<String>, config: &Config) -> Sizes {
        Sizes {
            cgroup,
            config: config.clone(),
            most: size,
            now: Mutex::new(Now {
                vcpus: size.vcpus,
                memory_mib: size.memory_mib,
                needed_mib: size.memory_mib.into(),
                host_memory_bytes: size.host_memory_bytes,
                grows: size.grows,
                has_device: false,
            }),
        }
    }

    /// Memory of the machine, MiB, when its containers need so much: it never has less than at first.
    fn machine_for(&self, needed_mib: u64) -> u32 {
        let needed = u32::try_from(needed_mib).unwrap_or(u32::MAX);
        needed.min(self.most.max_memory_mib).max(self.most.memory_mib)
    }
}

impl Now {
    /// What the containers need, MiB, once the limit of one is `after` instead of `before`; `None`: as much as now.
    fn needed_for(&self, before: Option<u64>, after: Option<Option<u64>>) -> Option<u64> {
        if self.grows {
            return None;
        }
        let (before, after) = (before?.div_ceil(MIB), after??.div_ceil(MIB));
        Some(self.needed_mib.saturating_add(after).saturating_sub(before))
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
        let left = u64::from(self.sizes.most.max_memory_mib.saturating_sub(now.memory_mib)) * MIB;
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
            let wanted = wanted.min(self.sizes.most.max_memory_mib).max(now.memory_mib);
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

    /// Changes limits of a container. `resources`: OCI "linux.resources" as JSON; what it does not name stays.
    pub async fn update(&self, container: &str, resources: &[u8]) -> Result<()> {
        let container = self.container(container)?;
        let name = container.init.name();
        if container.init.status() == Status::Stopped {
            return Err(Error::precondition(format!("{name}: has stopped")));
        }
        let mut asked: Map<String, Value> = serde_json::from_slice(resources)
            .map_err(|e| Error::invalid(format!("{name}: the limits are no JSON object")).caused_by(e))?;
        let limits = resources_of(&Value::Object(asked.clone())).map_err(|e| e.context(name.clone()))?;
        let memory = memory_limit(&asked);
        let quota = asked.get("cpu").and_then(|cpu| cpu.get("quota")?.as_i64());
        let lifts_quota = quota.is_some_and(|quota| quota < 0);
        spec::drop_host_resources(&mut asked, &container.id, container.host_limits)?;
        let json = serde_json::to_vec(&asked).map_err(|e| Error::internal(name.clone()).caused_by(e))?;
        let mut now = self.sizes.now.lock().await;
        self.add_vcpus(&mut now, &limits, lifts_quota)
            .await
            .map_err(|e| e.context(name.clone()))?;
        let (had, needed) = (now.memory_mib, now.needed_for(container.memory_limit(), memory));
        let target = needed.map(|needed| self.sizes.machine_for(needed));
        let updated = async {
            if let Some(target) = target.filter(|target| *target > had) {
                self.raise(&mut now, target)
                    .await
                    .map_err(|e| e.context(name.clone()))?;
            }
            self.vmm
                .unless_ended(self.agent.update(container.id.as_str(), json))
                .await
        };
        let updated: Result<()> = updated.await;
        if let Err(error) = updated {
            if now.memory_mib > had {
                self.lower(&mut now, had).await;
            }
            return Err(error);
        }
        if let Some(memory) = memory {
            container.set_memory_limit(memory);
        }
        if let Some(needed) = needed {
            now.needed_mib = needed;
        }
        if let Some(target) = target.filter(|target| *target < had) {
            self.lower(&mut now, target).await;
        }
        self.limit_on_host(&container, limits, memory, lifts_quota).await?;
        // A pod whose limit on the host stays would be ended there when it grew.
        if memory == Some(None) && !now.grows && container.host_limits == HostLimits::OfThePod {
            (now.grows, now.host_memory_bytes) = (true, None);
            self.ask_to_grow(&now).await;
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
        let deadline = Instant::now() + PLUG_PATIENCE;
        loop {
            let has = self.guest_memory().await?;
            if has >= target {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::timeout(format!(
                    "the guest uses {has} MiB of {target} MiB of memory after {} s",
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

    /// What there is stays when a quota is lowered.
    async fn add_vcpus(&self, now: &mut Now, limits: &PodResources, lifts_quota: bool) -> Result<()> {
        let most = self.sizes.most.max_vcpus;
        let wanted = match limits.cpu_quota_us {
            // As when it is made: a quota above the host's CPUs means all of them.
            Some(quota) => vcpus_of_quota(quota, limits.cpu_period_us).clamp(1, host_cpus().into()),
            None if lifts_quota => self.sizes.config.default_vcpus().min(u32::from(most)).into(),
            None => return Ok(()),
        };
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
            lifted: Lifted::default(),
        };
        self.change_host_cgroup(limits).await
    }

    /// What acts on the host alone.
    async fn limit_on_host(
        &self,
        container: &Arc<Container>,
        limits: PodResources,
        memory: Option<Option<u64>>,
        lifts_quota: bool,
    ) -> Result<()> {
        if container.host_limits != HostLimits::OfThePod {
            return Ok(());
        }
        let lifted = Lifted {
            memory: memory == Some(None),
            cpu_quota: lifts_quota,
        };
        self.change_host_cgroup(Limits {
            resources: limits,
            memory_bytes: None,
            lifted,
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

/// The memory limit that an update sets: `None`: none is named; `Some(None)`: it is taken away.
fn memory_limit(asked: &Map<String, Value>) -> Option<Option<u64>> {
    match asked.get("memory")?.get("limit")?.as_i64()? {
        0 => None,
        limit => Some(u64::try_from(limit).ok()),
    }
}

#[cfg(test)]
#[path = "resize_test.rs"]
mod resize_test;
