use std::path::Path;

use super::Limits;
use super::unified::{Group, check_path, settings};
use crate::error::ErrorKind;
use crate::pod::PodResources;

fn limits() -> Limits {
    let resources = PodResources {
        memory_bytes: Some(1),
        cpu_quota_us: Some(150_000),
        cpu_shares: Some(1024),
        cpuset_cpus: Some("0-1".into()),
        ..Default::default()
    };
    Limits {
        resources,
        memory_bytes: Some(1 << 30),
    }
}

#[test]
fn limits_become_the_kernels_files() {
    let expected = [
        ("memory.max", "1073741824".to_owned()),
        ("cpu.max", "150000 100000".to_owned()),
        ("cpu.weight", "39".to_owned()),
        ("cpuset.cpus", "0-1".to_owned()),
    ];
    assert_eq!(settings(&limits()), expected);
    assert_eq!(settings(&Limits::default()), []);
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
    assert_eq!(group.statistics()["memory.max"], "1073741824");
    assert!(std::fs::read_to_string(mount.join("ns/cgroup.subtree_control")).is_ok());
    std::fs::remove_dir_all(mount.join("ns/c1")).unwrap();
    group.remove().unwrap();
    std::fs::remove_dir_all(&mount).unwrap();
}
