//! CRI's description of a sandbox, checked and turned into what a pod needs.
//!
//! It comes from the kubelet through containerd: not trusted further than its types. What would give up the microVM's boundary
//! (the host's network, pid or IPC namespace) is refused.

use std::collections::HashMap;
use std::path::PathBuf;

use bulkhead_runtime::error::{Error, ErrorKind, Result};
use bulkhead_runtime::ids::ContainerId;
use bulkhead_runtime::pod::{GuestIds, PodResources, PodSpec};
use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::messages::cri::{DNSConfig, LinuxPodSandboxConfig, NamespaceMode, PodSandboxConfig};

/// Longest host name that Linux takes, bytes.
const MAX_HOSTNAME: usize = 64;

/// A checked sandbox.
#[derive(Debug)]
pub struct Sandbox {
    /// What the pod is booted with.
    pub spec: PodSpec,
    /// For its resolv.conf.
    pub dns: DNSConfig,
}

impl Sandbox {
    /// Reads CreateSandbox's request.
    pub fn read(namespace: &str, request: CreateSandboxRequest) -> Result<Sandbox> {
        let id = ContainerId::try_from(request.sandbox_id.as_str())?;
        let config = decode(request.options.as_ref())?;
        let linux = config.linux.unwrap_or_default();
        refuse_host_namespaces(&id, &linux)?;
        let hostname = Some(config.hostname).filter(|name| !name.is_empty());
        if hostname
            .as_ref()
            .is_some_and(|name| name.len() > MAX_HOSTNAME || name.contains(char::is_control))
        {
            return Err(invalid(format!(
                "sandbox {id}: its host name is longer than {MAX_HOSTNAME} bytes or not plain text"
            )));
        }
        let mut annotations: HashMap<String, String> = config.annotations;
        annotations.extend(request.annotations);
        let spec = PodSpec {
            namespace: namespace.to_owned(),
            cgroup_path: (!linux.cgroup_parent.is_empty()).then(|| cgroup_path(&linux.cgroup_parent, &id)),
            resources: resources(&linux),
            id,
            hostname,
            network_namespace: (!request.netns_path.is_empty()).then(|| PathBuf::from(request.netns_path)),
            oom_score_adj: None,
            ids: ids(&linux),
            annotations,
        };
        Ok(Sandbox {
            spec,
            dns: config.dns_config.unwrap_or_default(),
        })
    }
}

fn decode(options: Option<&Any>) -> Result<PodSandboxConfig> {
    // Clients other than CRI may create a sandbox without one.
    let Some(any) = options.filter(|any| !any.type_url.is_empty()) else {
        return Ok(PodSandboxConfig::default());
    };
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        "runtime.v1.PodSandboxConfig" => PodSandboxConfig::parse_from_bytes(&any.value)
            .map_err(|e| invalid("the sandbox's PodSandboxConfig is malformed".to_owned()).caused_by(e)),
        other => Err(invalid(format!(
            "unknown type of sandbox options {other:?}: runtime.v1.PodSandboxConfig is expected"
        ))),
    }
}

fn refuse_host_namespaces(id: &ContainerId, linux: &LinuxPodSandboxConfig) -> Result<()> {
    let options = linux
        .security_context
        .get_or_default()
        .namespace_options
        .get_or_default();
    for (mode, setting) in [
        (options.network, "hostNetwork"),
        (options.pid, "hostPID"),
        (options.ipc, "hostIPC"),
    ] {
        if mode.enum_value() == Ok(NamespaceMode::NODE) {
            return Err(invalid(format!(
                "sandbox {id}: {setting} cannot work in a microVM, which has its own kernel: remove it from the pod, or run \
                 the pod with another RuntimeClass"
            )));
        }
    }
    Ok(())
}

/// The pod's own cgroup below the one the kubelet made for it, in the form its driver uses.
fn cgroup_path(parent: &str, id: &ContainerId) -> String {
    let slice = parent.rsplit('/').next().unwrap_or_default();
    if slice.ends_with(".slice") {
        format!("{slice}:cri-containerd:{id}")
    } else {
        format!("{}/{id}", parent.trim_end_matches('/'))
    }
}

/// User and groups of the pod's securityContext, fsGroup included, and what its user namespace stands for.
fn ids(linux: &LinuxPodSandboxConfig) -> GuestIds {
    let context = linux.security_context.get_or_default();
    let single = [&context.run_as_user, &context.run_as_group];
    let single = single.into_iter().filter_map(|id| id.as_ref()).map(|id| id.value);
    let all = single.chain(context.supplemental_groups.iter().copied());
    let mut ids = GuestIds {
        single: all.filter_map(|id| u32::try_from(id).ok()).collect(),
        ranges: Vec::new(),
    };
    let namespaces = context.namespace_options.get_or_default();
    let user = namespaces.userns_options.get_or_default();
    if user.mode.enum_value() == Ok(NamespaceMode::POD) {
        for line in user.uids.iter().chain(&user.gids) {
            ids.add_range(line.host_id, line.length);
        }
    }
    ids
}

/// The kubelet's sums over the pod's containers. The RuntimeClass's overhead is for what the machine needs besides, which is added by
/// the runtime's own sums.
fn resources(linux: &LinuxPodSandboxConfig) -> PodResources {
    let sums = linux.resources.get_or_default();
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    PodResources {
        memory_bytes: positive(sums.memory_limit_in_bytes),
        cpu_quota_us: positive(sums.cpu_quota),
        cpu_period_us: positive(sums.cpu_period),
        cpu_shares: positive(sums.cpu_shares),
        cpuset_cpus: text(&sums.cpuset_cpus),
        cpuset_mems: text(&sums.cpuset_mems),
        block_io: None,
        unified: Vec::new(),
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
#[path = "sandbox_config_test.rs"]
mod sandbox_config_test;
