//! cgroup v2 files as containerd's metrics message. The guest wrote the texts: what does not parse is left out.

use std::collections::HashMap;
use std::path::Path;

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat,
};
use containerd_shim_protos::protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageFull};

use crate::own_cgroup::own_path;

/// Devices of io.stat that are reported at most.
const MAX_DEVICES: usize = 1024;

/// Every file that is read.
const FILES: [&str; 12] = [
    "cpu.stat",
    "io.stat",
    "memory.current",
    "memory.events",
    "memory.max",
    "memory.peak",
    "memory.stat",
    "memory.swap.current",
    "memory.swap.max",
    "memory.swap.peak",
    "pids.current",
    "pids.max",
];

type Files = HashMap<String, String>;

/// Counters of the cgroup that the vmm is in on the host, which is the whole pod's. Blocks.
pub fn host_files(vmm: u32) -> Files {
    let text = std::fs::read_to_string(format!("/proc/{vmm}/cgroup")).unwrap_or_default();
    let Some(folder) = own_path(&text).map(|path| Path::new("/sys/fs/cgroup").join(path)) else {
        return Files::new();
    };
    let read = |name: &&str| Some(((*name).to_owned(), std::fs::read_to_string(folder.join(name)).ok()?));
    FILES.iter().filter_map(read).collect()
}

/// The metrics as containerd's clients expect them in an Any.
pub fn any(metrics: &Metrics) -> Any {
    Any {
        type_url: Metrics::descriptor().full_name().to_owned(),
        // Only an unset required field could fail, and proto3 has none.
        value: metrics.write_to_bytes().unwrap_or_default(),
        ..Default::default()
    }
}

/// Reads the files by name ("memory.current", "cpu.stat", ...); missing ones leave their part out.
pub fn metrics(files: &Files) -> Metrics {
    Metrics {
        pids: MessageField::from_option(pids(files)),
        cpu: MessageField::from_option(cpu(files)),
        memory: MessageField::from_option(memory(files)),
        memory_events: MessageField::from_option(memory_events(files)),
        io: MessageField::from_option(io(files)),
        ..Default::default()
    }
}

/// One number, or "max", for which containerd's own shim writes the largest number.
fn number(files: &Files, name: &str) -> Option<u64> {
    match files.get(name)?.trim() {
        "max" => Some(u64::MAX),
        text => text.parse().ok(),
    }
}

/// A file of lines "key number".
fn table<'a>(files: &'a Files, name: &str) -> Option<HashMap<&'a str, u64>> {
    let lines = files.get(name)?.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    });
    Some(lines.collect())
}

fn pids(files: &Files) -> Option<PidsStat> {
    let current = number(files, "pids.current")?;
    Some(PidsStat {
        current,
        limit: number(files, "pids.max").unwrap_or_default(),
        ..Default::default()
    })
}

fn cpu(files: &Files) -> Option<CPUStat> {
    let table = table(files, "cpu.stat")?;
    let get = |key| table.get(key).copied().unwrap_or_default();
    Some(CPUStat {
        usage_usec: get("usage_usec"),
        user_usec: get("user_usec"),
        system_usec: get("system_usec"),
        nr_periods: get("nr_periods"),
        nr_throttled: get("nr_throttled"),
        throttled_usec: get("throttled_usec"),
        nr_bursts: get("nr_bursts"),
        burst_usec: get("burst_usec"),
        ..Default::default()
    })
}

fn memory(files: &Files) -> Option<MemoryStat> {
    let usage = number(files, "memory.current")?;
    let table = table(files, "memory.stat").unwrap_or_default();
    let get = |key| table.get(key).copied().unwrap_or_default();
    let own = |name| number(files, name).unwrap_or_default();
    Some(MemoryStat {
        usage,
        usage_limit: own("memory.max"),
        swap_usage: own("memory.swap.current"),
        swap_limit: own("memory.swap.max"),
        max_usage: own("memory.peak"),
        swap_max_usage: own("memory.swap.peak"),
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        pgrefill: get("pgrefill"),
        pgscan: get("pgscan"),
        pgsteal: get("pgsteal"),
        pgactivate: get("pgactivate"),
        pgdeactivate: get("pgdeactivate"),
        pglazyfree: get("pglazyfree"),
        pglazyfreed: get("pglazyfreed"),
        thp_fault_alloc: get("thp_fault_alloc"),
        thp_collapse_alloc: get("thp_collapse_alloc"),
        ..Default::default()
    })
}

fn memory_events(files: &Files) -> Option<MemoryEvents> {
    let table = table(files, "memory.events")?;
    let get = |key| table.get(key).copied().unwrap_or_default();
    Some(MemoryEvents {
        low: get("low"),
        high: get("high"),
        max: get("max"),
        oom: get("oom"),
        oom_kill: get("oom_kill"),
        oom_group_kill: get("oom_group_kill"),
        ..Default::default()
    })
}

fn io(files: &Files) -> Option<IOStat> {
    let usage = files
        .get("io.stat")?
        .lines()
        .filter_map(io_entry)
        .take(MAX_DEVICES)
        .collect();
    Some(IOStat {
        usage,
        ..Default::default()
    })
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...`
fn io_entry(line: &str) -> Option<IOEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let mut entry = IOEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        ..Default::default()
    };
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let value = value.parse().unwrap_or_default();
        match key {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    Some(entry)
}

#[cfg(test)]
#[path = "stats_test.rs"]
mod stats_test;
