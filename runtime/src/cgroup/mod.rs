//! The pod's cgroup on the host: where the spec wants it, with the pod's limits plus what the machine itself needs.
//!
//! A plain path on a cgroup v2 host is handled here, through the kernel's files. The systemd form (`slice:prefix:name`) and
//! cgroup v1 go through the cgroups-rs crate. Everything here blocks.

mod unified;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::manager::{FsManager, Manager, SystemdManager, is_systemd_cgroup};
use cgroups_rs::{CgroupPid, FreezerState};
use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder};

use crate::error::{Error, Result};
use crate::pod::PodResources;

const MOUNT: &str = "/sys/fs/cgroup";
/// How long systemd may take to make a scope.
const SCOPE_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(10);

/// What the cgroup of a pod is to allow.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    /// As the client gave them; the memory limit is replaced by `memory_bytes`.
    pub(crate) resources: PodResources,
    /// Pod's limit plus overheads, bytes; `None`: no limit.
    pub(crate) memory_bytes: Option<u64>,
    /// Limits that were there and are not to be any more.
    pub(crate) lifted: Lifted,
}

/// Limits that a change takes away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lifted {
    pub(crate) cpu_quota: bool,
    pub(crate) memory: bool,
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
    let scope = match is_systemd_cgroup(path) {
        true => Some(scope_of(pid, path)?),
        false => None,
    };
    manager.set(&oci_resources(limits, path)?).map_err(failed)?;
    // The crate knows limits of block devices where it writes the files itself, and none of these names.
    let PodResources { block_io, unified, .. } = &limits.resources;
    let by_file = PodResources {
        block_io: block_io.clone().filter(|_| scope.is_some()),
        unified: unified.clone(),
        ..PodResources::default()
    };
    if by_file == PodResources::default() {
        return Ok(());
    }
    limit_by_file(&scope.unwrap_or_default(), by_file, path)
}

/// Sets limits of a cgroup that is there, those that `limits` has.
pub(crate) fn change(path: &str, limits: &Limits) -> Result<()> {
    if let Some(group) = unified_at(path)? {
        return group.limit(limits);
    }
    let failed = |e: cgroups_rs::manager::Error| {
        Error::internal(format!("cannot change the limits of host cgroup {path}")).caused_by(e.to_string())
    };
    manager(path)?.set(&oci_resources(limits, path)?).map_err(failed)
}

/// Waits until systemd, which only takes an order, has made the scope and put the process into it. Gives the process's cgroups.
fn scope_of(pid: u32, path: &str) -> Result<String> {
    let scope = scope_name(path);
    let table = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let deadline = Instant::now() + SCOPE_TIMEOUT;
    loop {
        let cgroups = std::fs::read_to_string(&table).map_err(|e| Error::io("cannot read", &table, e))?;
        if cgroups.lines().any(|line| line.rsplit('/').next() == Some(&scope)) {
            return Ok(cgroups);
        }
        if Instant::now() >= deadline {
            return Err(Error::timeout(format!(
                "host cgroup {path}: systemd has not made {scope} within {} s (`systemctl status {scope}` says more)",
                SCOPE_TIMEOUT.as_secs()
            )));
        }
        std::thread::sleep(RETRY);
    }
}

/// As cgroups-rs makes it of `slice:prefix:name`.
fn scope_name(path: &str) -> String {
    let mut parts = path.split(':').skip(1);
    let (prefix, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match (prefix, name.ends_with(".slice")) {
        (_, true) => name.to_owned(),
        ("", false) => format!("{name}.scope"),
        (prefix, false) => format!("{prefix}-{name}.scope"),
    }
}

/// cgroups-rs gives systemd no such limits: they go into the scope's own files. `cgroups`: those of a process in it; empty: there is no
/// scope, as the host has cgroup v1.
fn limit_by_file(cgroups: &str, resources: PodResources, path: &str) -> Result<()> {
    let Some(folder) = cgroups.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Err(Error::invalid(format!(
            "host cgroup {path}: linux.resources.unified, and block I/O limits under systemd, need a host with cgroup v2 alone: leave \
             them out"
        )));
    };
    let limits = Limits {
        resources,
        ..Limits::default()
    };
    unified::limit(&Path::new(MOUNT).join(folder), &limits)
}

/// Removes the cgroup once its processes have left, which are waited for; systemd ends those that are still in its scope. One that is
/// not there is no error.
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
    if is_systemd_cgroup(path) || !has_unified() {
        return Ok(None);
    }
    unified::Group::new(Path::new(MOUNT), path).map(Some)
}

/// Whether the host has cgroup v2 alone.
fn has_unified() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// The shares whose weight is right where cgroups-rs tells systemd of it: the crate converts along a straight line.
fn straight_shares(shares: u64) -> u64 {
    2 + ((unified::weight(shares) - 1) * 262_142).div_ceil(9_999)
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
    if limits.lifted.cpu_quota {
        cpu = cpu.quota(-1);
    } else if let Some(quota) = from.cpu_quota_us {
        cpu = cpu.quota(signed(quota)).period(from.cpu_period_us.unwrap_or(100_000));
    }
    if let Some(shares) = from.cpu_shares {
        cpu = cpu.shares(if has_unified() { straight_shares(shares) } else { shares });
    }
    if let Some(cpus) = &from.cpuset_cpus {
        cpu = cpu.cpus(cpus.clone());
    }
    if let Some(mems) = &from.cpuset_mems {
        cpu = cpu.mems(mems.clone());
    }
    let mut resources = LinuxResourcesBuilder::default().cpu(cpu.build().map_err(failed)?);
    let lifted = limits.lifted.memory.then_some(-1);
    if let Some(limit) = lifted.or(limits.memory_bytes.map(signed)) {
        resources = resources.memory(LinuxMemoryBuilder::default().limit(limit).build().map_err(failed)?);
    }
    if let Some(limits) = &from.block_io {
        resources = resources.block_io(limits.clone());
    }
    resources.build().map_err(failed)
}

#[cfg(test)]
#[path = "cgroup_test.rs"]
mod cgroup_test;
