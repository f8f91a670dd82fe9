use super::*;
use serde_json::{Value, json};

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
    let with_any = [(Some(7), None), (Some(254), Some(16))];
    assert_eq!(
        numbers,
        [&[(Some(254), Some(16)), (Some(7), Some(2))], &with_any[..]].concat()
    );
}

#[test]
fn in_a_user_namespace_nodes_of_disks_are_bound_and_no_others() {
    let device = |kind: &str, minor: i64| json!({ "path": format!("/dev/{kind}{minor}"), "type": kind, "major": 7, "minor": minor });
    let spec = |namespace: &str| -> Spec {
        serde_json::from_value(
            json!({ "ociVersion": "1.2.0", "mounts": [{ "destination": "/dev", "type": "tmpfs" }], "linux": {
            "namespaces": [{ "type": namespace }],
            "devices": [device("b", 1), device("b", 2), device("c", 1)],
        } }),
        )
        .unwrap()
    };
    let disk = Disk {
        slot: 9,
        major: 7,
        minor: 1,
        ..Default::default()
    };
    let left = |spec: &Spec| {
        let devices = spec.linux().clone().unwrap().devices().clone().unwrap();
        let paths = devices.iter().map(|device| device.path().display().to_string());
        (paths.collect::<Vec<_>>(), spec.mounts().clone().unwrap())
    };
    let mut inside = spec("user");
    bind_nodes(&mut inside, std::slice::from_ref(&disk));
    let (devices, mounts) = left(&inside);
    assert_eq!(devices, ["/dev/b2", "/dev/c1"]);
    assert_eq!(mounts.len(), 2);
    assert_eq!(mounts[1].destination(), Path::new("/dev/b1"));
    let source = PathBuf::from(bulkhead_agent_protocol::disk_path(9));
    assert_eq!(mounts[1].source().as_ref(), Some(&source));
    let mut outside = spec("pid");
    bind_nodes(&mut outside, &[disk]);
    assert_eq!(outside, spec("pid"));
}

#[test]
fn a_rule_for_any_number_is_followed_by_one_for_each_disk_that_it_means() {
    let disk = |major, minor, guest_minor| {
        (
            Numbers { major, minor },
            Numbers {
                major: 254,
                minor: guest_minor,
            },
        )
    };
    let disks = [disk(8, 0, 16), disk(8, 16, 32), disk(259, 0, 48)];
    let rules = |rule: Value| {
        let rule: LinuxDeviceCgroup = serde_json::from_value(rule).unwrap();
        let (first, behind) = renamed(rule.clone(), &disks)
            .split_first()
            .map(|(first, behind)| (first.clone(), behind.to_vec()))
            .unwrap();
        assert_eq!(first, rule);
        let kept = |new: &LinuxDeviceCgroup| {
            (new.allow(), new.access()) == (rule.allow(), rule.access()) && new.typ() == Some(LinuxDeviceType::B)
        };
        assert!(behind.iter().all(kept), "{behind:?}");
        behind
            .iter()
            .map(|rule| (rule.major().unwrap(), rule.minor().unwrap()))
            .collect::<Vec<_>>()
    };
    let all = [(254, 16), (254, 32), (254, 48)];
    assert_eq!(
        rules(json!({ "allow": true, "type": "b", "major": 8, "access": "rwm" })),
        all[..2]
    );
    assert_eq!(
        rules(json!({ "allow": true, "type": "b", "major": 8, "minor": -1 })),
        all[..2]
    );
    assert_eq!(
        rules(json!({ "allow": true, "type": "b", "minor": 0, "access": "r" })),
        [all[0], all[2]]
    );
    assert_eq!(
        rules(json!({ "allow": false, "type": "b", "access": "w" })),
        [],
        "means the guest's numbers, too"
    );
    assert_eq!(rules(json!({ "allow": false, "access": "rwm" })), []);
    assert_eq!(
        rules(json!({ "allow": true, "type": "a", "major": 8, "minor": 16 })),
        [all[1]]
    );
    assert_eq!(rules(json!({ "allow": true, "type": "c", "major": 8 })), []);
    assert_eq!(rules(json!({ "allow": true, "type": "b", "major": 9 })), []);
}
