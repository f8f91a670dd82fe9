use super::*;

fn any(type_url: &str, message: &impl Message) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value: message.write_to_bytes().unwrap(),
        ..Default::default()
    }
}

#[test]
fn nothing_means_the_defaults() {
    assert!(RuntimeOptions::decode(None).unwrap().is_default());
    assert!(RuntimeOptions::decode(Some(&Any::default())).unwrap().is_default());
    let empty = any("containerd.runc.v1.Options", &oci::Options::default());
    assert!(RuntimeOptions::decode(Some(&empty)).unwrap().is_default());
}

#[test]
fn generic_options_name_the_config_file() {
    let options = runtimeoptions::Options {
        config_path: "/etc/bulkhead/other.toml".into(),
        ..Default::default()
    };
    for url in [
        "runtimeoptions.v1.Options",
        "types.containerd.io/runtimeoptions.v1.Options",
    ] {
        let decoded = RuntimeOptions::decode(Some(&any(url, &options))).unwrap();
        assert_eq!(decoded.config_path, Some(PathBuf::from("/etc/bulkhead/other.toml")));
    }
}

#[test]
fn relative_config_path_and_settings_in_place_are_refused() {
    let relative = runtimeoptions::Options {
        config_path: "other.toml".into(),
        ..Default::default()
    };
    let error = RuntimeOptions::decode(Some(&any("runtimeoptions.v1.Options", &relative))).unwrap_err();
    assert!(error.to_string().contains("other.toml"), "{error}");
    let body = runtimeoptions::Options {
        config_body: b"x = 1".to_vec(),
        ..Default::default()
    };
    let error = RuntimeOptions::decode(Some(&any("runtimeoptions.v1.Options", &body))).unwrap_err();
    assert!(error.to_string().contains("ConfigPath"), "{error}");
}

#[test]
fn runc_options_give_the_cgroup_and_refuse_another_binary() {
    let options = oci::Options {
        shim_cgroup: "/shims".into(),
        systemd_cgroup: true,
        ..Default::default()
    };
    let decoded = RuntimeOptions::decode(Some(&any("containerd.runc.v1.Options", &options))).unwrap();
    assert_eq!(decoded.shim_cgroup.as_deref(), Some("/shims"));
    let options = oci::Options {
        binary_name: "crun".into(),
        ..Default::default()
    };
    let error = RuntimeOptions::decode(Some(&any("containerd.runc.v1.Options", &options))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("crun"), "{error}");
}

#[test]
fn unknown_types_and_garbage_are_refused_by_name() {
    let unknown = Any {
        type_url: "io.example.Options".into(),
        ..Default::default()
    };
    let error = RuntimeOptions::decode(Some(&unknown)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("io.example.Options"), "{error}");
    let garbage = Any {
        type_url: "runtimeoptions.v1.Options".into(),
        value: vec![0xff; 7],
        ..Default::default()
    };
    assert!(
        RuntimeOptions::decode(Some(&garbage))
            .unwrap_err()
            .to_string()
            .contains("malformed")
    );
}
