//! How large a pod's machine is, and what its cgroup on the host allows.
//!
//! A program looks at its CPUs and memory when it starts, so the first size must be right: a known limit plus what the guest
//! itself needs, or the config's default, from which it grows.

use std::collections::HashMap;
use std::path::Path;

use super::demand::Quota;
use super::types::PodSpec;
use crate::config::Config;
use crate::cpus::{cpus_in, host_cpus};
use crate::error::{Error, Result};
use crate::identity;

/// Annotation: vCPUs of the pod.
pub(super) const VCPUS_ANNOTATION: &str = "io.bulkhead.vcpus";
/// Annotation: memory of the pod in MiB, all included.
pub(super) const MEMORY_ANNOTATION: &str = "io.bulkhead.memory_mib";

/// What the names of all of them begin with.
const OWN_ANNOTATIONS: &str = "io.bulkhead.";

/// Least and most guest memory.
const MEMORY_MIB: std::ops::RangeInclusive<u64> = 64..=(1 << 20);
pub(super) const MIB: u64 = 1 << 20;

/// Size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// vCPUs.
    pub(super) vcpus: u8,
    /// Most vCPUs that it can have later.
    pub(super) max_vcpus: u8,
    /// Guest memory, MiB.
    pub(super) memory_mib: u32,
    /// Most memory that it can have later, MiB.
    pub(super) max_memory_mib: u32,
    /// It grows by itself, because nobody has limited it.
    pub(super) grows: bool,
    /// Most memory that it grows to by itself, MiB.
    pub(super) growth_mib: u32,
    /// The pod's annotations say how many vCPUs, or how much memory, whatever its containers may have.
    pub(super) fixed: Fixed,
    /// Limit of the host cgroup, bytes; `None`: the pod has no memory limit.
    pub(super) host_memory_bytes: Option<u64>,
}

/// What annotations have decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fixed {
    pub(super) vcpus: bool,
    pub(super) memory: bool,
}

impl Size {
    pub(super) fn of(spec: &PodSpec, config: &Config, host: &Host) -> Result<Size> {
        refuse_unknown(&spec.annotations)?;
        let asked_vcpus = annotation(&spec.annotations, VCPUS_ANNOTATION)?;
        let resources = &spec.resources;
        let vcpus_of_limits = || {
            let cpuset = resources.cpuset_cpus.as_deref();
            vcpus_of(Quota::of(resources), cpuset, config, host.cpus)
        };
        let vcpus = asked_vcpus.unwrap_or_else(vcpus_of_limits);
        if vcpus < 1 || vcpus > u64::from(config.max_vcpus) {
            return Err(Error::invalid(format!(
                "pod {}: {vcpus} vCPUs are asked for, allowed are 1 to {} (max_vcpus in the config file)",
                spec.id, config.max_vcpus
            )));
        }
        let asked = annotation(&spec.annotations, MEMORY_ANNOTATION)?;
        let limit = spec
            .resources
            .memory_bytes
            .map(|bytes| with_guest_overhead(bytes.div_ceil(MIB), config));
        let (least, most) = (*MEMORY_MIB.start(), host.memory_mib.min(*MEMORY_MIB.end()));
        let memory_mib = match (asked, limit) {
            // A limit that the host cannot keep is none, as for a process of the host.
            (None, Some(limit)) => limit.min(most).max(least),
            (asked, _) => asked.unwrap_or(config.default_memory_mib.into()),
        };
        if memory_mib < least || memory_mib > most {
            return Err(Error::invalid(format!(
                "pod {}: {memory_mib} MiB of memory are asked for, allowed are {least} to {most}, which this host has ({})",
                spec.id,
                if asked.is_some() {
                    MEMORY_ANNOTATION
                } else {
                    "default_memory_mib in the config file"
                },
            )));
        }
        let limited = asked.is_some() || limit.is_some();
        let growth_mib = config.max_memory_mib.map_or(most, u64::from).min(most);
        let mib = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let cpus = |n: u64| u8::try_from(n).unwrap_or(u8::MAX);
        Ok(Size {
            vcpus: cpus(vcpus),
            max_vcpus: cpus(host.cpus.min(config.max_vcpus.into()).max(vcpus)),
            memory_mib: mib(memory_mib),
            max_memory_mib: mib(if limited { most } else { growth_mib }.max(memory_mib)),
            grows: !limited,
            growth_mib: mib(growth_mib.max(memory_mib)),
            fixed: Fixed {
                vcpus: asked_vcpus.is_some(),
                memory: asked.is_some(),
            },
            host_memory_bytes: limited.then(|| host_memory(mib(memory_mib), config)),
        })
    }
}

/// What a machine needs for `limit_mib` to be there for its containers: the kernel describes each page of 4096 bytes in 64 of its own.
pub(super) fn with_guest_overhead(limit_mib: u64, config: &Config) -> u64 {
    limit_mib
        .saturating_add(limit_mib / 64)
        .saturating_add(config.guest_overhead_mib.into())
}

/// What the host cgroup of a machine of that size allows, bytes: with the tables by which the host and KVM find each page, of 8 bytes
/// each.
pub(super) fn host_memory(memory_mib: u32, config: &Config) -> u64 {
    let memory_mib = u64::from(memory_mib);
    (memory_mib + memory_mib / 256 + u64::from(config.vmm_overhead_mib)) * MIB
}

/// A quota of 150 % needs two CPUs; a set of CPUs never more than it has; a limit above the host's CPUs means all of them.
pub(super) fn vcpus_of(quota: Option<Quota>, cpuset: Option<&str>, config: &Config, host: u64) -> u64 {
    let by_quota = quota.map(|quota| quota.cpus().clamp(1, host));
    let by_set = cpuset.and_then(cpus_in).map(|n| n.clamp(1, host));
    match (by_quota, by_set) {
        (Some(a), Some(b)) => a.min(b),
        (Some(a), None) => a,
        (None, Some(b)) => b.min(config.max_vcpus.into()),
        (None, None) => config.default_vcpus().into(),
    }
}

/// What the pods of a host can have at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host {
    cpus: u64,
    memory_mib: u64,
}

impl Host {
    /// This one. Blocks.
    pub(super) fn find() -> Result<Host> {
        let path = Path::new("/proc/meminfo");
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("cannot read", path, e))?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        let kib = kib.ok_or_else(|| Error::internal(format!("{} has no MemTotal", path.display())))?;
        Ok(Host {
            cpus: host_cpus().into(),
            memory_mib: kib >> 10,
        })
    }
}

/// A mistyped name would be no option at all.
fn refuse_unknown(annotations: &HashMap<String, String>) -> Result<()> {
    let known = [VCPUS_ANNOTATION, MEMORY_ANNOTATION, identity::ANNOTATION];
    let mut unknown = annotations
        .keys()
        .filter(|key| key.starts_with(OWN_ANNOTATIONS) && !known.contains(&key.as_str()));
    match unknown.next() {
        Some(key) => Err(Error::invalid(format!(
            "annotation {key:?} is unknown; there are {}",
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

fn annotation(annotations: &HashMap<String, String>, key: &str) -> Result<Option<u64>> {
    let Some(value) = annotations.get(key) else {
        return Ok(None);
    };
    let number = value.trim().parse().map_err(|_| {
        Error::invalid(format!(
            "annotation {key}: {:?} is no whole number",
            value.chars().take(40).collect::<String>()
        ))
    })?;
    Ok(Some(number))
}

#[cfg(test)]
#[path = "sizing_test.rs"]
mod sizing_test;
