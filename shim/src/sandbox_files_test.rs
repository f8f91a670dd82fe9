use containerd_shim_protos::sandbox_api::CreateSandboxRequest;

use super::*;
use crate::messages::cri::DNSConfig;

fn sandbox(dns: DNSConfig) -> Sandbox {
    let request = CreateSandboxRequest {
        sandbox_id: "s1".into(),
        ..Default::default()
    };
    let mut sandbox = Sandbox::read("k8s.io", request).unwrap();
    sandbox.spec.hostname = Some("web".into());
    sandbox.dns = dns;
    sandbox
}

/// A sandbox's bundle without the memory behind its folders.
fn sandbox_bundle() -> tempfile::TempDir {
    let bundle = tempfile::tempdir().unwrap();
    std::fs::create_dir(bundle.path().join(ETC)).unwrap();
    bundle
}

fn completed(sandbox_bundle: &Path, spec: &str) -> Result<Value> {
    let mut spec = serde_json::from_str(spec).unwrap();
    complete(sandbox_bundle, &mut spec)?;
    Ok(spec)
}

fn destinations(spec: &Value) -> Vec<String> {
    spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_files_say_what_the_pod_asked_for() {
    let bundle = sandbox_bundle();
    let dns = DNSConfig {
        servers: vec!["10.0.0.10".into(), "10.0.0.11".into()],
        searches: vec!["ns.svc".into(), "svc".into()],
        options: vec!["ndots:5".into()],
        ..Default::default()
    };
    write(bundle.path(), &sandbox(dns)).unwrap();
    let read = |name: &str| std::fs::read_to_string(bundle.path().join(ETC).join(name)).unwrap();
    assert_eq!(read("hostname"), "web\n");
    assert!(read("hosts").contains("127.0.0.1\tlocalhost\n") && read("hosts").contains("\tweb\n"));
    assert_eq!(
        read("resolv.conf"),
        "search ns.svc svc\nnameserver 10.0.0.10\nnameserver 10.0.0.11\noptions ndots:5\n"
    );
}

#[test]
fn a_line_break_in_a_word_adds_no_line() {
    let dns = DNSConfig {
        searches: vec!["a\nnameserver 6.6.6.6".into()],
        ..Default::default()
    };
    assert_eq!(resolv_conf(&sandbox(dns)), "search a nameserver 6.6.6.6\n");
}

#[test]
fn missing_mounts_are_added_and_others_kept() {
    let bundle = sandbox_bundle();
    write(bundle.path(), &sandbox(DNSConfig::default())).unwrap();
    let spec = r#"{"ociVersion":"1.2.0","mounts":[{"destination":"/etc/hosts","source":"/kubelet/hosts"}]}"#;
    let spec = completed(bundle.path(), spec).unwrap();
    assert_eq!(
        destinations(&spec),
        ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm"]
    );
    assert_eq!(spec["mounts"][0]["source"], "/kubelet/hosts");
    assert_eq!(spec["ociVersion"], "1.2.0");
    let again = completed(bundle.path(), &spec.to_string()).unwrap();
    assert_eq!(destinations(&again), destinations(&spec));
}

#[test]
fn the_pods_shared_memory_replaces_the_default_and_not_a_clients_own() {
    let bundle = sandbox_bundle();
    let shm = |spec: Value| spec["mounts"].as_array().unwrap().last().unwrap()["source"].clone();
    let default = r#"{"mounts":[{"destination":"/dev/shm","type":"tmpfs","source":"shm"}]}"#;
    let ours = shm(completed(bundle.path(), default).unwrap());
    assert_eq!(ours, POD_SHM);
    let own = r#"{"mounts":[{"destination":"/dev/shm","type":"bind","source":"/volume"}]}"#;
    assert_eq!(shm(completed(bundle.path(), own).unwrap()), "/volume");
}

#[test]
fn malformed_specs_are_refused_by_name() {
    let bundle = sandbox_bundle();
    for bad in ["[]", r#"{"mounts":{}}"#] {
        let error = completed(bundle.path(), bad).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }
}
