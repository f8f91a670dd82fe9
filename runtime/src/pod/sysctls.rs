//! Settings of the host's kernel that programs look at, passed on to the guest's.
//!
//! Under runc a container has the host's: what an administrator raised for a database or a file watcher holds without anyone asking.
//! Only those are passed on that do not depend on the machine's size. They travel on the kernel's command line (kernel-parameters,
//! `sysctl.*`), where the config's own parameters come later and win.

use std::path::Path;

const PASSED_ON: [&str; 9] = [
    "fs.aio-max-nr",
    "fs.inotify.max_queued_events",
    "fs.inotify.max_user_instances",
    "fs.inotify.max_user_watches",
    "fs.nr_open",
    "fs.pipe-max-size",
    "kernel.pid_max",
    "vm.max_map_count",
    "vm.overcommit_memory",
];

/// Kernel parameters that set what the files below `sys` (/proc/sys) say. One that cannot be read keeps the guest's default. Blocks.
pub(super) fn parameters(sys: &Path) -> String {
    let parameter = |name: &&str| {
        let text = std::fs::read_to_string(sys.join(name.replace('.', "/"))).ok()?;
        let value: u64 = text.trim().parse().ok()?;
        // Strict accounting goes by the host's memory and swap, of which a guest has little and none.
        let strict = *name == "vm.overcommit_memory" && value > 1;
        (!strict).then(|| format!("sysctl.{name}={value}"))
    };
    let all: Vec<String> = PASSED_ON.iter().filter_map(parameter).collect();
    all.join(" ")
}

#[cfg(test)]
#[path = "sysctls_test.rs"]
mod sysctls_test;
