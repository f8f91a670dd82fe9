//! Device nodes in a spec: those that mean the same in every Linux reach the guest, and block devices are plugged into it; of the host's
//! other hardware it gets nothing.

use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path};

use nix::sys::stat::{major, minor};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::ids::ContainerId;
use crate::spec::last_option;

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

/// Major number of loop devices (kernel, admin-guide/devices.txt).
const LOOP: u32 = 7;

/// A block device of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockDevice {
    /// Which driver's.
    pub(crate) major: u32,
    /// Which of that driver's.
    pub(crate) minor: u32,
}

impl BlockDevice {
    /// From a node's `st_rdev`.
    pub(crate) fn of(rdev: u64) -> BlockDevice {
        // Neither has more than 32 bits in any kernel.
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        BlockDevice {
            major: number(major(rdev)),
            minor: number(minor(rdev)),
        }
    }
}

impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What a container wants of a block device.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WantedDisk {
    pub(crate) device: BlockDevice,
    /// Nothing lets the container write.
    pub(crate) read_only: bool,
    /// Which of the spec's mounts have it as their source.
    pub(crate) mounts: Vec<usize>,
}

/// The block devices that a spec names, each once: nodes, except those that a privileged container has for being privileged, and sources of
/// mounts. Looks at the host's files; blocks.
pub(crate) fn wanted_disks(spec: &Value) -> Vec<WantedDisk> {
    disks_of(spec, named_by_host)
}

fn disks_of(spec: &Value, named_by_host: impl Fn(&Path) -> Option<BlockDevice>) -> Vec<WantedDisk> {
    let mut wanted: Vec<WantedDisk> = Vec::new();
    let mut want = |device, read_only, mount: Option<usize>| match wanted.iter_mut().find(|disk| disk.device == device)
    {
        Some(disk) => {
            disk.read_only &= read_only;
            disk.mounts.extend(mount);
        }
        None => wanted.push(WantedDisk {
            device,
            read_only,
            mounts: mount.into_iter().collect(),
        }),
    };
    if let Some(linux) = spec.get("linux").and_then(Value::as_object) {
        let privileged = allows_all(linux);
        let nodes = linux.get("devices").and_then(Value::as_array).into_iter().flatten();
        for device in nodes.filter_map(|node| wanted_disk(node, privileged, &named_by_host)) {
            want(device, !may_write(linux, device), None);
        }
    }
    let mounts = spec.get("mounts").and_then(Value::as_array).into_iter().flatten();
    for (number, mount) in mounts.enumerate() {
        if let Some(device) = source_device(mount) {
            want(device, last_option(mount, &["ro", "rw"]) == Some("ro"), Some(number));
        }
    }
    wanted
}

/// The disk of the host that a node is to stand for. Clients give a privileged container all devices that the host has, by the host's own
/// names: who asked for one has given it another name, or else would have it anyway.
fn wanted_disk(
    node: &Value,
    privileged: bool,
    named_by_host: impl Fn(&Path) -> Option<BlockDevice>,
) -> Option<BlockDevice> {
    let device = block_device(node)?;
    let given_to_all = || {
        let path = node.get("path").and_then(Value::as_str).unwrap_or_default();
        named_by_host(Path::new(path)) == Some(device)
    };
    (!privileged || !given_to_all()).then_some(device)
}

/// The block device that the host has at a path. Clients look for devices in /dev alone; elsewhere nobody may answer.
fn named_by_host(path: &Path) -> Option<BlockDevice> {
    let is_inside = path.starts_with("/dev") && !path.components().any(|part| part == Component::ParentDir);
    let node = is_inside.then(|| std::fs::symlink_metadata(path).ok()).flatten()?;
    node.file_type().is_block_device().then(|| BlockDevice::of(node.rdev()))
}

fn block_device(node: &Value) -> Option<BlockDevice> {
    let number = |key| {
        node.get(key)
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
    };
    let is_block = node.get("type").and_then(Value::as_str) == Some("b");
    is_block.then_some(BlockDevice {
        major: number("major")?,
        minor: number("minor")?,
    })
}

fn has_option(mount: &Value, option: &str) -> bool {
    let options = mount.get("options").and_then(Value::as_array).into_iter().flatten();
    options.into_iter().any(|o| o.as_str() == Some(option))
}

/// The device that a mount of a real file system is made from.
fn source_device(mount: &Value) -> Option<BlockDevice> {
    let bound = mount.get("type").and_then(Value::as_str) == Some("bind");
    if bound || has_option(mount, "bind") || has_option(mount, "rbind") {
        return None;
    }
    let source = Path::new(mount.get("source")?.as_str()?);
    let node = source.is_absolute().then(|| std::fs::metadata(source).ok()).flatten()?;
    node.file_type().is_block_device().then(|| BlockDevice::of(node.rdev()))
}

/// Whether a rule of the device cgroup lets the container write to it; the last one that fits counts.
fn may_write(linux: &Map<String, Value>, device: BlockDevice) -> bool {
    let rules = linux
        .get("resources")
        .and_then(|r| r.get("devices"))
        .and_then(Value::as_array);
    let mut rules = rules.into_iter().flatten().rev();
    let fits = |rule: &&Value| {
        let number = |key, ours: u32| {
            rule.get(key)
                .and_then(Value::as_i64)
                .is_none_or(|n| n < 0 || n == i64::from(ours))
        };
        let kind = rule.get("type").and_then(Value::as_str).unwrap_or("a");
        matches!(kind, "a" | "" | "b") && number("major", device.major) && number("minor", device.minor)
    };
    let writes = |rule: &Value| {
        rule.get("access")
            .and_then(Value::as_str)
            .is_none_or(|access| access.contains('w'))
    };
    rules
        .find(fits)
        .is_some_and(|rule| rule.get("allow").and_then(Value::as_bool) == Some(true) && writes(rule))
}

/// Drops nodes of host hardware from a privileged container's list (it names all there are), but for loop devices, which are the guest's
/// there, and disks that were asked for; refuses nodes where somebody asked for just that device and cannot be given it.
pub(super) fn keep_meaningful(linux: &mut Map<String, Value>, id: &ContainerId) -> Result<()> {
    keep(linux, id, named_by_host)
}

fn keep(
    linux: &mut Map<String, Value>,
    id: &ContainerId,
    named_by_host: impl Fn(&Path) -> Option<BlockDevice>,
) -> Result<()> {
    let privileged = allows_all(linux);
    let Some(devices) = linux.get_mut("devices").and_then(Value::as_array_mut) else {
        return Ok(());
    };
    let before = devices.len();
    let mut refused = None;
    devices.retain(|device| {
        let keep = is_everywhere(device)
            || wanted_disk(device, privileged, &named_by_host).is_some()
            || block_device(device).is_some_and(|block| block.major == LOOP);
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

#[cfg(test)]
#[path = "devices_test.rs"]
mod devices_test;
