use super::*;
use serde_json::json;

#[test]
fn a_disk_is_found_by_its_slot() {
    let sysfs = std::env::temp_dir().join(format!("disks-test-{}", std::process::id()));
    let device = sysfs.join("bus/pci/devices/0000:00:1a.0/virtio4/block/vdc");
    fs::create_dir_all(&device).unwrap();
    fs::write(device.join("dev"), "254:32\n").unwrap();
    let found = wait_for(&sysfs, 0x1a);
    fs::write(device.join("dev"), "nonsense\n").unwrap();
    let nonsense = numbers_of(&function(&sysfs, 0x1a));
    let missing = numbers_of(&function(&sysfs, 3));
    fs::remove_dir_all(&sysfs).unwrap();
    assert_eq!(found.unwrap(), Numbers { major: 254, minor: 32 });
    assert!(nonsense.is_err() && missing.is_err());
}

#[test]
fn nodes_and_rules_of_plugged_disks_get_the_guests_numbers_and_no_others() {
    let device = |kind: &str, minor: i64| json!({ "path": format!("/dev/{kind}{minor}"), "type": kind, "major": 7, "minor": minor });
    let rule = |minor: Option<i64>| json!({ "allow": true, "type": "b", "major": 7, "minor": minor, "access": "rw" });
    let mut spec: Spec = serde_json::from_value(json!({ "ociVersion": "1.2.0", "linux": {
        "devices": [device("b", 1), device("b", 2), device("c", 1)],
        "resources": { "devices": [rule(Some(1)), rule(Some(2)), rule(None)] },
    } }))
    .unwrap();
    let disk = (Numbers { major: 7, minor: 1 }, Numbers { major: 254, minor: 16 });
    rename(&mut spec, &[disk]);
    let linux = spec.linux().clone().unwrap();
    let devices = linux.devices().clone().unwrap();
    let numbers: Vec<_> = devices.iter().map(|device| (device.major(), device.minor())).collect();
    assert_eq!(numbers, [(254, 16), (7, 2), (7, 1)]);
    let rules = linux.resources().clone().unwrap().devices().clone().unwrap();
    let numbers: Vec<_> = rules.iter().map(|rule| (rule.major(), rule.minor())).collect();
    assert_eq!(numbers, [(Some(254), Some(16)), (Some(7), Some(2)), (Some(7), None)]);
}
