use super::*;

/// A folder that looks like a cgroup whose processes never freeze.
fn stubborn(name: &str) -> (PathBuf, Cgroup) {
    let root = std::env::temp_dir().join(format!("bulkhead-cgroup-{name}-{}", std::process::id()));
    fs::create_dir_all(root.join(TOP)).unwrap();
    let group = Cgroup::create(&root, "c").unwrap();
    fs::write(group.path().join("cgroup.freeze"), "0").unwrap();
    fs::write(group.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    (root, group)
}

#[tokio::test]
async fn a_freeze_that_does_not_finish_is_taken_back() {
    let (root, group) = stubborn("freeze");
    assert!(matches!(group.set_frozen(true).await, Err(CgroupError::Late { .. })));
    assert!(!group.is_frozen());
    // Those that hear a signal without standing still are sent it all the same.
    group.signal(libc::SIGTERM).await.unwrap();
    assert!(!group.is_frozen());
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn containers_do_not_get_all_tasks() {
    assert_eq!(room_of(32_768, 100), 32_768 - 100 - RESERVE);
    // Of a small guest they get half.
    assert_eq!(room_of(1000, 100), 500);
    assert_eq!(room_of(0, 100), 0);
    assert_eq!(room_of(u64::MAX, u64::MAX), u64::MAX - u64::MAX / 2);
}
