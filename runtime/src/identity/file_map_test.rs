use serde_json::json;

use super::*;

fn extent(inside: u32, outside: u32, count: u32) -> IdExtent {
    IdExtent { inside, outside, count }
}

#[test]
fn maps_are_joined_piece_by_piece() {
    let pod = [
        extent(0, 1_000_000, 65_536),
        extent(70_000, 1_065_536, 1),
        extent(100_000, 2_000_000, 65_536),
    ];
    assert_eq!(
        joined(&[extent(0, 100_000, 65_536)], &pod),
        [extent(0, 2_000_000, 65_536)]
    );
    // Over the borders of what the pod has.
    assert_eq!(
        joined(&[extent(5, 65_530, 10_000), extent(0, 100_010, 3)], &pod),
        [
            extent(5, 1_065_530, 6),
            extent(4475, 1_065_536, 1),
            extent(0, 2_000_010, 3)
        ]
    );
    assert_eq!(joined(&[extent(0, 80_000, 5)], &pod), []);
    assert_eq!(joined(&[extent(3, 7, 4)], &[IdExtent::ALL]), [extent(3, 7, 4)]);
}

#[test]
fn options_of_mounts_are_read() {
    let shift = Shift::of_options(Some("0:100000:65536"), Some("0:200000:10,10:5:1"))
        .unwrap()
        .unwrap();
    assert_eq!(shift.users, [extent(0, 100_000, 65_536)]);
    assert_eq!(shift.groups, [extent(0, 200_000, 10), extent(10, 5, 1)]);
    assert_eq!(Shift::of_options(None, None).unwrap(), None);
    for (users, groups, says) in [
        (Some("0:1"), Some("0:1:1"), "\"uidmap=0:1\""),
        (Some("0:1:1"), Some("0:-1:1"), "gidmap="),
        (Some("0:1:1:1"), Some("0:1:1"), "INSIDE:OUTSIDE:COUNT"),
        (Some("0:1:4294967296"), Some("0:1:1"), "uidmap="),
        (Some("5:4294967295:2"), Some("0:1:1"), "uidmap="),
        (Some("0:1:1"), Some("0:1:0"), "gidmap="),
        (Some("0:1:1"), None, "together"),
    ] {
        let error = Shift::of_options(users, groups).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn mappings_of_a_mount_are_read() {
    let line = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    let shift = Shift::of(&json!({ "uidMappings": line, "gidMappings": line }))
        .unwrap()
        .unwrap();
    assert_eq!(shift.groups, [extent(0, 100_000, 65_536)]);
    assert_eq!(Shift::of(&json!({ "uidMappings": [] })).unwrap(), None);
    assert!(Shift::of(&json!({ "uidMappings": line })).is_err());
    let error = Shift::of(&json!({ "uidMappings": [{ "size": "x" }] }))
        .unwrap_err()
        .to_string();
    assert!(error.contains("uidMappings"), "{error}");
}
