//! Namespaces in a spec: which are new, which are shared in the pod, and which cannot be had.

use std::collections::BTreeSet;

use serde_json::Value;

use super::PidOwner;
use crate::error::{Error, Result};
use crate::ids::ContainerId;

/// Namespaces of another container of the pod to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedNamespaces {
    /// The container.
    pub(crate) with: String,
    /// OCI names ("ipc", "pid", "uts", "user").
    pub(crate) kinds: Vec<String>,
}

/// Without an entry of these kinds a container would share the host's, which a guest cannot.
const NEVER_THE_HOSTS: [&str; 3] = ["pid", "ipc", "uts"];

/// Removes the network namespace (the guest's own is the pod's) and turns paths to processes of this pod into names.
pub(super) fn rewrite(
    spec: &mut Value,
    id: &ContainerId,
    owner: &dyn Fn(u32) -> PidOwner,
) -> Result<Option<SharedNamespaces>> {
    let list = spec
        .pointer("/linux/namespaces")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for kind in NEVER_THE_HOSTS {
        if !list.iter().any(|n| n.get("type").and_then(Value::as_str) == Some(kind)) {
            return Err(Error::invalid(format!(
                "container {id}: the host's {kind} namespace cannot be shared with a container in a microVM: give the \
                 container its own"
            )));
        }
    }
    let mut shared: Option<SharedNamespaces> = None;
    let mut kept = Vec::new();
    let mut kinds = BTreeSet::new();
    for namespace in list {
        let kind = namespace.get("type").and_then(Value::as_str).unwrap_or_default();
        let path = namespace.get("path").and_then(Value::as_str).unwrap_or_default();
        if !kinds.insert(kind.to_owned()) {
            return Err(Error::invalid(format!(
                "container {id}: the {kind} namespace is named twice in linux.namespaces"
            )));
        }
        if kind == "network" {
            continue;
        }
        if path.is_empty() {
            kept.push(namespace);
            continue;
        }
        match pid_in(path, kind).map_or(PidOwner::Nobody, owner) {
            PidOwner::Pod => {}
            PidOwner::Container(with) => {
                let entry = shared.get_or_insert_with(|| SharedNamespaces {
                    with: with.clone(),
                    kinds: Vec::new(),
                });
                if entry.with != with {
                    return Err(Error::invalid(format!(
                        "container {id}: namespaces of two other containers ({} and {with}) cannot be joined at once",
                        entry.with
                    )));
                }
                entry.kinds.push(kind.to_owned());
            }
            PidOwner::Nobody => {
                return Err(Error::invalid(format!(
                    "container {id}: the {kind} namespace {path} is none of this pod: a container in a microVM can share \
                     namespaces only with containers of the same pod"
                )));
            }
        }
    }
    if let Some(namespaces) = spec.pointer_mut("/linux/namespaces") {
        *namespaces = Value::Array(kept);
    }
    Ok(shared)
}

/// The pid in `/proc/PID/ns/KIND`.
fn pid_in(path: &str, kind: &str) -> Option<u32> {
    let (pid, name) = path.strip_prefix("/proc/")?.split_once("/ns/")?;
    (name == kind || name == "mnt" && kind == "mount").then_some(())?;
    pid.parse().ok()
}
