//! From the limits of an OCI spec (whose terms are those of cgroup v1) to the files of cgroup v2, in the way runc does it.

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

/// One file of the group and what to write to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Name of the file in the group.
    pub file: String,
    /// What is written.
    pub value: String,
    /// Whether the kernel may refuse it (EINVAL), as it comes once more behind the limit that it has to fit to.
    pub again: bool,
}

impl Limit {
    fn new(file: &str, value: String) -> Limit {
        Limit {
            file: file.to_string(),
            value,
            again: false,
        }
    }
}

/// Quota period that the kernel takes by default, microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// Huge pages of x86-64. One whose CPU has only the first cannot use, and need not be kept from, the second.
const PAGE_SIZES: [&str; 2] = ["2MB", "1GB"];

/// The files to write for `resources`. `exists` tells whether the kernel has a file: swap and hugetlb depend on its config, and
/// swap accounting that cannot act is left out silently as runc leaves it out on a host without swap.
pub fn files(resources: &LinuxResources, exists: impl Fn(&str) -> bool) -> Result<Vec<Limit>, String> {
    let mut limits = resources.cpu().as_ref().map(cpu_files).unwrap_or_default();
    let mut set = |file: &str, value: String| limits.push(Limit::new(file, value));
    if let Some(memory) = resources.memory() {
        memory_files(memory, &exists, &mut set)?;
    }
    if let Some(pids) = resources.pids() {
        match pids.limit() {
            0 => {}
            limit => set("pids.max", bound(limit)),
        }
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let size = page.page_size();
        if !PAGE_SIZES.contains(&size.as_str()) {
            return Err(format!("invalid page size {size:?} in hugepageLimits"));
        }
        // Pages that are reserved count like those that are used, where the kernel knows the difference.
        for file in [format!("hugetlb.{size}.max"), format!("hugetlb.{size}.rsvd.max")] {
            if exists(&file) {
                set(&file, page.limit().to_string());
            }
        }
    }
    for (file, value) in resources.unified().iter().flatten() {
        // These two mean the host's CPUs and disks.
        if !file.starts_with("cpuset.") && !file.starts_with("io.") {
            set(file, value.clone());
        }
    }
    Ok(limits)
}

/// Refuses memory limits that what is in use does not fit into, if the client wants them checked: the kernel would kill until the rest fits.
/// `usage`: the group's, in bytes; without it nothing is refused.
pub fn check_usage(resources: &LinuxResources, usage: impl FnOnce() -> Option<u64>) -> Result<(), String> {
    let memory = resources.memory().as_ref();
    let Some(memory) = memory.filter(|memory| memory.check_before_update() == Some(true)) else {
        return Ok(());
    };
    let Some(usage) = usage() else { return Ok(()) };
    for (kind, limit) in [("memory+swap", memory.swap()), ("memory", memory.limit())] {
        let limit = limit.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(0);
        if (1..=usage).contains(&limit) {
            return Err(format!("rejecting {kind} limit {limit} <= usage {usage}"));
        }
    }
    Ok(())
}

fn memory_files(
    memory: &LinuxMemory,
    exists: &impl Fn(&str) -> bool,
    set: &mut impl FnMut(&str, String),
) -> Result<(), &'static str> {
    let limit = memory.limit().unwrap_or(0);
    let swap = swap_alone(memory.swap().unwrap_or(0), limit)?;
    if let Some(swap) = swap.filter(|_| exists("memory.swap.max")) {
        set("memory.swap.max", bound(swap));
    }
    if limit != 0 {
        set("memory.max", bound(limit));
    }
    if let Some(reservation) = memory.reservation().filter(|low| *low != 0) {
        set("memory.low", bound(reservation));
    }
    Ok(())
}

/// v1 counts memory and swap together, v2 swap alone; negative: without bound.
fn swap_alone(both: i64, memory: i64) -> Result<Option<i64>, &'static str> {
    match (both, memory) {
        (0, memory) => Ok((memory < 0).then_some(-1)),
        (both, _) if both < 0 => Ok(Some(-1)),
        (_, memory) if memory <= 0 => Err("unable to set swap limit without memory limit"),
        (both, memory) if both < memory => Err("memory+swap limit should be >= memory limit"),
        (both, memory) => Ok(Some(both - memory)),
    }
}

fn cpu_files(cpu: &LinuxCpu) -> Vec<Limit> {
    let mut limits = Vec::new();
    if let Some(idle) = cpu.idle() {
        limits.push(Limit::new("cpu.idle", idle.to_string()));
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        limits.push(Limit::new("cpu.weight", weight(shares).to_string()));
    }
    limits.extend(bandwidth_files(cpu));
    limits
}

/// A burst must not be more than the quota that is in force when it is written, nor the quota less than the burst: one that shrinks has to
/// go before its quota, one that grows behind it.
fn bandwidth_files(cpu: &LinuxCpu) -> Vec<Limit> {
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    let burst = cpu.burst().map(|burst| Limit::new("cpu.max.burst", burst.to_string()));
    if quota == 0 && period == 0 {
        return burst.into_iter().collect();
    }
    let quota = if quota > 0 {
        quota.to_string()
    } else {
        "max".to_string()
    };
    let period = if period == 0 { DEFAULT_PERIOD } else { period };
    let max = Limit::new("cpu.max", format!("{quota} {period}"));
    match burst {
        None => vec![max],
        Some(burst) => vec![
            Limit {
                again: true,
                ..burst.clone()
            },
            max,
            burst,
        ],
    }
}

/// v1's -1 is v2's "max".
fn bound(value: i64) -> String {
    if value < 0 {
        "max".to_string()
    } else {
        value.to_string()
    }
}

/// cpu.weight (1..=10000) for v1 shares (2..=262144): the quadratic in the logarithm that keeps 2, 1024 and 262144 at 1, 100
/// and 10000.
pub fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
        }
    }
}

#[cfg(test)]
#[path = "limits_test.rs"]
mod tests;
