use super::*;

#[test]
fn the_unified_line_is_found_among_others() {
    assert_eq!(
        own_path("12:cpu:/x\n0::/system.slice/containerd.service\n"),
        Some("system.slice/containerd.service")
    );
    assert_eq!(own_path("0::/\n"), Some(""));
    assert_eq!(own_path("12:cpu:/x\n"), None);
}

#[test]
fn two_pods_never_share_a_cgroup() {
    let root = Path::new("/c");
    assert_ne!(folder(root, "a", "b-c"), folder(root, "a-b", "c"));
    assert_eq!(folder(root, "k8s.io", "s1"), Path::new("/c/bulkhead-shims/k8s.io:s1"));
}

#[test]
fn making_and_removing_leaves_nothing_and_spares_others() {
    let root = tempfile::tempdir().unwrap();
    let (one, two) = (folder(root.path(), "n", "1"), folder(root.path(), "n", "2"));
    make(&one).unwrap();
    make(&two).unwrap();
    remove_folder(&one);
    assert!(two.exists());
    remove_folder(&two);
    assert!(!root.path().join(PARENT).exists());
    remove_folder(&two);
}
