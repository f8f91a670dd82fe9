//! The host's CPUs, and lists of them.

use std::path::Path;

/// Which CPUs are online (Linux, ABI/testing/sysfs-devices-system-cpu).
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// CPUs that are there for pods; at least 1. What this process may use of them does not count: containerd's service can be held to few.
pub(crate) fn host_cpus() -> u32 {
    online(Path::new(ONLINE))
        .or_else(|| std::thread::available_parallelism().ok().map(|n| n.get() as u64))
        .map_or(1, |n| u32::try_from(n).unwrap_or(u32::MAX))
}

fn online(file: &Path) -> Option<u64> {
    cpus_in(std::fs::read_to_string(file).ok()?.trim())
}

/// How many CPUs a list like "0-3,6" names; `None` if it is no list.
pub(crate) fn cpus_in(list: &str) -> Option<u64> {
    let mut total = 0u64;
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        total = total.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    (total > 0).then_some(total)
}

#[cfg(test)]
#[path = "cpus_test.rs"]
mod cpus_test;
