use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

#[test]
fn reads_start_as_containerd_writes_it() {
    let line = "-namespace k8s.io -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd -id a1 -debug start";
    let Command::Start(call) = parse(&words(line)).unwrap() else {
        panic!("not a start")
    };
    assert_eq!(call.namespace, "k8s.io");
    assert_eq!(call.id.as_str(), "a1");
    assert_eq!(call.address, "/run/containerd/containerd.sock");
    assert_eq!(call.publish_binary.unwrap(), PathBuf::from("/usr/bin/containerd"));
    assert!(call.debug);
    assert!(call.bundle.is_none());
}

#[test]
fn reads_delete_with_its_bundle() {
    let line = "-namespace default -address /a -publish-binary /b -id x -bundle /run/bundle delete";
    let Command::Delete(call) = parse(&words(line)).unwrap() else {
        panic!("not a delete")
    };
    assert_eq!(call.bundle.unwrap(), PathBuf::from("/run/bundle"));
    assert!(!call.debug);
}

#[test]
fn version_and_info_need_no_ids() {
    assert!(matches!(parse(&words("-v")).unwrap(), Command::Version));
    assert!(matches!(parse(&words("-version")).unwrap(), Command::Version));
    assert!(matches!(parse(&words("-info")).unwrap(), Command::Info));
}

#[test]
fn without_an_action_it_is_the_server() {
    assert!(matches!(
        parse(&words("-namespace default -id x -address /a")).unwrap(),
        Command::Serve
    ));
}

#[test]
fn malformed_ids_are_refused_by_name() {
    for id in ["../x", "a/b", ".", &"x".repeat(10_000)] {
        let error = parse(&words(&format!("-namespace default -id {id} start")))
            .unwrap_err()
            .to_string();
        assert!(error.contains("container id"), "{error}");
        assert!(error.len() < 400, "{} bytes", error.len());
    }
    assert!(
        parse(&words("-namespace default start"))
            .unwrap_err()
            .to_string()
            .contains("empty")
    );
    assert!(
        parse(&words("-namespace a/b -id x start"))
            .unwrap_err()
            .to_string()
            .contains("namespace")
    );
}

#[test]
fn unknown_words_are_refused() {
    assert!(
        parse(&words("-namespace default -id x restart"))
            .unwrap_err()
            .to_string()
            .contains("restart")
    );
    assert!(parse(&words("-no-such-flag start")).is_err());
}
