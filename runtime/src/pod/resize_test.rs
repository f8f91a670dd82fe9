use serde_json::json;

use super::{Config, Size, Sizes, memory_limit};

#[test]
fn an_update_sets_lifts_or_leaves_the_memory_limit() {
    let limit = |value| memory_limit(json!({ "memory": { "limit": value } }).as_object().unwrap());
    assert_eq!(limit(1 << 30), Some(Some(1 << 30)));
    assert_eq!(limit(-1), Some(None));
    assert_eq!(limit(0), None);
    assert_eq!(memory_limit(json!({ "cpu": {} }).as_object().unwrap()), None);
}

#[test]
fn a_machine_follows_its_limits_and_comes_back_to_where_it_was() {
    let size = Size {
        vcpus: 1,
        max_vcpus: 1,
        memory_mib: 1024 + 64,
        max_memory_mib: 4096,
        grows: false,
        host_memory_bytes: None,
    };
    let sizes = Sizes::new(size, None, &Config::default());
    let mut now = sizes.now.try_lock().unwrap();
    let mut before = 1024;
    for (limit, machine) in [
        (512, 1088),
        (1024, 1088),
        (2048, 2112),
        (65_536, 4096),
        (2048, 2112),
        (1, 1088),
    ] {
        let needed = now.needed_for(Some(before << 20), Some(Some(limit << 20))).unwrap();
        assert_eq!(sizes.machine_for(needed), machine, "{limit} MiB");
        (now.needed_mib, before) = (needed, limit);
    }
    assert_eq!(now.needed_for(None, Some(Some(1 << 30))), None);
    assert_eq!(now.needed_for(Some(1 << 30), Some(None)), None);
}
