//! CPUs that the monitor has added are brought online.

use std::fs;
use std::io;
use std::path::Path;

/// Where the kernel shows its CPUs.
pub const SYSFS: &str = "/sys/devices/system/cpu";

/// A CPU that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot bring CPU {number} online")]
pub struct CpuError {
    number: u32,
    source: io::Error,
}

/// Brings the first `count` CPUs online, those that are not. Blocks.
pub fn bring_online(sysfs: &Path, count: u32) -> Result<(), CpuError> {
    for number in 1..count {
        let file = sysfs.join(format!("cpu{number}/online"));
        let failed = |source| CpuError { number, source };
        if fs::read_to_string(&file).map_err(failed)?.trim() != "1" {
            fs::write(&file, "1").map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "cpus_test.rs"]
mod tests;
