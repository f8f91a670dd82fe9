//! Namespaces in a spec: which are new, which are shared in the pod, and which cannot be had.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Neighbours, PidOwner, text};
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
    neighbours: &impl Neighbours,
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
    let mapped = spec
        .pointer("/linux/uidMappings")
        .and_then(Value::as_array)
        .is_some_and(|lines| !lines.is_empty());
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
        let owner = match pid_in(path, kind) {
            Some(pid) => neighbours.owner_of(pid),
            // What keeps it on the host cannot be joined, but the specification says what it is like.
            None if kind == "user" && mapped => neighbours
                .with_user_namespace(path)
                .map_or(PidOwner::Pod, PidOwner::Container),
            None => PidOwner::Nobody,
        };
        match owner {
            // As no container keeps the pod's, each has one like it.
            PidOwner::Pod if kind == "user" => kept.push(json!({ "type": kind })),
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

/// Whether a container has another user namespace than the guest's.
pub(crate) fn in_user_namespace(spec: &Value) -> bool {
    user_entry(spec).is_some()
}

/// The path of a container's user namespace, if it is one that exists already.
pub(crate) fn user_namespace(spec: &Value) -> Option<&str> {
    text(user_entry(spec)?, "/path")
}

fn user_entry(spec: &Value) -> Option<&Value> {
    let list = spec.pointer("/linux/namespaces")?.as_array()?;
    list.iter().find(|namespace| text(namespace, "/type") == Some("user"))
}

/// The pid in `/proc/PID/ns/KIND`.
fn pid_in(path: &str, kind: &str) -> Option<u32> {
    let (pid, name) = path.strip_prefix("/proc/")?.split_once("/ns/")?;
    (name == kind || name == "mnt" && kind == "mount").then_some(())?;
    pid.parse().ok()
}
