use super::*;

#[test]
fn the_answer_is_what_containerd_reads() {
    let info = info(&[]).unwrap();
    let info = RuntimeInfo::parse_from_bytes(&info.write_to_bytes().unwrap()).unwrap();
    assert_eq!(info.name, "io.containerd.bulkhead.v2");
    assert_eq!(info.features.type_url, FEATURES_TYPE);
    let features: Value = serde_json::from_slice(&info.features.value).unwrap();
    assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
    let options = features["mountOptions"].as_array().unwrap();
    assert!(
        !options.contains(&json!("rro")),
        "the agent does not promise recursive read-only"
    );
    let hooks = features["hooks"].as_array().unwrap();
    assert!(!hooks.contains(&json!("createContainer")), "they are refused");
    assert!(info.options.is_none());
}

#[test]
fn options_are_given_back_or_refused() {
    let any = Any {
        type_url: "containerd.runc.v1.Options".into(),
        ..Default::default()
    };
    assert_eq!(
        info(&any.write_to_bytes().unwrap()).unwrap().options.type_url,
        "containerd.runc.v1.Options"
    );
    let any = Any {
        type_url: "x.Options".into(),
        ..Default::default()
    };
    assert!(
        info(&any.write_to_bytes().unwrap())
            .unwrap_err()
            .to_string()
            .contains("x.Options")
    );
}
