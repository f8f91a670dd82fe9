use super::*;

fn files(pairs: &[(&str, &str)]) -> Files {
    pairs
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect()
}

#[test]
fn numbers_reach_their_fields() {
    let metrics = metrics(&files(&[
        ("memory.current", "4096\n"),
        ("memory.max", "max\n"),
        ("memory.swap.max", "8192\n"),
        ("memory.stat", "anon 100\ninactive_file 7\nfile 9\n"),
        ("memory.events", "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\n"),
        ("cpu.stat", "usage_usec 10\nuser_usec 6\nsystem_usec 4\n"),
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
        ("io.stat", "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n"),
    ]));
    assert_eq!((metrics.memory.usage, metrics.memory.usage_limit), (4096, u64::MAX));
    assert_eq!(
        (
            metrics.memory.anon,
            metrics.memory.inactive_file,
            metrics.memory.swap_limit
        ),
        (100, 7, 8192)
    );
    assert_eq!((metrics.memory_events.oom, metrics.memory_events.oom_kill), (3, 4));
    assert_eq!((metrics.cpu.usage_usec, metrics.cpu.user_usec), (10, 6));
    assert_eq!((metrics.pids.current, metrics.pids.limit), (3, u64::MAX));
    let entry = &metrics.io.usage[0];
    assert_eq!((entry.major, entry.minor, entry.rbytes, entry.wios), (8, 16, 1, 4));
    assert_eq!(any(&metrics).type_url, "io.containerd.cgroups.v2.Metrics");
}

#[test]
fn what_is_missing_or_nonsense_is_left_out() {
    let metrics = metrics(&files(&[
        ("memory.current", "-1"),
        ("cpu.stat", "usage_usec\nuser_usec x\n\u{0}"),
        ("io.stat", "nonsense\n8:x rbytes=1\n"),
        ("memory.events", ""),
    ]));
    assert!(metrics.memory.is_none());
    assert!(metrics.pids.is_none());
    assert_eq!(metrics.cpu.usage_usec, 0);
    assert!(metrics.io.usage.is_empty());
}
