use super::*;
use serde_json::{Value, json};

fn cgroup() -> (std::path::PathBuf, Cgroup) {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let root = std::env::temp_dir().join(format!("spec-test-{}-{number}", std::process::id()));
    std::fs::create_dir_all(root.join("pod")).unwrap();
    let cgroup = Cgroup::create(&root, "c").unwrap();
    (root, cgroup)
}

fn adapted(spec: &Value, joined: Option<&Joined<'_>>) -> Result<Adapted> {
    let (root, cgroup) = cgroup();
    let adapted = adapt(parse(&serde_json::to_vec(spec).unwrap())?, &cgroup, joined);
    std::fs::remove_dir_all(root).unwrap();
    adapted
}

fn spec() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "hostname": "h",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "", "apparmorProfile": "docker-default",
                    "noNewPrivileges": false, "selinuxLabel": "l", "capabilities": {"bounding": ["CAP_CHOWN"]}},
        "root": {"path": "/x"},
        "hooks": {"prestart": [{"path": "/host/program"}], "startContainer": [{"path": "/inside"}]},
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                           {"type": "network", "path": "/proc/77/ns/net"}],
            "cgroupsPath": "system.slice:x:y",
            "resources": {"memory": {"limit": 5}},
            "sysctl": {"net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/x": "2", "kernel.shmmax": "3"}
        }
    })
}

fn types(spec: &Spec) -> Vec<(LinuxNamespaceType, Option<PathBuf>)> {
    let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    namespaces
        .iter()
        .map(|namespace| (namespace.typ(), namespace.path().clone()))
        .collect()
}

#[test]
fn what_belongs_to_the_host_or_the_agent_is_taken_out() {
    let Adapted {
        spec,
        resources,
        network_sysctls,
    } = adapted(&spec(), None).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(
        linux.cgroups_path().as_deref().unwrap().to_str(),
        Some("/pod/c.container")
    );
    assert!(linux.resources().is_none() && resources.unwrap().memory().unwrap().limit() == Some(5));
    assert_eq!(
        linux.sysctl().as_ref().unwrap().keys().collect::<Vec<_>>(),
        ["kernel.shmmax"]
    );
    assert_eq!(network_sysctls.len(), 2);
    assert!(types(&spec).iter().all(|(typ, _)| *typ != LinuxNamespaceType::Network));
    let process = spec.process().as_ref().unwrap();
    assert!(process.apparmor_profile().is_none() && process.selinux_label().is_none());
    let hooks = spec.hooks().as_ref().unwrap();
    assert!(hooks.create_runtime().is_none() && hooks.start_container().as_ref().unwrap().len() == 1);
}

#[test]
fn absent_process_fields_mean_what_they_mean_to_runc() {
    let spec = adapted(&spec(), None).unwrap().spec;
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.cwd().to_str(), Some("/"));
    assert_eq!(
        process.no_new_privileges(),
        None,
        "otherwise the filter would be loaded without the right to do so"
    );
    let capabilities = process.capabilities().as_ref().unwrap();
    assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 1);
    assert!(
        capabilities.effective().as_ref().unwrap().is_empty(),
        "an absent set is an empty one, not the full one"
    );
}

#[test]
fn joined_namespaces_are_those_of_the_other_init() {
    let names = ["ipc".to_string(), "uts".to_string()];
    let joined = Joined {
        pid: Pid::from_raw(42),
        types: &names,
    };
    let spec = adapted(&spec(), Some(&joined)).unwrap().spec;
    let types = types(&spec);
    assert!(types.contains(&(LinuxNamespaceType::Ipc, Some("/proc/42/ns/ipc".into()))));
    assert!(types.contains(&(LinuxNamespaceType::Uts, Some("/proc/42/ns/uts".into()))));
    assert_eq!(types.len(), 4);
    assert!(owns_pid_namespace(&spec));
    let names = ["pid".to_string()];
    let joined = Joined {
        pid: Pid::from_raw(42),
        types: &names,
    };
    assert!(!owns_pid_namespace(
        &adapted(&self::spec(), Some(&joined)).unwrap().spec
    ));
}

#[test]
fn unusable_specs_are_refused_with_a_reason() {
    let refused = |spec: &Value, names: &[String]| {
        let joined = Joined {
            pid: Pid::from_raw(42),
            types: names,
        };
        adapted(spec, Some(&joined)).err().unwrap().message
    };
    for part in ["process", "linux", "root"] {
        let mut spec = spec();
        spec.as_object_mut().unwrap().remove(part);
        assert!(refused(&spec, &[]).contains(part));
    }
    assert!(refused(&spec(), &["net".to_string()]).contains("\"net\""));
    let mut no_mount = spec();
    no_mount["linux"]["namespaces"] = json!([{"type": "pid"}]);
    assert!(refused(&no_mount, &[]).contains("mount namespace"));
    let mut device = spec();
    device["linux"]["netDevices"] = json!({"eth7": {"name": "eth0"}});
    assert!(refused(&device, &[]).contains("\"eth7\""));
    assert!(parse(b"{").unwrap_err().message.contains("OCI spec"));
}

#[test]
fn without_an_own_uts_namespace_the_host_name_is_the_pods() {
    let mut spec = spec();
    spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
    assert!(adapted(&spec, None).unwrap().spec.hostname().is_none());
}

#[test]
fn a_process_without_capabilities_in_its_spec_has_all() {
    let mut spec = spec();
    spec["process"].as_object_mut().unwrap().remove("capabilities");
    let adapted = adapted(&spec, None).unwrap();
    let process = adapted.spec.process().clone().unwrap();
    let capabilities = process.capabilities().clone().unwrap();
    let count = |set: &Option<Capabilities>| set.as_ref().map(|set| set.len());
    let all = Some(caps::all().len());
    assert_eq!(
        [
            capabilities.bounding(),
            capabilities.effective(),
            capabilities.permitted()
        ]
        .map(count),
        [all; 3]
    );
    assert_eq!(
        [capabilities.inheritable(), capabilities.ambient()].map(count),
        [Some(0); 2]
    );
}

#[test]
fn a_relative_working_directory_is_refused() {
    let mut relative = spec();
    relative["process"]["cwd"] = "tmp".into();
    let process = serde_json::to_vec(&relative["process"]).unwrap();
    let errors = [
        adapted(&relative, None).err().unwrap(),
        parse_process(&process, None).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.message, "Cwd must be an absolute path");
    }
}

#[test]
fn the_id_that_leaves_a_process_as_it_is_is_refused() {
    let with = |field: &str, value: Value| {
        let mut spec = spec();
        spec["process"]["user"][field] = value;
        let process = serde_json::to_vec(&spec["process"]).unwrap();
        (adapted(&spec, None).map(drop), parse_process(&process, None).map(drop))
    };
    for (field, value) in [
        ("uid", json!(u32::MAX)),
        ("gid", json!(u32::MAX)),
        ("additionalGids", json!([1, u32::MAX])),
    ] {
        let (of_init, of_exec) = with(field, value);
        for error in [of_init.unwrap_err(), of_exec.unwrap_err()] {
            assert!(error.message.starts_with(&format!("process.user.{field}: ")), "{error}");
        }
    }
    let (of_init, of_exec) = with("uid", json!(u32::MAX - 1));
    assert!(of_init.is_ok() && of_exec.is_ok());
}

#[test]
fn a_process_that_is_added_without_capabilities_has_those_of_its_container() {
    let of_container = capabilities(&adapted(&spec(), None).unwrap().spec);
    let mut process = spec()["process"].clone();
    let bounding = |process: &Value| {
        let json = serde_json::to_vec(process).unwrap();
        let parsed = parse_process(&json, of_container.as_ref()).unwrap();
        parsed.capabilities().clone().unwrap().bounding().clone().unwrap().len()
    };
    process["capabilities"] = json!({});
    assert_eq!(bounding(&process), 0, "none are named, which is something else");
    process.as_object_mut().unwrap().remove("capabilities");
    assert_eq!(bounding(&process), 1);
}

#[test]
fn a_field_of_the_wrong_type_is_named() {
    let refused = |change: fn(&mut Value)| {
        let mut spec = spec();
        change(&mut spec);
        parse(&serde_json::to_vec(&spec).unwrap()).unwrap_err().message
    };
    let user = refused(|spec| spec["process"]["user"]["uid"] = "root".into());
    assert!(
        user.contains("process.user.uid: invalid type: string \"root\""),
        "{user}"
    );
    let namespace = refused(|spec| spec["linux"]["namespaces"][1]["type"] = "no-such".into());
    assert!(
        namespace.contains("linux.namespaces[1].type: ") && namespace.contains("no-such"),
        "{namespace}"
    );
    let process = parse_process(br#"{"cwd":"/","user":{"uid":0,"gid":-1}}"#, None)
        .unwrap_err()
        .message;
    assert!(
        process.contains("process description") && process.contains("user.gid: "),
        "{process}"
    );
    let limits = parse_resources(br#"{"memory":{"limit":"much"}}"#).unwrap_err().message;
    assert!(limits.contains("memory.limit: "), "{limits}");
    let more = parse_resources(b"{} {}").unwrap_err().message;
    assert!(more.contains("trailing characters"), "{more}");
}
