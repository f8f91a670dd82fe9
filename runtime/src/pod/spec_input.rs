//! What a pod needs to know, read from the spec of its first container or sandbox.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::Value;

use super::types::{PodResources, PodSpec};
use crate::error::{Error, Result};
use crate::identity::GuestIds;
use crate::ids::{ContainerId, validate_namespace};
use crate::spec::{CRI_CONTAINER_TYPE, host_files, text};

impl PodSpec {
    /// Reads what a pod needs from the spec of its first container or sandbox.
    pub fn from_spec(namespace: &str, id: ContainerId, spec: &Value) -> Result<PodSpec> {
        validate_namespace(namespace)?;
        let annotations = annotations(spec);
        let sandbox = annotations.get(CRI_CONTAINER_TYPE).is_some_and(|t| t == "sandbox");
        let resources = if sandbox {
            sandbox_resources(&annotations)
        } else {
            container_resources(spec).map_err(|e| e.context(format!("pod {id}")))?
        };
        let oom_score_adj = spec
            .pointer("/process/oomScoreAdj")
            .and_then(Value::as_i64)
            .and_then(|n| i32::try_from(n).ok());
        Ok(PodSpec {
            namespace: namespace.to_owned(),
            hostname: text(spec, "/hostname").map(str::to_owned),
            network_namespace: network_namespace(spec, &id)?,
            cgroup_path: text(spec, "/linux/cgroupsPath").map(str::to_owned),
            resources,
            oom_score_adj: oom_score_adj.filter(|_| !sandbox),
            ids: GuestIds::of(spec)?,
            annotations,
            id,
        })
    }
}

fn annotations(spec: &Value) -> HashMap<String, String> {
    let Some(map) = spec.get("annotations").and_then(Value::as_object) else {
        return HashMap::new();
    };
    map.iter()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn network_namespace(spec: &Value, id: &ContainerId) -> Result<Option<PathBuf>> {
    let list = spec.pointer("/linux/namespaces").and_then(Value::as_array);
    let network = list.and_then(|l| {
        l.iter()
            .find(|n| n.get("type").and_then(Value::as_str) == Some("network"))
    });
    match network {
        None => Err(Error::invalid(format!(
            "pod {id}: the host's network cannot be used from a microVM: give the pod its own network (no hostNetwork, no \
             --network host, no --net-host)"
        ))),
        Some(namespace) => Ok(text(namespace, "/path").map(PathBuf::from)),
    }
}

fn container_resources(spec: &Value) -> Result<PodResources> {
    let none = Value::Null;
    resources_of(spec.pointer("/linux/resources").unwrap_or(&none))
}

/// A limit in an OCI "linux.resources". `None`: there is none, which 0 and -1 both say in the wild.
pub(super) fn limit_at(resources: &Value, pointer: &str) -> Option<u64> {
    let limit = resources.pointer(pointer)?.as_i64()?;
    u64::try_from(limit).ok().filter(|limit| *limit > 0)
}

/// From an OCI "linux.resources".
pub(super) fn resources_of(resources: &Value) -> Result<PodResources> {
    let positive = |pointer| limit_at(resources, pointer);
    let block_io = resources.pointer("/blockIO").filter(|limits| !limits.is_null());
    let block_io = block_io
        .map(|limits| serde_json::from_value(limits.clone()))
        .transpose()
        .map_err(|e| Error::invalid("linux.resources.blockIO is malformed").caused_by(e))?;
    // Written last, as runc does it, these win over the fields that mean the same.
    let (mut cpuset_cpus, mut cpuset_mems) = (None, None);
    let mut unified = resources.as_object().map(host_files).transpose()?.unwrap_or_default();
    unified.retain(|(file, value)| match file.as_str() {
        "cpuset.cpus" => {
            cpuset_cpus = Some(value.clone());
            false
        }
        "cpuset.mems" => {
            cpuset_mems = Some(value.clone());
            false
        }
        _ => true,
    });
    let list = |field| text(resources, field).map(str::to_owned);
    Ok(PodResources {
        memory_bytes: positive("/memory/limit"),
        cpu_quota_us: positive("/cpu/quota"),
        cpu_period_us: positive("/cpu/period"),
        cpu_shares: positive("/cpu/shares"),
        cpuset_cpus: cpuset_cpus.or_else(|| list("/cpu/cpus")),
        cpuset_mems: cpuset_mems.or_else(|| list("/cpu/mems")),
        block_io,
        unified,
    })
}

/// The sandbox's own limits are those of its pause process; the kubelet's sums for the pod come as annotations.
fn sandbox_resources(annotations: &HashMap<String, String>) -> PodResources {
    let positive = |key: &str| {
        let value = annotations.get(&format!("io.kubernetes.cri.sandbox-{key}"))?;
        u64::from_str(value).ok().filter(|n| *n > 0)
    };
    PodResources {
        memory_bytes: positive("memory"),
        cpu_quota_us: positive("cpu-quota"),
        cpu_period_us: positive("cpu-period"),
        cpu_shares: positive("cpu-shares"),
        cpuset_cpus: None,
        cpuset_mems: None,
        block_io: None,
        unified: Vec::new(),
    }
}

#[cfg(test)]
#[path = "spec_input_test.rs"]
mod spec_input_test;
