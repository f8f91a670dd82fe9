//! Which pod a container belongs to, from its bundle's annotations and containerd's record of its sandbox.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bulkhead_runtime::ids::ContainerId;
use serde::Deserialize;
use serde_json::Value;

/// Names the pod of a container that is not a CRI implementation's.
const OWN_GROUP: &str = "io.containerd.bulkhead.v2.group";

/// Annotations that name the pod, by the CRI implementations.
const GROUPS: [&str; 2] = ["io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"];

/// Annotations that say whether the container is the sandbox itself.
const KINDS: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];

/// Largest config.json that is read, bytes.
const MAX_SPEC: u64 = 16 << 20;

/// Most of a sandbox's name that is read, bytes; none is that long.
const MAX_NAME: u64 = 1024;

/// A container's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Membership {
    /// It is the first container of a new pod, or the sandbox API will make the pod.
    Founds {
        /// The pod, which has the container's id.
        pod: ContainerId,
    },
    /// It belongs to a pod that has another id.
    Joins {
        /// The pod.
        pod: ContainerId,
        /// The pod must be there already, because its sandbox is a container (or object) of its own.
        required: bool,
    },
}

impl Membership {
    /// The pod, new or not.
    pub fn pod_id(&self) -> &ContainerId {
        match self {
            Membership::Founds { pod } | Membership::Joins { pod, .. } => pod,
        }
    }
}

#[derive(Deserialize)]
struct Annotated {
    annotations: Option<HashMap<String, String>>,
}

/// Reads the annotations of the bundle's spec; where they say nothing, what containerd wrote of the container's sandbox.
pub fn read_membership(bundle: &Path, id: &ContainerId) -> Result<Membership> {
    let spec = read_annotated(bundle)?;
    completed(spec, bundle, id)
}

/// The same with the bundle's spec, which was read already.
pub fn membership_by(spec: &Value, bundle: &Path, id: &ContainerId) -> Result<Membership> {
    let spec = Annotated::deserialize(spec).context("the bundle's config.json is not an OCI spec")?;
    completed(Some(spec), bundle, id)
}

fn completed(spec: Option<Annotated>, bundle: &Path, id: &ContainerId) -> Result<Membership> {
    let membership = membership(spec.and_then(|s| s.annotations).unwrap_or_default(), id)?;
    match sandbox_of(bundle) {
        Some(pod) if pod != *id && matches!(membership, Membership::Founds { .. }) => {
            Ok(Membership::Joins { pod, required: true })
        }
        _ => Ok(membership),
    }
}

/// A sandbox of the sandbox API has no spec: it founds the pod.
fn read_annotated(bundle: &Path) -> Result<Option<Annotated>> {
    let path = bundle.join("config.json");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("cannot open {}", path.display())),
    };
    let mut text = Vec::new();
    file.take(MAX_SPEC + 1)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if text.len() as u64 > MAX_SPEC {
        bail!("{} is larger than {} MiB", path.display(), MAX_SPEC >> 20);
    }
    // The sandbox API writes an empty file, or null, where there is no spec.
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&text).with_context(|| format!("{} is not an OCI spec", path.display()))
}

/// Whether the bundle is a container's. A sandbox of the sandbox API has no spec, an empty one, or null.
pub fn has_spec(bundle: &Path) -> bool {
    std::fs::metadata(bundle.join("config.json")).is_ok_and(|metadata| metadata.len() > "null\n".len() as u64)
}

/// containerd 2 names the sandbox that a client created the container in, in a file of the bundle.
fn sandbox_of(bundle: &Path) -> Option<ContainerId> {
    let mut name = String::new();
    let file = File::open(bundle.join("sandbox")).ok()?;
    file.take(MAX_NAME).read_to_string(&mut name).ok()?;
    ContainerId::try_from(name.trim()).ok()
}

fn membership(annotations: HashMap<String, String>, id: &ContainerId) -> Result<Membership> {
    let kind = KINDS.iter().find_map(|key| annotations.get(*key));
    // Who may annotate a Kubernetes pod must not choose another one for it.
    let own = [OWN_GROUP].into_iter().filter(|_| kind.is_none());
    let Some((key, group)) = own
        .chain(GROUPS)
        .find_map(|key| annotations.get(key).map(|group| (key, group)))
    else {
        return Ok(Membership::Founds { pod: id.clone() });
    };
    let pod = ContainerId::try_from(group.as_str()).with_context(|| format!("annotation {key}"))?;
    if pod == *id {
        return Ok(Membership::Founds { pod });
    }
    Ok(Membership::Joins {
        pod,
        required: kind.is_some_and(|kind| kind == "container"),
    })
}

#[cfg(test)]
#[path = "grouping_test.rs"]
mod grouping_test;
