//! The kernel command line.

use thiserror::Error;

use crate::memory::layout::CMDLINE_SIZE;

/// Where the root file system is and what to start: the agent image, read in place.
const ROOT: &str = "root=/dev/pmem0 rootfstype=erofs rootflags=dax=always ro init=/init";

/// How the machine behaves: the serial port is the console; a panic resets at once through ACPI, which the monitor sees;
/// kvm-clock needs no watchdog; one serial port and no others to probe; one PCI bus; no network interface and no compressed disk that
/// nobody asked for; locks are not patched by the number of CPUs; every page that the boot has left goes back to the host, until the
/// agent is content with large pieces; RCU asks the few CPUs for their word and does not wait for it (mounting, making cgroups); no
/// 64 MiB of bounce buffers where memory lies above 4 GiB, which no device needs.
const MACHINE: &str = "console=ttyS0 panic=-1 tsc=reliable no_timer_check 8250.nr_uarts=1 pci=lastbus=0 \
                       random.trust_cpu=on nomodule dummy.numdummies=0 zram.num_devices=0 \
                       noreplace-smp page_reporting.page_reporting_order=0 rcupdate.rcu_expedited=1 swiotlb=noforce";

/// Only emergencies reach the console: every byte is an exit. A panic raises the level by itself.
const QUIET: &str = "loglevel=1";

/// Everything reaches the console.
const VERBOSE: &str = "loglevel=7 ignore_loglevel";

/// Why a command line cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CmdlineError {
    /// Longer than the kernel takes.
    #[error("kernel command line has {length} bytes, the kernel takes {max}; shorten the extra parameters")]
    TooLong {
        /// Bytes.
        length: usize,
        /// Allowed bytes.
        max: usize,
    },
    /// Not printable ASCII.
    #[error("extra kernel parameters contain a byte that is not printable ASCII")]
    Unprintable,
}

/// The whole line, without the final zero byte. `online` is how many processors the kernel starts by itself; `None`: all that it
/// finds.
pub fn build(verbose_console: bool, online: Option<u8>, extra: &str) -> Result<String, CmdlineError> {
    if extra.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
        return Err(CmdlineError::Unprintable);
    }
    let level = if verbose_console { VERBOSE } else { QUIET };
    let online = online.map(|count| format!("maxcpus={count}"));
    let parts = [MACHINE, level, ROOT, online.as_deref().unwrap_or_default(), extra];
    let line = parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    let max = CMDLINE_SIZE - 1;
    if line.len() > max {
        return Err(CmdlineError::TooLong {
            length: line.len(),
            max,
        });
    }
    Ok(line)
}

#[cfg(test)]
#[path = "cmdline_test.rs"]
mod cmdline_test;
