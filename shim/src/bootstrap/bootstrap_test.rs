use bulkhead_runtime::ids::ContainerId;

use super::*;

fn call() -> Call {
    Call {
        namespace: "default".into(),
        id: ContainerId::try_from("123").unwrap(),
        address: "/run/containerd/containerd.sock".into(),
        publish_binary: None,
        bundle: None,
        debug: false,
    }
}

#[test]
fn the_socket_is_found_by_record_and_else_by_containerds_rule() {
    let bundle = tempfile::tempdir().unwrap();
    // sha256 of "/run/containerd/containerd.sock/default/123", computed with sha256sum.
    let hash = "0ddfbd72d02b3551e75f3a0ed90b9965b533401be618f43a568bc522764e0ad0";
    let by_rule = recorded_socket(&call(), bundle.path(), "123").unwrap();
    assert_eq!(by_rule, Path::new("/run/containerd/s").join(hash));
    std::fs::write(
        bundle.path().join("bootstrap.json"),
        r#"{"version":3,"address":"unix:///b"}"#,
    )
    .unwrap();
    assert_eq!(recorded_socket(&call(), bundle.path(), "123"), Some("/b".into()));
    write_address(bundle.path(), "unix:///a").unwrap();
    assert_eq!(recorded_socket(&call(), bundle.path(), "123"), Some("/a".into()));
}

#[test]
fn the_state_of_a_pod_is_found_from_each_of_its_containers() {
    let bundles = tempfile::tempdir().unwrap();
    let (sandbox, container) = (bundles.path().join("s1"), bundles.path().join("c1"));
    std::fs::create_dir_all(&sandbox).unwrap();
    std::fs::create_dir_all(&container).unwrap();
    assert_eq!(recorded_state_dir(&container, "s1"), None);
    let mut config = Config::default();
    config.state_dir = "/var/b".into();
    record_state_dir(&sandbox, &config).unwrap();
    for bundle in [&sandbox, &container] {
        assert_eq!(recorded_state_dir(bundle, "s1"), Some("/var/b".into()));
    }
}
