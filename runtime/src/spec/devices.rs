//! Device nodes in a spec: those that mean the same in every Linux reach the guest, the host's own hardware does not.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::ids::ContainerId;

/// (type, major, minor) of nodes that every kernel has: mem devices, terminals, FUSE, tun, loop-control.
const EVERYWHERE: [(&str, u64, u64); 12] = [
    ("c", 1, 3),
    ("c", 1, 5),
    ("c", 1, 7),
    ("c", 1, 8),
    ("c", 1, 9),
    ("c", 1, 11),
    ("c", 5, 0),
    ("c", 5, 1),
    ("c", 5, 2),
    ("c", 10, 200),
    ("c", 10, 229),
    ("c", 10, 237),
];

/// Drops nodes of host hardware from a privileged container's list (it names all there are); refuses them where somebody asked
/// for just that device.
pub(super) fn keep_meaningful(linux: &mut Map<String, Value>, id: &ContainerId) -> Result<()> {
    let privileged = allows_all(linux);
    let Some(devices) = linux.get_mut("devices").and_then(Value::as_array_mut) else {
        return Ok(());
    };
    let before = devices.len();
    let mut refused = None;
    devices.retain(|device| {
        let keep = is_everywhere(device);
        if !keep && refused.is_none() {
            refused = Some(describe(device));
        }
        keep
    });
    match refused {
        Some(device) if !privileged => Err(Error::invalid(format!(
            "container {id}: device {device} belongs to the host and cannot be given to a microVM: remove it from the container"
        ))),
        Some(_) => {
            let dropped = before - devices.len();
            tracing::info!("container {id}: {dropped} of the host's devices are not given to the privileged container");
            Ok(())
        }
        None => Ok(()),
    }
}

/// The device cgroup lets everything through, as it does for privileged containers.
fn allows_all(linux: &Map<String, Value>) -> bool {
    let rules = linux
        .get("resources")
        .and_then(|r| r.get("devices"))
        .and_then(Value::as_array);
    rules.is_some_and(|rules| {
        rules.iter().any(|rule| {
            let unset = |key: &str| rule.get(key).and_then(Value::as_i64).is_none_or(|n| n < 0);
            let kind = rule.get("type").and_then(Value::as_str).unwrap_or("a");
            rule.get("allow").and_then(Value::as_bool) == Some(true)
                && matches!(kind, "a" | "")
                && unset("major")
                && unset("minor")
        })
    })
}

fn is_everywhere(device: &Value) -> bool {
    let kind = device.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind == "p" {
        return true; // a fifo is no device
    }
    let number = |key| device.get(key).and_then(Value::as_u64);
    let (Some(major), Some(minor)) = (number("major"), number("minor")) else {
        return false;
    };
    let kind = if kind == "u" { "c" } else { kind };
    EVERYWHERE.contains(&(kind, major, minor))
}

fn describe(device: &Value) -> String {
    let path = device.get("path").and_then(Value::as_str).unwrap_or("without a path");
    let number = |key| {
        device
            .get(key)
            .and_then(Value::as_i64)
            .map_or("?".to_owned(), |n| n.to_string())
    };
    format!("{path} ({}:{})", number("major"), number("minor"))
}
