use super::*;

fn id(text: &str) -> ContainerId {
    ContainerId::try_from(text).unwrap()
}

fn read(spec: &str, container: &str) -> Result<Membership> {
    let bundle = tempfile::tempdir().unwrap();
    std::fs::write(bundle.path().join("config.json"), spec).unwrap();
    read_membership(bundle.path(), &id(container))
}

#[test]
fn a_container_without_annotations_is_its_own_pod() {
    assert_eq!(
        read(r#"{"ociVersion":"1.2.0"}"#, "c1").unwrap(),
        Membership::Founds { pod: id("c1") }
    );
    assert_eq!(
        read(r#"{"annotations":{}}"#, "c1").unwrap(),
        Membership::Founds { pod: id("c1") }
    );
}

#[test]
fn the_sandbox_api_has_no_spec() {
    let bundle = tempfile::tempdir().unwrap();
    assert_eq!(
        read_membership(bundle.path(), &id("s1")).unwrap(),
        Membership::Founds { pod: id("s1") }
    );
    assert_eq!(read("null", "s1").unwrap(), Membership::Founds { pod: id("s1") });
    assert_eq!(read("\n", "s1").unwrap(), Membership::Founds { pod: id("s1") });
}

#[test]
fn the_pause_container_founds_and_the_others_join() {
    let pause = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"s1","io.kubernetes.cri.container-type":"sandbox"}}"#;
    assert_eq!(read(pause, "s1").unwrap(), Membership::Founds { pod: id("s1") });
    let app = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"s1","io.kubernetes.cri.container-type":"container"}}"#;
    assert_eq!(
        read(app, "c1").unwrap(),
        Membership::Joins {
            pod: id("s1"),
            required: true
        }
    );
}

#[test]
fn a_group_of_our_own_may_be_founded_by_any_member() {
    let spec = r#"{"annotations":{"io.containerd.bulkhead.v2.group":"g","io.kubernetes.cri.sandbox-id":"s1"}}"#;
    assert_eq!(
        read(spec, "c1").unwrap(),
        Membership::Joins {
            pod: id("g"),
            required: false
        }
    );
}

#[test]
fn a_kubernetes_pod_cannot_choose_another_group() {
    let spec = r#"{"annotations":{"io.containerd.bulkhead.v2.group":"g","io.kubernetes.cri.sandbox-id":"s1","io.kubernetes.cri.container-type":"KIND"}}"#;
    let founds = read(&spec.replace("KIND", "sandbox"), "s1").unwrap();
    assert_eq!(founds, Membership::Founds { pod: id("s1") });
    let joins = read(&spec.replace("KIND", "container"), "c1").unwrap();
    assert_eq!(joins.pod_id(), &id("s1"));
}

#[test]
fn a_spec_that_was_read_says_the_same() {
    let bundle = tempfile::tempdir().unwrap();
    let by = |spec| membership_by(&spec, bundle.path(), &id("c1"));
    let joins = by(serde_json::json!({ "annotations": { "io.kubernetes.cri.sandbox-id": "s1" } })).unwrap();
    assert_eq!(joins.pod_id(), &id("s1"));
    assert_eq!(by(serde_json::json!({})).unwrap(), Membership::Founds { pod: id("c1") });
    let error = format!("{:#}", by(serde_json::json!({ "annotations": 3 })).unwrap_err());
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn a_malformed_sandbox_id_or_spec_is_refused_by_name() {
    let error = format!(
        "{:#}",
        read(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"../s"}}"#, "c1").unwrap_err()
    );
    assert!(error.contains("io.kubernetes.cri.sandbox-id"), "{error}");
    let error = format!("{:#}", read("{", "c1").unwrap_err());
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn a_container_without_annotations_belongs_to_the_sandbox_that_containerd_recorded() {
    let bundle = tempfile::tempdir().unwrap();
    std::fs::write(bundle.path().join("config.json"), "{}").unwrap();
    std::fs::write(bundle.path().join("sandbox"), "s1").unwrap();
    let joins = Membership::Joins {
        pod: id("s1"),
        required: true,
    };
    assert_eq!(read_membership(bundle.path(), &id("c1")).unwrap(), joins);
    let founds = Membership::Founds { pod: id("s1") };
    assert_eq!(read_membership(bundle.path(), &id("s1")).unwrap(), founds);
}
