//! From the client's OCI spec to the one that libcontainer gets: what cannot act in a guest is taken out, what the agent does
//! itself is moved aside, and where libcontainer reads an absent field differently from runc the field is filled in.

use super::cgroup::Cgroup;
use crate::error::{Error, Result};
use nix::unistd::Pid;
use oci_spec::runtime::{
    Capabilities, LinuxCapabilities, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources,
    LinuxSeccomp, Process, Spec, User,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;

/// A spec split by who acts on its parts.
pub struct Adapted {
    /// For libcontainer.
    pub spec: Spec,
    /// For the container's cgroup.
    pub resources: Option<LinuxResources>,
    /// Kernel parameters of the guest's network, which all containers share.
    pub network_sysctls: HashMap<String, String>,
}

/// Namespaces that a new container joins: those of another container's init.
pub struct Joined<'a> {
    /// That init.
    pub pid: Pid,
    /// OCI names of the namespace types.
    pub types: &'a [String],
}

/// Reads the client's spec.
pub fn parse(json: &[u8]) -> Result<Spec> {
    read_with_process("OCI spec", json, "/process/scheduler/flags")
}

/// Reads JSON with a process, whose scheduler's flags are at `flags`: for one of them oci-spec has another name than the specification.
fn read_with_process<T: DeserializeOwned>(what: &str, json: &[u8], flags: &str) -> Result<T> {
    read(what, json).or_else(|error| match with_known_flags(json, flags) {
        Some(json) => read(what, &json),
        None => Err(error),
    })
}

/// The JSON with the flags as oci-spec names them. None: it has no flags, or is none.
fn with_known_flags(json: &[u8], flags: &str) -> Option<Vec<u8>> {
    let mut value: Value = serde_json::from_slice(json).ok()?;
    for flag in value.pointer_mut(flags)?.as_array_mut()? {
        if flag == "SCHED_FLAG_RESET_ON_FORK" {
            *flag = Value::from("SCHED_RESET_ON_FORK");
        }
    }
    serde_json::to_vec(&value).ok()
}

/// Reads JSON of a client. An error names the field that is wrong. `what`: in the words of a user.
fn read<T: DeserializeOwned>(what: &str, json: &[u8]) -> Result<T> {
    let failed = |error: &dyn std::fmt::Display| Error::invalid(format!("the {what} cannot be read: {error}"));
    let mut json = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| failed(&error))?;
    json.end().map_err(|error| failed(&error))?;
    Ok(value)
}

/// Reads the OCI process object of an exec. It has the `capabilities` of its container unless it names its own.
pub fn parse_process(json: &[u8], capabilities: Option<&LinuxCapabilities>) -> Result<Process> {
    let mut process: Process = read_with_process("process description", json, "/scheduler/flags")?;
    if process.capabilities().is_none() {
        process.set_capabilities(capabilities.cloned());
    }
    adapt_process(&mut process)?;
    Ok(process)
}

/// Reads the OCI limits of an update.
pub fn parse_resources(json: &[u8]) -> Result<LinuxResources> {
    read("description of limits", json)
}

/// Splits `spec`. `cgroup` is the container's group, `joined` what it shares with another container.
pub fn adapt(mut spec: Spec, cgroup: &Cgroup, joined: Option<&Joined<'_>>) -> Result<Adapted> {
    let Some(process) = spec.process_mut() else {
        return Err(Error::invalid("the OCI spec has no process"));
    };
    if process.capabilities().is_none() {
        process.set_capabilities(Some(all_capabilities()));
    }
    if process.exec_cpu_affinity().is_some() {
        crate::kmsg::notice("execCPUAffinity is left out: it names CPUs of the host");
    }
    adapt_process(process)?;
    if spec.root().is_none() {
        return Err(Error::invalid("the OCI spec has no root"));
    }
    if let Some(hooks) = spec.hooks_mut() {
        // Only this one is looked up inside the container; the others are programs of the host.
        let start = hooks.start_container().clone().filter(|hooks| !hooks.is_empty());
        let mut kept = oci_spec::runtime::Hooks::default();
        kept.set_start_container(start.clone());
        spec.set_hooks(start.map(|_| kept));
    }
    let Some(linux) = spec.linux_mut() else {
        return Err(Error::invalid("the OCI spec has no linux section"));
    };
    linux.set_cgroups_path(Some(cgroup.name().to_owned()));
    linux.set_mount_label(None);
    linux.set_intel_rdt(None);
    if let Some(name) = linux.net_devices().iter().flat_map(|devices| devices.keys()).next() {
        return Err(Error::invalid(format!(
            "linux.netDevices: the host's network device {name:?} cannot be moved into a microVM"
        )));
    }
    linux.set_net_devices(None);
    let resources = linux.resources().clone();
    linux.set_resources(None);
    let network_sysctls = take_network_sysctls(linux.sysctl_mut());
    let namespaces = adapt_namespaces(linux.namespaces().clone().unwrap_or_default(), joined)?;
    let own_uts = namespaces
        .iter()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Uts);
    linux.set_namespaces(Some(namespaces));
    if !own_uts {
        // The host name is the pod's then, which Hello has set.
        spec.set_hostname(None).set_domainname(None);
    }
    Ok(Adapted {
        spec,
        resources,
        network_sysctls,
    })
}

/// The parts of a process that mean nothing in the guest, or the same to runc when they are absent as when they are empty; and what no
/// process can be.
fn adapt_process(process: &mut Process) -> Result<()> {
    process.set_apparmor_profile(None).set_selinux_label(None);
    process.set_exec_cpu_affinity(None);
    if process.no_new_privileges() == Some(false) {
        process.set_no_new_privileges(None);
    }
    let mut capabilities = process.capabilities().clone().unwrap_or_else(no_capabilities);
    let or_empty = |set: &Option<Capabilities>| Some(set.clone().unwrap_or_default());
    let bounding = or_empty(capabilities.bounding());
    let effective = or_empty(capabilities.effective());
    let permitted = or_empty(capabilities.permitted());
    let inheritable = or_empty(capabilities.inheritable());
    let ambient = or_empty(capabilities.ambient());
    capabilities
        .set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted);
    capabilities.set_inheritable(inheritable).set_ambient(ambient);
    process.set_capabilities(Some(capabilities));
    if process.cwd().as_os_str().is_empty() {
        process.set_cwd(PathBuf::from("/"));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::invalid("Cwd must be an absolute path"));
    }
    check_ids(process.user())
}

/// Refuses the id that nobody has: to the kernel it means "as it is" (setresuid(2)), and whoever asked for it would stay root.
fn check_ids(user: &User) -> Result<()> {
    let single = [("uid", user.uid()), ("gid", user.gid())];
    let groups = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|id| ("additionalGids", *id));
    match single.into_iter().chain(groups).find(|(_, id)| *id == u32::MAX) {
        None => Ok(()),
        Some((field, id)) => Err(Error::invalid(format!(
            "process.user.{field}: invalid argument: nobody has the id {id}"
        ))),
    }
}

/// What the process has when nobody says: what root has.
fn all_capabilities() -> LinuxCapabilities {
    let named = |capability: &caps::Capability| capability.to_string().trim_start_matches("CAP_").parse().ok();
    let all: Capabilities = caps::all().iter().filter_map(named).collect();
    let mut capabilities = no_capabilities();
    capabilities
        .set_bounding(Some(all.clone()))
        .set_effective(Some(all.clone()))
        .set_permitted(Some(all));
    capabilities
}

fn no_capabilities() -> LinuxCapabilities {
    let mut none = LinuxCapabilities::default();
    none.set_bounding(None)
        .set_effective(None)
        .set_permitted(None)
        .set_inheritable(None)
        .set_ambient(None);
    none
}

fn take_network_sysctls(sysctls: &mut Option<HashMap<String, String>>) -> HashMap<String, String> {
    let mut taken = HashMap::new();
    if let Some(all) = sysctls {
        let is_network = |key: &String| key.replace('/', ".").starts_with("net.");
        taken = all
            .iter()
            .filter(|(key, _)| is_network(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        all.retain(|key, _| !is_network(key));
    }
    taken
}

fn adapt_namespaces(wanted: Vec<LinuxNamespace>, joined: Option<&Joined<'_>>) -> Result<Vec<LinuxNamespace>> {
    let mut namespaces = Vec::new();
    for namespace in wanted {
        // The guest's network is the pod's. A path of the host means nothing here and has been replaced by `joined`.
        if namespace.typ() != LinuxNamespaceType::Network {
            namespaces.push(build_namespace(namespace.typ(), None)?);
        }
    }
    if !namespaces
        .iter()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Mount)
    {
        return Err(Error::invalid(
            "a container without a mount namespace of its own cannot run in a microVM",
        ));
    }
    if let Some(joined) = joined {
        for name in joined.types {
            let (typ, file) = match name.as_str() {
                "ipc" => (LinuxNamespaceType::Ipc, "ipc"),
                "pid" => (LinuxNamespaceType::Pid, "pid"),
                "user" => (LinuxNamespaceType::User, "user"),
                "uts" => (LinuxNamespaceType::Uts, "uts"),
                other => {
                    return Err(Error::invalid(format!(
                        "namespace {other:?} cannot be shared between containers"
                    )));
                }
            };
            namespaces.retain(|namespace| namespace.typ() != typ);
            namespaces.push(build_namespace(
                typ,
                Some(format!("/proc/{}/ns/{file}", joined.pid).into()),
            )?);
        }
    }
    Ok(namespaces)
}

fn build_namespace(typ: LinuxNamespaceType, path: Option<PathBuf>) -> Result<LinuxNamespace> {
    let builder = LinuxNamespaceBuilder::default().typ(typ);
    let builder = match path {
        Some(path) => builder.path(path),
        None => builder,
    };
    builder
        .build()
        .map_err(|error| Error::internal("cannot describe a namespace", &error))
}

/// The seccomp profile of a spec, for the processes that are started in the container later.
pub fn seccomp(spec: &Spec) -> Option<LinuxSeccomp> {
    spec.linux().as_ref().and_then(|linux| linux.seccomp().clone())
}

/// The capabilities of an adapted spec, for the same processes.
pub fn capabilities(spec: &Spec) -> Option<LinuxCapabilities> {
    spec.process()
        .as_ref()
        .and_then(|process| process.capabilities().clone())
}

/// True if the container has a pid namespace that ends with its init.
pub fn owns_pid_namespace(spec: &Spec) -> bool {
    let mut namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten();
    namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none())
}

#[cfg(test)]
#[path = "spec_test.rs"]
mod tests;
