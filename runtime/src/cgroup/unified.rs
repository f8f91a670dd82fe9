//! A folder of the unified hierarchy.

use std::io::ErrorKind as IoErrorKind;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxBlockIo;

use super::Limits;
use crate::error::{Error, Result};

/// Controllers that a pod's limits, and those who read its counters, use.
const CONTROLLERS: [&str; 5] = ["cpu", "memory", "cpuset", "io", "pids"];
/// How long killed processes may take to leave.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(10);

/// One cgroup.
pub(super) struct Group {
    mount: PathBuf,
    relative: PathBuf,
}

/// A cgroup's path from a spec: below the root and nowhere else.
pub(super) fn check_path(path: &str) -> Result<PathBuf> {
    let relative = Path::new(path.trim_start_matches('/'));
    let normal = relative.components().all(|c| matches!(c, Component::Normal(_)));
    if !normal || relative.as_os_str().is_empty() || path.contains('\0') {
        return Err(Error::invalid(format!(
            "cgroup path {path:?} in the spec is no path below the cgroup root"
        )));
    }
    Ok(relative.to_owned())
}

impl Group {
    pub(super) fn new(mount: &Path, path: &str) -> Result<Group> {
        Ok(Group {
            mount: mount.to_owned(),
            relative: check_path(path)?,
        })
    }

    fn path(&self) -> PathBuf {
        self.mount.join(&self.relative)
    }

    pub(super) fn enter(&self, pid: u32, limits: &Limits) -> Result<()> {
        let path = self.path();
        let mut at = self.mount.clone();
        for part in self.relative.components() {
            delegate(&at);
            at.push(part);
            match std::fs::create_dir(&at) {
                Err(e) if e.kind() != IoErrorKind::AlreadyExists => {
                    return Err(Error::io("cannot create the host cgroup", &at, e));
                }
                _ => {}
            }
        }
        limit(&path, limits)?;
        write(&path.join("cgroup.procs"), &pid.to_string())
    }

    pub(super) fn limit(&self, limits: &Limits) -> Result<()> {
        limit(&self.path(), limits)
    }

    pub(super) fn remove(&self) -> Result<()> {
        let path = self.path();
        let deadline = Instant::now() + EMPTY_TIMEOUT;
        loop {
            match std::fs::remove_dir(&path) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == IoErrorKind::NotFound => return Ok(()),
                Err(e) if Instant::now() >= deadline => {
                    return Err(Error::io("cannot remove the host cgroup", &path, e));
                }
                // Kills nobody: a client may have named a cgroup that others live in, and the vmm's end is seen to by its pidfd.
                Err(_) => std::thread::sleep(RETRY),
            }
        }
    }
}

/// Sets the limits of the cgroup at `path`.
pub(super) fn limit(path: &Path, limits: &Limits) -> Result<()> {
    let weights = if path.join(WEIGHT_OF_BFQ).exists() {
        Weights::Bfq
    } else {
        Weights::Kernel
    };
    for (file, value) in settings(limits, weights) {
        write(&path.join(file), &value)?;
    }
    for (file, value) in &limits.resources.unified {
        // The kernel takes one device at a time.
        value.lines().try_for_each(|line| write(&path.join(file), line))?;
    }
    Ok(())
}

/// Lets the children of a cgroup have what is there to have. A controller that cannot be had shows when a limit needs it.
fn delegate(path: &Path) {
    let file = path.join("cgroup.subtree_control");
    let enabled = std::fs::read_to_string(&file).unwrap_or_default();
    for controller in CONTROLLERS {
        if !enabled.split_ascii_whitespace().any(|c| c == controller) {
            let _ = std::fs::write(&file, format!("+{controller}"));
        }
    }
}

/// Who shares a block device's time among cgroups.
#[derive(Debug, Clone, Copy)]
pub(super) enum Weights {
    /// The scheduler BFQ, by cgroup v1's weights.
    Bfq,
    /// The kernel's io.cost.
    Kernel,
}

const WEIGHT_OF_BFQ: &str = "io.bfq.weight";

/// Files and what to write into them, but for those that the client names.
pub(super) fn settings(limits: &Limits, weights: Weights) -> Vec<(&'static str, String)> {
    let from = &limits.resources;
    let mut settings = Vec::new();
    if limits.lifted.memory {
        settings.push(("memory.max", "max".to_owned()));
    } else if let Some(bytes) = limits.memory_bytes {
        settings.push(("memory.max", bytes.to_string()));
    }
    if limits.lifted.cpu_quota {
        settings.push(("cpu.max", "max".to_owned()));
    } else if let Some(quota) = from.cpu_quota_us {
        settings.push(("cpu.max", format!("{quota} {}", from.cpu_period_us.unwrap_or(100_000))));
    }
    if let Some(shares) = from.cpu_shares {
        settings.push(("cpu.weight", weight(shares).to_string()));
    }
    if let Some(cpus) = &from.cpuset_cpus {
        settings.push(("cpuset.cpus", cpus.clone()));
    }
    if let Some(mems) = &from.cpuset_mems {
        settings.push(("cpuset.mems", mems.clone()));
    }
    if let Some(limits) = &from.block_io {
        settings.extend(block_io(limits, weights));
    }
    settings
}

fn block_io(limits: &LinuxBlockIo, weights: Weights) -> Vec<(&'static str, String)> {
    let weighed = |subject: String, weight: u16| match weights {
        Weights::Bfq => (WEIGHT_OF_BFQ, format!("{subject}{weight}")),
        Weights::Kernel => ("io.weight", format!("{subject}{}", io_weight(weight))),
    };
    // 0 says "no weight" in the wild.
    let weight = limits.weight().filter(|weight| *weight > 0);
    let mut settings: Vec<_> = weight
        .map(|weight| weighed(String::new(), weight))
        .into_iter()
        .collect();
    for device in limits.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight > 0) {
            settings.push(weighed(format!("{}:{} ", device.major(), device.minor()), weight));
        }
    }
    for (key, devices) in [
        ("rbps", limits.throttle_read_bps_device()),
        ("wbps", limits.throttle_write_bps_device()),
        ("riops", limits.throttle_read_iops_device()),
        ("wiops", limits.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            let rate = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            settings.push(("io.max", rate));
        }
    }
    settings
}

/// cgroup v1's weights of block devices (10 to 1000) on v2's scale (1 to 10000), as all runtimes convert them.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9_999 / 990
}

/// cgroup v1's shares (2 to 262144) on v2's scale (1 to 10000) as runc converts them since 1.3
/// (`ConvertCPUSharesToCgroupV2Value` of github.com/opencontainers/cgroups): the quadratic in the logarithm that keeps 2, 1024 and
/// 262144 at 1, 100 and 10000. A straight line would give the default of v1, 1024, less than half of v2's default.
pub(super) fn weight(shares: u64) -> u64 {
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

fn write(file: &Path, value: &str) -> Result<()> {
    std::fs::write(file, value).map_err(|e| {
        let what = format!("cannot write {value:?} to");
        let error = Error::io(&what, file, e);
        if file.exists() {
            error
        } else {
            error.context("this host's cgroups lack a controller")
        }
    })
}
