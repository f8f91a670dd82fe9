//! The client's OCI spec, turned into what holds inside the guest.
//!
//! The spec is worked on as plain JSON, so that a field which this version does not know still reaches the agent. What names the
//! host (paths, namespaces, CPUs, devices, security labels) is rewritten, dropped with a note in the log, or refused; a limit is
//! never dropped silently.

mod capabilities;
mod devices;
mod namespaces;
mod rlimits;
mod tmpfs;

use std::path::Path;

use bulkhead_agent_protocol::{MAX_MESSAGE, SHARE_MOUNT};
use serde_json::{Map, Value};

pub(crate) use devices::{BlockDevice, wanted_disks};
pub(crate) use namespaces::{SharedNamespaces, in_user_namespace, user_namespace};
pub(crate) use tmpfs::size_tmpfs;

use crate::error::{Error, Result};
use crate::ids::ContainerId;

/// Room that the rest of a message needs beside the spec.
const MESSAGE_MARGIN: usize = 64 * 1024;

/// Annotation of containerd's CRI plugin: "sandbox" or "container".
pub(crate) const CRI_CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";

/// Annotation of the same: the id of the sandbox.
pub(crate) const CRI_SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// Which container a pid that we gave out belongs to, for specs that name namespaces as /proc/PID/ns/TYPE.
pub(crate) enum PidOwner {
    /// A container of this pod.
    Container(String),
    /// The pod itself, which has no container of its own (sandbox API).
    Pod,
    /// Nobody in this pod.
    Nobody,
}

/// Whether limits that only the host can apply are those of a container's whole pod, whose cgroup there then has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostLimits {
    /// They are applied.
    OfThePod,
    /// They cannot be: the containers of a pod share one machine.
    OfTheContainer,
}

/// The containers of a pod, as far as a specification can refer to them.
pub(crate) trait Neighbours {
    /// Whose pid it is.
    fn owner_of(&self, pid: u32) -> PidOwner;

    /// A living container whose specification has the user namespace at this path of the host.
    fn with_user_namespace(&self, path: &str) -> Option<String>;
}

/// What the agent is told.
#[derive(Debug)]
pub(crate) struct GuestSpec {
    /// The spec as JSON.
    pub(crate) json: Vec<u8>,
    /// Namespaces of another container of the pod to join.
    pub(crate) shared: Option<SharedNamespaces>,
    /// The init process gets a terminal of this size; 0: not known.
    pub(crate) console_size: (u32, u32),
}

/// Reads a bundle's config.json. Blocks.
pub fn load(bundle: &Path) -> Result<Value> {
    let path = bundle.join("config.json");
    let size = std::fs::metadata(&path)
        .map_err(|e| Error::io("cannot read the bundle's spec", &path, e))?
        .len();
    if size > (MAX_MESSAGE - MESSAGE_MARGIN) as u64 {
        return Err(too_large(&format!("spec {}", path.display()), size as usize));
    }
    let bytes = std::fs::read(&path).map_err(|e| Error::io("cannot read the bundle's spec", &path, e))?;
    let spec: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::invalid(format!("the bundle's spec {} is not valid JSON", path.display())).caused_by(e))?;
    if !spec.is_object() {
        return Err(Error::invalid(format!(
            "the bundle's spec {} is no JSON object",
            path.display()
        )));
    }
    Ok(spec)
}

/// Rewrites a spec whose root and bind sources already are guest paths (see [`set_root`] and `volumes`). `limits`: who has those that only the host can apply.
pub(crate) fn for_guest(
    mut spec: Value,
    id: &ContainerId,
    neighbours: &impl Neighbours,
    limits: HostLimits,
) -> Result<GuestSpec> {
    let shared = namespaces::rewrite(&mut spec, id, neighbours)?;
    let console_size = console_size(&spec);
    let object = object_at(&mut spec, "")?;
    if let Some(process) = object.get_mut("process").and_then(Value::as_object_mut) {
        drop_labels(process, &PROCESS_LABELS, &format!("container {id}"));
        capabilities::drop_unknown(process, &format!("container {id}"));
        rlimits::fill_in(process);
    }
    keep_guest_hooks(object, id)?;
    if let Some(linux) = object.get_mut("linux").and_then(Value::as_object_mut) {
        linux.insert("cgroupsPath".into(), Value::from(format!("/{id}")));
        drop_labels(linux, &["mountLabel"], &format!("container {id}"));
        refuse_intel_rdt(linux, id)?;
        if let Some(resources) = linux.get_mut("resources").and_then(Value::as_object_mut) {
            drop_host_resources(resources, id, limits)?;
        }
        simplify_propagation(linux, id)?;
        devices::keep_meaningful(linux, id)?;
    }
    let json = serde_json::to_vec(&spec)
        .map_err(|e| Error::internal(format!("container {id}: cannot encode the spec")).caused_by(e))?;
    if json.len() > MAX_MESSAGE - MESSAGE_MARGIN {
        return Err(too_large(&format!("the spec of container {id}"), json.len()));
    }
    Ok(GuestSpec {
        json,
        shared,
        console_size,
    })
}

/// Checks and rewrites an OCI "process" for an exec. Gives the JSON and the terminal's size.
pub(crate) fn exec_for_guest(process: &[u8], what: &str) -> Result<(Vec<u8>, (u32, u32))> {
    if process.len() > MAX_MESSAGE - MESSAGE_MARGIN {
        return Err(too_large(what, process.len()));
    }
    let mut value: Value = serde_json::from_slice(process)
        .map_err(|e| Error::invalid(format!("{what}: the process is not valid JSON")).caused_by(e))?;
    let object = value
        .as_object_mut()
        .ok_or_else(|| Error::invalid(format!("{what}: the process is no JSON object")))?;
    drop_labels(object, &PROCESS_LABELS, what);
    capabilities::drop_unknown(object, what);
    rlimits::fill_in(object);
    let size = size_of(object.get("consoleSize"));
    let json = serde_json::to_vec(&value)
        .map_err(|e| Error::internal(format!("{what}: cannot encode the process")).caused_by(e))?;
    Ok((json, size))
}

/// Cache and memory bandwidth belong to the host's CPUs, of which a guest knows nothing.
fn refuse_intel_rdt(linux: &mut Map<String, Value>, id: &ContainerId) -> Result<()> {
    match linux.remove("intelRdt") {
        Some(Value::Object(asked)) if !asked.is_empty() => Err(Error::invalid(format!(
            "container {id}: linux.intelRdt cannot be applied to a container in a microVM: leave it out"
        ))),
        _ => Ok(()),
    }
}

/// Puts where the guest sees the container's root filesystem into a spec: in the container's folder of that name.
pub(crate) fn set_root(spec: &mut Value, id: &ContainerId, folder: &str) -> Result<()> {
    let object = object_at(spec, "")?;
    let root = object.entry("root").or_insert_with(|| Value::Object(Map::new()));
    let root = root
        .as_object_mut()
        .ok_or_else(|| Error::invalid(format!("container {id}: \"root\" in the spec is no object")))?;
    root.insert("path".into(), Value::from(format!("{SHARE_MOUNT}/{id}/{folder}")));
    Ok(())
}

/// A string somewhere in the spec; empty and missing are the same.
pub(crate) fn text<'a>(spec: &'a Value, pointer: &str) -> Option<&'a str> {
    spec.pointer(pointer).and_then(Value::as_str).filter(|s| !s.is_empty())
}

/// An annotation's value; empty and missing are the same.
pub(crate) fn annotation<'a>(spec: &'a Value, key: &str) -> Option<&'a str> {
    let value = spec.get("annotations")?.get(key)?.as_str();
    value.filter(|s| !s.is_empty())
}

/// Which one of options that contradict each other counts for a mount: the last. `None`: it has none of them.
pub(crate) fn last_option<'a>(mount: &'a Value, among: &[&str]) -> Option<&'a str> {
    let options = mount.get("options")?.as_array()?.iter().rev();
    options.filter_map(Value::as_str).find(|option| among.contains(option))
}

fn too_large(what: &str, bytes: usize) -> Error {
    Error::invalid(format!(
        "{what} has {bytes} bytes, the most is {}: argument list too long",
        MAX_MESSAGE - MESSAGE_MARGIN
    ))
}

fn object_at<'a>(spec: &'a mut Value, pointer: &str) -> Result<&'a mut Map<String, Value>> {
    spec.pointer_mut(pointer)
        .and_then(Value::as_object_mut)
        .ok_or_else(|| Error::invalid(format!("the spec has no object at {pointer:?}")))
}

fn console_size(spec: &Value) -> (u32, u32) {
    size_of(spec.pointer("/process/consoleSize"))
}

/// (width, height) of an OCI "box"; 0 where unknown.
fn size_of(size: Option<&Value>) -> (u32, u32) {
    let side = |name| {
        let value = size.and_then(|s| s.get(name)).and_then(Value::as_u64);
        value.and_then(|v| u32::try_from(v).ok()).unwrap_or(0)
    };
    (side("width"), side("height"))
}

/// Labels of an OCI "process".
const PROCESS_LABELS: [&str; 2] = ["apparmorProfile", "selinuxLabel"];

/// AppArmor and SELinux judge host paths and host processes; the guest's kernel has neither. `what` has the labels.
fn drop_labels(object: &mut Map<String, Value>, keys: &[&str], what: &str) {
    for key in keys {
        let Some(Value::String(label)) = object.remove(*key) else {
            continue;
        };
        if !label.is_empty() && label != "unconfined" {
            tracing::info!("{what}: {key} {label:?} is not applied: the microVM's kernel has no such policy");
        }
    }
}

/// `startContainer` runs inside the container and stays. The others run on the host (see `pod::hooks`), except
/// `createContainer`: a program of the host in the namespaces of the container, which are not on this host.
fn keep_guest_hooks(spec: &mut Map<String, Value>, id: &ContainerId) -> Result<()> {
    let Some(hooks) = spec.get_mut("hooks").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    let count = |value: Option<&Value>| value.and_then(Value::as_array).map_or(0, Vec::len);
    if count(hooks.get("createContainer")) > 0 {
        return Err(Error::invalid(format!(
            "container {id}: createContainer hooks need host programs in the container's namespaces, which a microVM cannot \
             give: remove them from the spec"
        )));
    }
    hooks.retain(|name, value| name == "startContainer" && count(Some(value)) > 0);
    if hooks.is_empty() {
        spec.remove("hooks");
    }
    Ok(())
}

/// Files of cgroup v2 that `resources` names, and what to write into them, of the controllers whose CPUs and devices are the host's.
pub(crate) fn host_files(resources: &Map<String, Value>) -> Result<Vec<(String, String)>> {
    let Some(unified) = resources.get("unified").and_then(Value::as_object) else {
        return Ok(Vec::new());
    };
    let of_host = |file: &str| HOST_CONTROLLERS.iter().any(|controller| file.starts_with(controller));
    let files = unified.iter().filter(|(file, _)| of_host(file));
    let file = |(file, value): (&String, &Value)| match value.as_str() {
        Some(value) if !file.contains('/') => Ok((file.clone(), value.to_owned())),
        _ => Err(Error::invalid(format!(
            "linux.resources.unified: {file:?} must be a file's name, without a slash, and its value a string"
        ))),
    };
    files.map(file).collect()
}

/// How the names of their files begin.
const HOST_CONTROLLERS: [&str; 2] = ["cpuset.", "io."];

/// CPU and node numbers are the host's and so are the block devices below shared files; network classes and RDMA mean nothing.
pub(crate) fn drop_host_resources(
    resources: &mut Map<String, Value>,
    id: &ContainerId,
    limits: HostLimits,
) -> Result<()> {
    let files = host_files(resources).map_err(|e| e.context(format!("container {id}")))?;
    let is_set = |value: &Value| match value {
        Value::Object(limits) => !limits.is_empty(),
        Value::String(list) => !list.is_empty(),
        _ => false,
    };
    for key in ["network", "rdma"] {
        if resources.remove(key).as_ref().is_some_and(is_set) {
            tracing::warn!("container {id}: {key} limits are not applied: the microVM has none of the host's devices");
        }
    }
    let mut hosts = vec![("blockIO", resources.remove("blockIO"))];
    if let Some(cpu) = resources.get_mut("cpu").and_then(Value::as_object_mut) {
        hosts.extend(["cpus", "mems"].map(|key| (key, cpu.remove(key))));
    }
    if let Some(unified) = resources.get_mut("unified").and_then(Value::as_object_mut) {
        hosts.extend(files.iter().map(|(file, _)| (file.as_str(), unified.remove(file))));
    }
    for (key, value) in hosts {
        if limits == HostLimits::OfTheContainer && value.as_ref().is_some_and(is_set) {
            tracing::warn!(
                "container {id}: {key} limits are not applied: the containers of a pod share one machine, whose limits are the pod's"
            );
        }
    }
    Ok(())
}

/// The agent sets it for everything below the root anyway, and knows the words for that alone.
fn simplify_propagation(linux: &mut Map<String, Value>, id: &ContainerId) -> Result<()> {
    let Some(value) = linux.get_mut("rootfsPropagation") else {
        return Ok(());
    };
    let simple = match value.as_str().unwrap_or("?") {
        "" => "private",
        "shared" | "rshared" => "shared",
        "slave" | "rslave" => "slave",
        "private" | "rprivate" => "private",
        "unbindable" | "runbindable" => "unbindable",
        _ => {
            return Err(Error::invalid(format!(
                "container {id}: linux.rootfsPropagation is {value}: it must be shared, slave, private or unbindable, or one of \
                 these with an \"r\" in front"
            )));
        }
    };
    *value = Value::from(simple);
    Ok(())
}

#[cfg(test)]
#[path = "spec_test.rs"]
mod spec_test;
