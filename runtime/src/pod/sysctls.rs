//! Settings of the host's kernel that programs look at, passed on to the guest's.
//!
//! Under runc a container has the host's: what an administrator raised for a database or a file watcher holds without anyone asking.
//! Only those are passed on that do not bound the machine's memory, and not those that the config's kernel parameters set
//! (kernel-parameters, `sysctl.*`). The agent sets them: the kernel takes longer, because it mounts and unmounts /proc for them.

use std::collections::HashMap;
use std::path::Path;

const PASSED_ON: [&str; 14] = [
    "fs.aio-max-nr",
    "fs.inotify.max_queued_events",
    "fs.inotify.max_user_instances",
    "fs.inotify.max_user_watches",
    "fs.nr_open",
    "fs.pipe-max-size",
    "fs.protected_fifos",
    "fs.protected_hardlinks",
    "fs.protected_regular",
    "fs.protected_symlinks",
    "kernel.pid_max",
    "kernel.threads-max",
    "vm.max_map_count",
    "vm.overcommit_memory",
];

/// What the files below `sys` (/proc/sys) say, by name, unless `parameters` of the kernel say it. One that cannot be read keeps the
/// guest's default.
pub(super) fn passed_on(sys: &Path, parameters: &str) -> HashMap<String, String> {
    let is_set = |name: &str| {
        parameters.split_ascii_whitespace().any(|parameter| {
            let key = parameter.split('=').next().unwrap_or_default().replace('/', ".");
            key.strip_prefix("sysctl.") == Some(name)
        })
    };
    let value = |name: &str| {
        let text = std::fs::read_to_string(sys.join(name.replace('.', "/"))).ok()?;
        let value: u64 = text.trim().parse().ok()?;
        // Strict accounting goes by the host's memory and swap, of which a guest has little and none.
        let strict = name == "vm.overcommit_memory" && value > 1;
        (!strict).then(|| (name.to_owned(), value.to_string()))
    };
    let wanted = PASSED_ON.into_iter().filter(|name| !is_set(name));
    wanted.filter_map(value).collect()
}

#[cfg(test)]
#[path = "sysctls_test.rs"]
mod sysctls_test;
