use std::path::Path;

use super::unified::{Group, Weights, check_path, settings, weight};
use super::{Lifted, Limits, limit_by_file, scope_name, straight_shares};
use crate::error::ErrorKind;
use crate::pod::PodResources;

fn limits() -> Limits {
    let resources = PodResources {
        memory_bytes: Some(1),
        cpu_quota_us: Some(150_000),
        cpu_shares: Some(1024),
        cpuset_cpus: Some("0-1".into()),
        unified: vec![("io.max".into(), "8:0 rbps=1\n8:16 rbps=2".into())],
        ..Default::default()
    };
    Limits {
        resources,
        memory_bytes: Some(1 << 30),
        lifted: Lifted::default(),
    }
}

#[test]
fn limits_become_the_kernels_files() {
    let expected = [
        ("memory.max", "1073741824".to_owned()),
        ("cpu.max", "150000 100000".to_owned()),
        ("cpu.weight", "100".to_owned()),
        ("cpuset.cpus", "0-1".to_owned()),
    ];
    assert_eq!(settings(&limits(), Weights::Kernel), expected);
    assert_eq!(settings(&Limits::default(), Weights::Bfq), []);
    let lifted = Limits {
        lifted: Lifted {
            cpu_quota: true,
            memory: true,
        },
        ..Limits::default()
    };
    let expected = [("memory.max", "max".to_owned()), ("cpu.max", "max".to_owned())];
    assert_eq!(settings(&lifted, Weights::Kernel), expected);
}

#[test]
fn limits_of_block_devices_become_the_kernels_files() {
    let block_io = serde_json::json!({
        "weight": 500,
        "weightDevice": [{ "major": 8, "minor": 0, "weight": 1000 }, { "major": 8, "minor": 16 }],
        "throttleReadBpsDevice": [{ "major": 8, "minor": 0, "rate": 1048576 }],
        "throttleWriteIOPSDevice": [{ "major": 254, "minor": 1, "rate": 7 }],
    });
    let limits = Limits {
        resources: PodResources {
            block_io: Some(serde_json::from_value(block_io).unwrap()),
            ..Default::default()
        },
        ..Limits::default()
    };
    let rates = [("io.max", "8:0 rbps=1048576"), ("io.max", "254:1 wiops=7")];
    for (weights, first) in [
        (Weights::Bfq, [("io.bfq.weight", "500"), ("io.bfq.weight", "8:0 1000")]),
        (Weights::Kernel, [("io.weight", "4950"), ("io.weight", "8:0 10000")]),
    ] {
        let expected: Vec<_> = first
            .into_iter()
            .chain(rates)
            .map(|(file, value)| (file, value.to_owned()))
            .collect();
        assert_eq!(settings(&limits, weights), expected);
    }
}

#[test]
fn shares_become_the_weights_that_runc_makes_of_them() {
    let pairs = [
        (0, 1),
        (2, 1),
        (512, 59),
        (1024, 100),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ];
    for (shares, expected) in pairs {
        assert_eq!(weight(shares), expected, "{shares} shares");
    }
}

#[test]
fn systemd_is_told_the_same_weight() {
    for shares in (0..262_200).step_by(7) {
        // As cgroups-rs converts them.
        let told = (straight_shares(shares) - 2) * 9_999 / 262_142 + 1;
        assert_eq!(told, weight(shares), "{shares} shares");
    }
}

#[test]
fn a_scope_has_the_name_that_systemd_is_told() {
    assert_eq!(scope_name("system.slice:docker:c1"), "docker-c1.scope");
    assert_eq!(scope_name("::c1"), "c1.scope");
    assert_eq!(scope_name("a.slice:cri:b.slice"), "b.slice");
}

#[test]
fn limits_of_a_cgroup_without_files_for_them_are_refused_by_name() {
    let resources = PodResources {
        block_io: Some(serde_json::from_value(serde_json::json!({ "weight": 500 })).unwrap()),
        unified: vec![("io.max".into(), "8:0 rbps=1".into())],
        ..Default::default()
    };
    for cgroups in ["4:blkio:/a/b.scope\n1:name=systemd:/a/b.scope\n", ""] {
        let error = limit_by_file(cgroups, resources.clone(), "a:b:c").unwrap_err();
        assert!(error.to_string().contains("a:b:c"), "{error}");
    }
}

#[test]
fn a_path_cannot_leave_the_hierarchy() {
    assert_eq!(check_path("/default/c1").unwrap(), Path::new("default/c1"));
    for path in ["", "/", "..", "/a/../../b", "a\0b"] {
        assert_eq!(
            check_path(path).unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{path:?}"
        );
    }
}

#[test]
fn a_group_is_made_filled_and_removed() {
    // An ordinary folder stands in for the hierarchy: files are created where the kernel would have them.
    let mount = std::env::temp_dir().join(format!("bulkhead-cgroup-{}", std::process::id()));
    std::fs::create_dir_all(&mount).unwrap();
    let group = Group::new(&mount, "/ns/c1").unwrap();
    group.enter(42, &limits()).unwrap();
    let read = |name: &str| std::fs::read_to_string(mount.join("ns/c1").join(name)).unwrap();
    assert_eq!(read("cgroup.procs"), "42");
    assert_eq!(read("memory.max"), "1073741824");
    // An ordinary file keeps the last line alone.
    assert_eq!(read("io.max"), "8:16 rbps=2");
    assert!(std::fs::read_to_string(mount.join("ns/cgroup.subtree_control")).is_ok());
    std::fs::remove_dir_all(mount.join("ns/c1")).unwrap();
    group.remove().unwrap();
    std::fs::remove_dir_all(&mount).unwrap();
}
