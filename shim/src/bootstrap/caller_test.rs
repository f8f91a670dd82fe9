use std::os::unix::fs::PermissionsExt;

use bulkhead_runtime::ids::ContainerId;
use containerd_shim_protos::bootstrap_api::{BootstrapResult, Extension};

use super::*;

fn call(program: Option<PathBuf>) -> Call {
    Call {
        namespace: "k8s.io".into(),
        id: ContainerId::try_from("c1").unwrap(),
        address: "/run/containerd/containerd.sock".into(),
        publish_binary: program,
        bundle: None,
        debug: false,
    }
}

fn program(folder: &Path, says: &str) -> PathBuf {
    let path = folder.join("containerd");
    std::fs::write(
        &path,
        format!(
            "#!/bin/sh\necho '{says}'\necho run >> {}\n",
            folder.join("runs").display()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn options_any() -> Any {
    Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: vec![0x1a, 0x02, b'/', b'x'],
        ..Default::default()
    }
}

fn params() -> BootstrapParams {
    BootstrapParams {
        instance_id: "c1".into(),
        namespace: "k8s.io".into(),
        containerd_version: "2.3.1".into(),
        containerd_ttrpc_address: "/run/containerd/containerd.sock.ttrpc".into(),
        socket_dir: Some("/run/s".into()),
        extensions: vec![
            Extension {
                value: Some(Any {
                    type_url: "containerd.io/nri.v1.PluginConfig".into(),
                    ..Default::default()
                })
                .into(),
                ..Default::default()
            },
            Extension {
                value: Some(options_any()).into(),
                ..Default::default()
            },
        ],
        ..Default::default()
    }
}

#[test]
fn containerd_2_3_is_answered_in_protobuf() {
    let caller = Caller::from_stdin(&params().write_to_bytes().unwrap(), &call(None)).unwrap();
    assert_eq!(caller.events_address, "/run/containerd/containerd.sock.ttrpc");
    assert_eq!(caller.socket_dir.as_deref(), Some("/run/s"));
    assert_eq!(caller.options, Some(options_any()));
    let answer = BootstrapResult::parse_from_bytes(&caller.answer("unix:///s/x").unwrap()).unwrap();
    assert_eq!(
        (answer.version, answer.address.as_str(), answer.protocol.as_str()),
        (3, "unix:///s/x", "ttrpc")
    );
}

#[test]
fn parameters_for_another_container_are_refused() {
    let mut other = params();
    other.instance_id = "c2".into();
    let error = Caller::from_stdin(&other.write_to_bytes().unwrap(), &call(None))
        .unwrap_err()
        .to_string();
    assert!(error.contains("c2") && error.contains("c1"), "{error}");
}

#[test]
fn options_on_stdin_are_not_taken_for_parameters() {
    let input = options_any().write_to_bytes().unwrap();
    assert!(bootstrap_params(&input, &call(None)).unwrap().is_none());
    assert_eq!(legacy_options(&input), Some(options_any()));
    assert!(bootstrap_params(&[], &call(None)).unwrap().is_none());
    assert_eq!(legacy_options(&[]), None);
}

#[test]
fn the_version_is_read_from_each_release() {
    for (text, major) in [
        ("containerd github.com/containerd/containerd/v2 2.1.9~ds1 1.2", Some(2)),
        ("containerd github.com/containerd/containerd/v2 v2.0.0 abc", Some(2)),
        ("containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24", Some(1)),
        ("containerd containerd.io 1.6.33 abc", Some(1)),
        ("k3s version v1.30.1 (abc)", None),
        ("containerd", None),
        ("", None),
    ] {
        assert_eq!(parse_version(text), major, "{text}");
    }
}

#[test]
fn json_for_2_x_and_a_bare_address_for_the_rest() {
    assert_eq!(Answer::BareAddress.write("unix:///s/x").unwrap(), b"unix:///s/x");
    let json: serde_json::Value = serde_json::from_slice(&Answer::Json.write("unix:///s/x").unwrap()).unwrap();
    assert_eq!(
        json,
        serde_json::json!({"version": 3, "address": "unix:///s/x", "protocol": "ttrpc"})
    );
}

#[test]
fn a_program_is_asked_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let containerd = program(folder.path(), "containerd github.com/containerd/containerd/v2 2.1.9 x");
    assert_eq!(major_version(&containerd, &cache), Some(2));
    assert_eq!(major_version(&containerd, &cache), Some(2));
    assert_eq!(std::fs::read_to_string(folder.path().join("runs")).unwrap(), "run\n");
}

#[test]
fn a_replaced_program_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let containerd = program(folder.path(), "containerd containerd.io 1.7.24 x");
    assert_eq!(major_version(&containerd, &cache), Some(1));
    std::fs::remove_file(&containerd).unwrap();
    let containerd = program(
        folder.path(),
        "containerd github.com/containerd/containerd/v2 2.2.0 xyz",
    );
    assert_eq!(major_version(&containerd, &cache), Some(2));
}

#[test]
fn a_program_that_fails_hangs_or_is_missing_is_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    assert_eq!(major_version(Path::new("/no/such/containerd"), &cache), None);
    let path = program(folder.path(), "x");
    std::fs::write(&path, "#!/bin/sh\nexec sleep 60\n").unwrap();
    let before = Instant::now();
    assert_eq!(major_version(&path, &cache), None);
    assert!(before.elapsed() < Duration::from_secs(20));
    assert!(!is_version_2(&call(None)));
}
