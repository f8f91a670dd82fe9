use bulkhead_agent_protocol::MAX_MESSAGE;
use serde_json::{Value, json};

use super::{HostLimits, Neighbours, PidOwner, exec_for_guest, for_guest, load, set_root};
use crate::error::ErrorKind;
use crate::ids::ContainerId;

fn id() -> ContainerId {
    ContainerId::try_from("c1").unwrap()
}

impl<F: Fn(u32) -> PidOwner> Neighbours for F {
    fn owner_of(&self, pid: u32) -> PidOwner {
        self(pid)
    }

    fn with_user_namespace(&self, path: &str) -> Option<String> {
        (path == "/pinned/by/the/sandbox").then(|| "sandbox".to_owned())
    }
}

fn nobody(_: u32) -> PidOwner {
    PidOwner::Nobody
}

fn spec(linux: Value) -> Value {
    let mut base = json!({
        "ociVersion": "1.1.0",
        "root": { "path": "rootfs", "readonly": true },
        "process": { "args": ["true"], "cwd": "/", "apparmorProfile": "docker-default", "selinuxLabel": "x" },
        "linux": { "namespaces": [
            { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
            { "type": "network", "path": "/var/run/netns/x" },
        ] },
        "somethingNew": { "kept": 1 },
    });
    for (key, value) in linux.as_object().unwrap() {
        base["linux"][key] = value.clone();
    }
    base
}

fn rewritten(mut spec: Value) -> Value {
    set_root(&mut spec, &id(), "rootfs").unwrap();
    serde_json::from_slice(&for_guest(spec, &id(), &nobody, HostLimits::OfThePod).unwrap().json).unwrap()
}

#[test]
fn host_names_are_replaced_and_the_rest_is_kept() {
    let guest = rewritten(spec(json!({
        "cgroupsPath": "system.slice:docker:c1",
        "mountLabel": "system_u:object_r",
        "resources": {
            "cpu": { "shares": 512, "cpus": "0-3", "mems": "0" },
            "memory": { "limit": 1048576 },
            "blockIO": { "weight": 10 },
            "unified": { "memory.high": "7", "io.max": "8:0 rbps=1", "cpuset.cpus": "1" },
        },
    })));
    assert_eq!(
        guest["root"],
        json!({ "path": "/run/bulkhead/share/c1/rootfs", "readonly": true })
    );
    let mut process = guest["process"].clone();
    assert!(process["rlimits"].take().is_array());
    assert_eq!(process, json!({ "args": ["true"], "cwd": "/", "rlimits": null }));
    assert_eq!(guest["linux"]["cgroupsPath"], "/c1");
    assert_eq!(
        guest["linux"]["resources"],
        json!({ "cpu": { "shares": 512 }, "memory": { "limit": 1048576 }, "unified": { "memory.high": "7" } })
    );
    assert_eq!(guest["linux"]["mountLabel"], Value::Null);
    assert_eq!(
        guest["linux"]["namespaces"],
        json!([{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }])
    );
    assert_eq!(guest["somethingNew"]["kept"], 1);
}

#[test]
fn namespaces_of_the_pods_containers_are_joined_by_name() {
    let owner = |pid| match pid {
        100 => PidOwner::Container("sandbox".into()),
        200 => PidOwner::Pod,
        _ => PidOwner::Nobody,
    };
    let with = |pid: &str, ipc: &str| {
        spec(json!({ "namespaces": [
            { "type": "pid", "path": pid }, { "type": "ipc", "path": ipc }, { "type": "uts" }, { "type": "mount" },
        ] }))
    };
    let guest = for_guest(
        with("/proc/100/ns/pid", "/proc/100/ns/ipc"),
        &id(),
        &owner,
        HostLimits::OfThePod,
    )
    .unwrap();
    let shared = guest.shared.unwrap();
    assert_eq!(
        (shared.with.as_str(), shared.kinds),
        ("sandbox", vec!["pid".to_owned(), "ipc".to_owned()])
    );
    let json: Value = serde_json::from_slice(&guest.json).unwrap();
    assert_eq!(
        json["linux"]["namespaces"],
        json!([{ "type": "uts" }, { "type": "mount" }])
    );
    assert!(
        for_guest(
            with("/proc/200/ns/pid", "/proc/200/ns/ipc"),
            &id(),
            &owner,
            HostLimits::OfThePod
        )
        .unwrap()
        .shared
        .is_none()
    );
    for bad in ["/proc/1/ns/pid", "/proc/100/ns/net", "/run/ns/pid"] {
        let error = for_guest(with(bad, "/proc/100/ns/ipc"), &id(), &owner, HostLimits::OfThePod).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(bad), "{error}");
    }
}

#[test]
fn a_container_of_a_pod_that_has_no_other_makes_a_user_namespace() {
    let namespaces =
        ["pid", "ipc", "uts", "user"].map(|kind| json!({ "type": kind, "path": format!("/proc/200/ns/{kind}") }));
    let guest = for_guest(
        spec(json!({ "namespaces": namespaces })),
        &id(),
        &|_| PidOwner::Pod,
        HostLimits::OfThePod,
    )
    .unwrap();
    let json: Value = serde_json::from_slice(&guest.json).unwrap();
    assert_eq!(json["linux"]["namespaces"], json!([{ "type": "user" }]));
    assert!(guest.shared.is_none());
}

#[test]
fn a_user_namespace_that_the_host_keeps_is_the_containers_that_has_it_or_made_anew() {
    let with = |path: &str, mappings: Value| {
        let namespaces =
            json!([{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "user", "path": path }]);
        for_guest(
            spec(json!({ "namespaces": namespaces, "uidMappings": mappings })),
            &id(),
            &nobody,
            HostLimits::OfThePod,
        )
    };
    let line = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    let joined = with("/pinned/by/the/sandbox", line.clone()).unwrap().shared.unwrap();
    assert_eq!(
        (joined.with.as_str(), joined.kinds),
        ("sandbox", vec!["user".to_owned()])
    );
    let new = with("/pinned/by/somebody", line).unwrap();
    let json: Value = serde_json::from_slice(&new.json).unwrap();
    assert_eq!(json["linux"]["namespaces"][3], json!({ "type": "user" }));
    assert!(new.shared.is_none());
    for nothing in [json!([]), Value::Null] {
        let error = with("/pinned/by/somebody", nothing).unwrap_err();
        assert!(error.to_string().contains("/pinned/by/somebody"), "{error}");
    }
}

#[test]
fn the_hosts_namespaces_are_refused() {
    for kind in ["pid", "ipc", "uts"] {
        let mut spec = spec(json!({}));
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|n| n["type"] != kind);
        let error = for_guest(spec, &id(), &nobody, HostLimits::OfThePod).unwrap_err();
        assert!(
            error.to_string().contains(&format!("host's {kind} namespace")),
            "{error}"
        );
    }
}

#[test]
fn devices_go_by_their_meaning() {
    let harmless = json!({ "type": "c", "path": "/dev/null", "major": 1, "minor": 3 });
    let hardware = json!({ "type": "c", "path": "/dev/ttyS0", "major": 4, "minor": 64 });
    let disk = json!({ "type": "b", "path": "/dev/sda", "major": 8, "minor": 0 });
    let error = for_guest(
        spec(json!({ "devices": [harmless, disk, hardware] })),
        &id(),
        &nobody,
        HostLimits::OfThePod,
    )
    .unwrap_err();
    assert!(error.to_string().contains("/dev/ttyS0 (4:64)"), "{error}");
    let kept = rewritten(spec(json!({ "devices": [harmless, disk] })));
    assert_eq!(kept["linux"]["devices"], json!([harmless, disk]));
    let privileged = json!({
        "devices": [harmless, hardware], "resources": { "devices": [{ "allow": true, "access": "rwm" }] },
    });
    assert_eq!(rewritten(spec(privileged))["linux"]["devices"], json!([harmless]));
}

#[test]
fn only_hooks_that_run_inside_reach_the_guest() {
    let mut with = spec(json!({}));
    with["hooks"] = json!({ "prestart": [{ "path": "/a" }], "startContainer": [{ "path": "/b" }] });
    assert_eq!(
        rewritten(with.clone())["hooks"],
        json!({ "startContainer": [{ "path": "/b" }] })
    );
    with["hooks"] = json!({ "poststop": [{ "path": "/a" }] });
    assert_eq!(rewritten(with.clone())["hooks"], Value::Null);
    with["hooks"] = json!({ "createContainer": [{ "path": "/a" }] });
    assert!(
        for_guest(with, &id(), &nobody, HostLimits::OfThePod)
            .unwrap_err()
            .to_string()
            .contains("createContainer")
    );
}

#[test]
fn a_spec_that_cannot_travel_is_refused_like_an_argument_list() {
    let mut huge = spec(json!({}));
    huge["process"]["args"] = json!(["x".repeat(MAX_MESSAGE)]);
    let error = for_guest(huge, &id(), &nobody, HostLimits::OfThePod).unwrap_err();
    assert!(error.to_string().contains("argument list too long"), "{error}");
    assert!(exec_for_guest(&vec![b' '; MAX_MESSAGE], "exec e").is_err());
}

#[test]
fn an_exec_loses_its_labels_and_tells_its_size() {
    let process = br#"{"args":["sh"],"apparmorProfile":"x","consoleSize":{"width":80,"height":24}}"#;
    let (json, size) = exec_for_guest(process, "exec e").unwrap();
    assert_eq!(size, (80, 24));
    let value: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(value.get("apparmorProfile"), None);
    assert!(exec_for_guest(b"[]", "exec e").is_err());
    assert!(exec_for_guest(b"{", "exec e").is_err());
}

#[test]
fn a_bundle_without_a_usable_spec_is_named() {
    let folder = std::env::temp_dir().join(format!("bulkhead-spec-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let error = load(&folder).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.to_string().contains("config.json"), "{error}");
    for text in ["", "{", "[]", "3"] {
        std::fs::write(folder.join("config.json"), text).unwrap();
        assert_eq!(
            load(&folder).unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{text:?}"
        );
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn unknown_capabilities_are_left_out() {
    let mut asked = spec(json!({}));
    asked["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_NO_SUCH", "chown"],
        "ambient": ["CAP_9"],
        "effective": null,
    });
    let left = json!({ "bounding": ["CAP_CHOWN", "chown"], "ambient": [], "effective": null });
    assert_eq!(rewritten(asked.clone())["process"]["capabilities"], left);
    let process = serde_json::to_vec(&asked["process"]).unwrap();
    let (exec, _) = exec_for_guest(&process, "exec e1").unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&exec).unwrap()["capabilities"], left);
}

#[test]
fn the_roots_propagation_is_told_in_the_agents_words() {
    for (word, simple) in [
        ("", "private"),
        ("rslave", "slave"),
        ("rshared", "shared"),
        ("private", "private"),
    ] {
        let rewritten = rewritten(spec(json!({ "rootfsPropagation": word })));
        assert_eq!(rewritten["linux"]["rootfsPropagation"], simple);
    }
    let error = for_guest(
        spec(json!({ "rootfsPropagation": "rslve" })),
        &id(),
        &nobody,
        HostLimits::OfThePod,
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("linux.rootfsPropagation is \"rslve\""),
        "{error}"
    );
}
