//! Resource limits that a process has without anybody asking: under runc those of containerd, which this process has, too.

use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Map, Value, json};

/// All but RLIMIT_CORE: nobody would find the core files (see docs/differences.md).
const INHERITED: [(&str, Resource); 15] = [
    ("RLIMIT_AS", Resource::RLIMIT_AS),
    ("RLIMIT_CPU", Resource::RLIMIT_CPU),
    ("RLIMIT_DATA", Resource::RLIMIT_DATA),
    ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
    ("RLIMIT_LOCKS", Resource::RLIMIT_LOCKS),
    ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
    ("RLIMIT_MSGQUEUE", Resource::RLIMIT_MSGQUEUE),
    ("RLIMIT_NICE", Resource::RLIMIT_NICE),
    ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
    ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
    ("RLIMIT_RSS", Resource::RLIMIT_RSS),
    ("RLIMIT_RTPRIO", Resource::RLIMIT_RTPRIO),
    ("RLIMIT_RTTIME", Resource::RLIMIT_RTTIME),
    ("RLIMIT_SIGPENDING", Resource::RLIMIT_SIGPENDING),
    ("RLIMIT_STACK", Resource::RLIMIT_STACK),
];

/// Adds those that an OCI "process" does not name. What is no list is left to the agent to refuse.
pub(super) fn fill_in(process: &mut Map<String, Value>) {
    let limits = process.entry("rlimits").or_insert(Value::Null);
    if limits.is_null() {
        *limits = json!([]);
    }
    let Some(limits) = limits.as_array_mut() else { return };
    for (name, resource) in INHERITED {
        let named = limits
            .iter()
            .any(|limit| limit.get("type").and_then(Value::as_str) == Some(name));
        if !named && let Ok((soft, hard)) = getrlimit(resource) {
            limits.push(json!({ "type": name, "soft": soft, "hard": hard }));
        }
    }
}

#[cfg(test)]
#[path = "rlimits_test.rs"]
mod rlimits_test;
