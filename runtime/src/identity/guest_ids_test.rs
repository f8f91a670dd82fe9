use serde_json::json;

use super::*;

fn line_of(host: u32) -> Value {
    json!({ "containerID": 0, "hostID": host, "size": 65_536 })
}

#[test]
fn without_a_user_namespace_they_are_those_of_the_process() {
    let spec = json!({ "process": { "user": { "uid": 70_000, "gid": 65_535, "additionalGids": [5, 65_536, 4_294_967_295u32] } } });
    let ids = GuestIds::of(&spec).unwrap();
    assert_eq!(ids.single, BTreeSet::from([5, 65_535, 65_536, 70_000, u32::MAX]));
    assert_eq!(ids.high_single(), BTreeSet::from([65_536, 70_000]));
    assert!(ids.high_ranges().is_empty());
    for nobody in [
        json!({}),
        json!({ "process": { "user": { "uid": "x" } } }),
        json!({ "linux": { "uidMappings": [line_of(100_000)] } }),
    ] {
        assert_eq!(GuestIds::of(&nobody).unwrap(), GuestIds::default());
    }
}

#[test]
fn behind_a_user_namespace_they_are_what_it_maps_to() {
    let line = |host: u32, size: u32| json!({ "containerID": 0, "hostID": host, "size": size });
    let spec = json!({
        "process": { "user": { "uid": 90_000 } },
        "linux": {
            "namespaces": [{ "type": "user" }],
            "uidMappings": [line(100_000, 65_536), line(300_000, 1)],
            "gidMappings": [line(150_000, 65_536), line(5, 10)],
        },
        "mounts": [{ "uidMappings": [line(400_000, 2)] }],
    });
    let ids = GuestIds::of(&spec).unwrap();
    assert!(ids.single.is_empty());
    assert_eq!(
        ids.high_ranges(),
        [100_000..=215_535, 300_000..=300_000, 400_000..=400_001]
    );
    let mut all = GuestIds::default();
    all.add_range(0, u32::MAX);
    all.add_range(u32::MAX, 5);
    assert_eq!(all.high_ranges(), [LOW..=u32::MAX - 1]);
}

#[test]
fn malformed_mappings_are_named() {
    for broken in [
        json!(5),
        json!([5]),
        json!([{ "hostID": -1, "size": 1 }]),
        json!([{ "hostID": 4_294_967_296u64, "size": 1 }]),
        json!([{ "hostID": 4_294_967_295u64, "size": 2 }]),
        json!([{ "containerID": 4_294_967_290u64, "hostID": 1, "size": 7 }]),
        json!([{ "hostID": 1, "size": 0 }]),
    ] {
        let linux = json!({ "linux": { "namespaces": [{ "type": "user" }], "gidMappings": broken } });
        for spec in [linux, json!({ "mounts": [{ "gidMappings": broken }] })] {
            let error = GuestIds::of(&spec).unwrap_err().to_string();
            assert!(error.contains("gidMappings") && error.contains("hostID"), "{error}");
        }
    }
}
