//! The pod's cgroup on the host: where the spec wants it, with the pod's limits plus what the machine itself needs.
//!
//! A plain path on a cgroup v2 host is handled here, through the kernel's files. The systemd form (`slice:prefix:name`) and
//! cgroup v1 go through the cgroups-rs crate. Everything here blocks.

mod unified;

use std::path::Path;

use cgroups_rs::manager::{FsManager, Manager, SystemdManager, is_systemd_cgroup};
use cgroups_rs::{CgroupPid, FreezerState};
use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder};

use crate::error::{Error, Result};
use crate::pod::PodResources;

const MOUNT: &str = "/sys/fs/cgroup";

/// What the cgroup of a pod is to allow.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    /// As the client gave them; the memory limit is replaced by `memory_bytes`.
    pub(crate) resources: PodResources,
    /// Pod's limit plus overheads, bytes; `None`: no limit.
    pub(crate) memory_bytes: Option<u64>,
}

/// Puts a process into the cgroup at `path`, which is made if needed, and sets the limits.
pub(crate) fn enter(path: &str, pid: u32, limits: &Limits) -> Result<()> {
    if let Some(group) = unified_at(path)? {
        return group.enter(pid, limits);
    }
    let failed = |e: cgroups_rs::manager::Error| {
        Error::internal(format!("cannot set up the host cgroup {path}")).caused_by(e.to_string())
    };
    let mut manager = manager(path)?;
    manager.add_proc(CgroupPid::from(u64::from(pid))).map_err(failed)?;
    manager.set(&oci_resources(limits, path)?).map_err(failed)
}

/// Removes the cgroup once its processes have left, which are waited for. One that is not there is no error.
pub(crate) fn remove(path: &str) -> Result<()> {
    if let Some(group) = unified_at(path)? {
        return group.remove();
    }
    let mut manager = manager(path)?;
    // A frozen process cannot be killed by cgroup v1.
    let _ = manager.freeze(FreezerState::Thawed);
    manager
        .destroy()
        .map_err(|e| Error::internal(format!("cannot remove the host cgroup {path}")).caused_by(e.to_string()))
}

/// The cgroup as a folder of cgroup v2; `None` for the ones that cgroups-rs handles.
fn unified_at(path: &str) -> Result<Option<unified::Group>> {
    if is_systemd_cgroup(path) || !Path::new(MOUNT).join("cgroup.controllers").exists() {
        return Ok(None);
    }
    unified::Group::new(Path::new(MOUNT), path).map(Some)
}

fn manager(path: &str) -> Result<Box<dyn Manager>> {
    let failed = |e: cgroups_rs::manager::Error| {
        Error::internal(format!("cannot use the host cgroup {path}")).caused_by(e.to_string())
    };
    if is_systemd_cgroup(path) {
        return Ok(Box::new(SystemdManager::new(path).map_err(failed)?));
    }
    unified::check_path(path)?;
    Ok(Box::new(FsManager::new(path.trim_start_matches('/')).map_err(failed)?))
}

fn oci_resources(limits: &Limits, path: &str) -> Result<LinuxResources> {
    let failed = |e: oci_spec::OciSpecError| Error::internal(format!("limits of the host cgroup {path}")).caused_by(e);
    let from = &limits.resources;
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(quota) = from.cpu_quota_us {
        cpu = cpu.quota(signed(quota)).period(from.cpu_period_us.unwrap_or(100_000));
    }
    if let Some(shares) = from.cpu_shares {
        cpu = cpu.shares(shares);
    }
    if let Some(cpus) = &from.cpuset_cpus {
        cpu = cpu.cpus(cpus.clone());
    }
    if let Some(mems) = &from.cpuset_mems {
        cpu = cpu.mems(mems.clone());
    }
    let mut resources = LinuxResourcesBuilder::default().cpu(cpu.build().map_err(failed)?);
    if let Some(bytes) = limits.memory_bytes {
        resources = resources.memory(
            LinuxMemoryBuilder::default()
                .limit(signed(bytes))
                .build()
                .map_err(failed)?,
        );
    }
    if let Some(limits) = &from.block_io {
        resources = resources.block_io(limits.clone());
    }
    resources.build().map_err(failed)
}

#[cfg(test)]
#[path = "cgroup_test.rs"]
mod cgroup_test;
