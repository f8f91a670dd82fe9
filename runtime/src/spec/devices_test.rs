use serde_json::json;

use super::*;

const DISK: BlockDevice = BlockDevice { major: 8, minor: 0 };

fn spec(rules: Value) -> Value {
    let disk = json!({ "type": "b", "path": "/dev/xvda", "major": 8, "minor": 0 });
    let terminal = json!({ "type": "c", "path": "/dev/tty", "major": 8, "minor": 0 });
    json!({ "linux": { "devices": [disk, terminal], "resources": { "devices": rules } } })
}

fn rule(allow: bool, numbers: Value, access: &str) -> Value {
    json!({ "allow": allow, "type": "b", "major": numbers[0], "minor": numbers[1], "access": access })
}

#[test]
fn a_disk_is_read_only_unless_the_last_rule_for_it_lets_it_be_written() {
    for (rules, read_only) in [
        (json!([]), true),
        (json!([rule(true, json!([8, 0]), "rwm")]), false),
        (json!([rule(true, json!([8, null]), "rw")]), false),
        (json!([rule(true, json!([8, 0]), "rm")]), true),
        (json!([rule(true, json!([8, 16]), "rwm")]), true),
        (
            json!([rule(true, json!([8, 0]), "rwm"), rule(false, json!([8, 0]), "w")]),
            true,
        ),
        (
            json!([{ "allow": false, "access": "rwm" }, rule(true, json!([8, 0]), "rwm")]),
            false,
        ),
    ] {
        let wanted = wanted_disks(&spec(rules.clone()));
        let expected = WantedDisk {
            device: DISK,
            read_only,
            mounts: Vec::new(),
        };
        assert_eq!(wanted, [expected], "{rules}");
    }
}

/// The host has [`DISK`] as /dev/sda.
fn host(path: &Path) -> Option<BlockDevice> {
    (path == Path::new("/dev/sda")).then_some(DISK)
}

fn privileged(devices: Value) -> Value {
    json!({ "devices": devices, "resources": { "devices": [{ "allow": true, "access": "rwm" }] } })
}

#[test]
fn a_privileged_container_gets_none_of_the_disks_that_it_lists() {
    let disk = json!({ "type": "b", "path": "/dev/sda", "major": 8, "minor": 0 });
    assert_eq!(disks_of(&json!({ "linux": privileged(json!([disk])) }), host), []);
}

#[test]
fn a_privileged_container_gets_a_disk_by_another_name_than_the_hosts() {
    let listed = json!({ "type": "b", "path": "/dev/sda", "major": 8, "minor": 0 });
    let wanted = json!({ "type": "b", "path": "/dev/osd", "major": 8, "minor": 0 });
    let mut linux = privileged(json!([listed, wanted.clone()]));
    let disk = WantedDisk {
        device: DISK,
        read_only: false,
        mounts: Vec::new(),
    };
    assert_eq!(disks_of(&json!({ "linux": linux.clone() }), host), [disk]);
    keep(
        linux.as_object_mut().unwrap(),
        &ContainerId::try_from("c").unwrap(),
        host,
    )
    .unwrap();
    assert_eq!(linux["devices"], json!([wanted]));
}

#[test]
fn a_privileged_container_keeps_the_nodes_of_loop_devices() {
    let image = json!({ "type": "b", "path": "/dev/loop3", "major": 7, "minor": 3 });
    let disk = json!({ "type": "b", "path": "/dev/sda", "major": 8, "minor": 0 });
    let mut linux = privileged(json!([disk, image.clone()]));
    let host = |path: &Path| match path.to_str() {
        Some("/dev/loop3") => Some(BlockDevice { major: 7, minor: 3 }),
        _ => host(path),
    };
    assert_eq!(disks_of(&json!({ "linux": linux.clone() }), host), []);
    keep(
        linux.as_object_mut().unwrap(),
        &ContainerId::try_from("c").unwrap(),
        host,
    )
    .unwrap();
    assert_eq!(linux["devices"], json!([image]));
}

#[test]
fn what_is_no_mount_of_a_disk_asks_for_none() {
    let mount = |kind: &str, source: &str, options: Value| json!({ "destination": "/m", "type": kind, "source": source, "options": options });
    let mounts = json!([
        mount("tmpfs", "tmpfs", json!([])),
        mount("bind", "/dev/null", json!(["bind"])),
        mount("ext4", "/no/such/device", json!([])),
        mount("ext4", "/dev/null", json!([])),
    ]);
    assert_eq!(wanted_disks(&json!({ "mounts": mounts })), []);
}

#[test]
fn device_numbers_are_those_of_the_kernel() {
    assert_eq!(
        BlockDevice::of(nix::sys::stat::makedev(259, 70000)).to_string(),
        "259:70000"
    );
}
