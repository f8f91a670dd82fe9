//! How large a pod's machine is, and what its cgroup on the host allows.
//!
//! A program looks at its CPUs and memory when it starts, so the first size must be right: a known limit plus what the guest
//! itself needs, or the config's default.

use std::collections::HashMap;

use super::types::{PodResources, PodSpec};
use crate::config::{Config, host_cpus};
use crate::error::{Error, Result};

/// Annotation: vCPUs of the pod.
pub(super) const VCPUS_ANNOTATION: &str = "io.bulkhead.vcpus";
/// Annotation: memory of the pod in MiB, all included.
pub(super) const MEMORY_ANNOTATION: &str = "io.bulkhead.memory_mib";

/// The kernel's own default period of the CPU controller.
const DEFAULT_PERIOD_US: u64 = 100_000;
/// Least and most guest memory.
const MEMORY_MIB: std::ops::RangeInclusive<u64> = 64..=(1 << 20);
const MIB: u64 = 1 << 20;

/// Size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// vCPUs.
    pub(super) vcpus: u8,
    /// Guest memory, MiB.
    pub(super) memory_mib: u32,
    /// Limit of the host cgroup, bytes; `None`: the pod has no memory limit.
    pub(super) host_memory_bytes: Option<u64>,
}

impl Size {
    pub(super) fn of(spec: &PodSpec, config: &Config) -> Result<Size> {
        let vcpus = match annotation(&spec.annotations, VCPUS_ANNOTATION)? {
            Some(asked) => asked,
            None => vcpus_of(&spec.resources, config, u64::from(host_cpus())),
        };
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
            .map(|b| b.div_ceil(MIB).saturating_add(config.guest_overhead_mib.into()));
        let memory_mib = asked.or(limit).unwrap_or(config.default_memory_mib.into());
        let memory_mib = if asked.is_none() {
            memory_mib.max(*MEMORY_MIB.start())
        } else {
            memory_mib
        };
        if !MEMORY_MIB.contains(&memory_mib) {
            return Err(Error::invalid(format!(
                "pod {}: {memory_mib} MiB of memory are asked for, allowed are {} to {}",
                spec.id,
                MEMORY_MIB.start(),
                MEMORY_MIB.end()
            )));
        }
        let limited = asked.is_some() || limit.is_some();
        Ok(Size {
            vcpus: u8::try_from(vcpus).unwrap_or(u8::MAX),
            memory_mib: u32::try_from(memory_mib).unwrap_or(u32::MAX),
            host_memory_bytes: limited.then(|| (memory_mib + u64::from(config.vmm_overhead_mib)) * MIB),
        })
    }
}

/// A quota of 150 % needs two CPUs; a set of CPUs never more than it has; a limit above the host's CPUs means all of them.
fn vcpus_of(resources: &PodResources, config: &Config, host: u64) -> u64 {
    let by_quota = resources.cpu_quota_us.map(|quota| {
        quota
            .div_ceil(resources.cpu_period_us.unwrap_or(DEFAULT_PERIOD_US).max(1))
            .clamp(1, host)
    });
    let by_set = resources
        .cpuset_cpus
        .as_deref()
        .and_then(cpus_in)
        .map(|n| n.clamp(1, host));
    match (by_quota, by_set) {
        (Some(a), Some(b)) => a.min(b),
        (Some(a), None) => a,
        (None, Some(b)) => b.min(config.max_vcpus.into()),
        (None, None) => config.default_vcpus().into(),
    }
}

/// How many CPUs a list like "0-3,6" names; `None` if it is no list.
fn cpus_in(list: &str) -> Option<u64> {
    let mut total = 0u64;
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        total = total.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    (total > 0).then_some(total)
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
