use super::*;
use serde_json::json;

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

#[test]
fn the_schedulers_flag_has_the_name_of_the_specification() {
    let process = br#"{"cwd":"/","user":{"uid":0,"gid":0},
                       "scheduler":{"policy":"SCHED_BATCH","flags":["SCHED_FLAG_RESET_ON_FORK"]}}"#;
    let process = parse_process(process, None).unwrap();
    let flags = process.scheduler().as_ref().unwrap().flags().clone().unwrap();
    assert_eq!(flags, [oci_spec::runtime::LinuxSchedulerFlag::SchedResetOnFork]);
}

/// A spec with every field of the specification that a Linux container has.
fn whole_spec() -> Value {
    let hook = json!([{"path": "/p", "args": ["p"], "env": ["A=b"], "timeout": 5}]);
    let set = json!(["CAP_CHOWN"]);
    let mapping = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    json!({
        "ociVersion": "1.2.0",
        "hostname": "h",
        "domainname": "d",
        "annotations": {"a": "b"},
        "root": {"path": "/x", "readonly": true},
        "process": {
            "terminal": true, "consoleSize": {"height": 1, "width": 2}, "cwd": "/", "env": ["A=b"], "args": ["true"],
            "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3]},
            "capabilities": {"bounding": set, "effective": set, "inheritable": set, "permitted": set, "ambient": set},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
            "noNewPrivileges": true, "apparmorProfile": "p", "selinuxLabel": "l", "oomScoreAdj": 1,
            "scheduler": {"policy": "SCHED_BATCH", "nice": 1, "priority": 0, "flags": ["SCHED_FLAG_RESET_ON_FORK"],
                          "runtime": 1, "deadline": 2, "period": 3},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3}
        },
        "mounts": [{"destination": "/d", "type": "tmpfs", "source": "tmpfs", "options": ["ro"],
                    "uidMappings": mapping, "gidMappings": mapping}],
        "hooks": {"prestart": hook, "createRuntime": hook, "createContainer": hook, "startContainer": hook,
                  "poststart": hook, "poststop": hook},
        "linux": {
            "namespaces": [{"type": "time", "path": "/n"}],
            "uidMappings": mapping, "gidMappings": mapping,
            "timeOffsets": {"boottime": {"secs": 1, "nanosecs": 2}},
            "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 2, "fileMode": 438, "uid": 0, "gid": 0}],
            "cgroupsPath": "/c", "rootfsPropagation": "private", "mountLabel": "l",
            "maskedPaths": ["/m"], "readonlyPaths": ["/r"],
            "sysctl": {"kernel.shmmax": "3"},
            "personality": {"domain": "LINUX32", "flags": []},
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"],
                        "flags": ["SECCOMP_FILTER_FLAG_LOG"], "listenerPath": "/l", "listenerMetadata": "m",
                        "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                                      "args": [{"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_EQ"}]}]},
            "intelRdt": {"closID": "c", "l3CacheSchema": "s", "memBwSchema": "m"},
            "resources": {
                "devices": [{"allow": true, "type": "c", "major": 1, "minor": 2, "access": "rwm"}],
                "memory": {"limit": 1, "reservation": 1, "swap": 1, "kernel": 1, "kernelTCP": 1, "swappiness": 1,
                           "disableOOMKiller": false, "useHierarchy": true, "checkBeforeUpdate": true},
                "cpu": {"shares": 2, "quota": 3, "burst": 1, "period": 4, "realtimeRuntime": 5, "realtimePeriod": 6,
                        "cpus": "0", "mems": "0", "idle": 0},
                "pids": {"limit": 5},
                "blockIO": {"weight": 10, "leafWeight": 10,
                            "weightDevice": [{"major": 8, "minor": 0, "weight": 10, "leafWeight": 10}],
                            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
                            "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
                            "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 1}],
                            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 1}]},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
                "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 1}]},
                "rdma": {"mlx5_1": {"hcaHandles": 1, "hcaObjects": 2}},
                "unified": {"memory.high": "1"}
            }
        }
    })
}

/// The JSON pointers of everything in a value.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(n, value)| (n.to_string(), value))
            .collect(),
        _ => Vec::new(),
    };
    for (name, value) in below {
        let place = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        places(value, &place, found);
        found.push(place);
    }
}

#[test]
fn each_field_of_the_specification_is_named_when_its_type_is_wrong() {
    let whole = whole_spec();
    parse(&serde_json::to_vec(&whole).unwrap()).unwrap();
    let mut all = Vec::new();
    places(&whole, "", &mut all);
    let mut unnamed = Vec::new();
    for place in &all {
        let mut spec = whole.clone();
        let value = spec.pointer_mut(place).unwrap();
        *value = if value.is_boolean() || value.is_number() {
            json!(["x"])
        } else {
            json!(-7.5)
        };
        // An item of a list is told by the list's name and its number.
        let name = place.rsplit('/').find(|part| part.parse::<u32>().is_err()).unwrap();
        match parse(&serde_json::to_vec(&spec).unwrap()) {
            Ok(_) => unnamed.push(format!("{place} is taken")),
            Err(error) if !error.message.contains(name) => unnamed.push(format!("{place}: {}", error.message)),
            Err(_) => (),
        }
    }
    assert!(all.len() > 200, "{}", all.len());
    assert!(unnamed.is_empty(), "{}", unnamed.join("\n"));
}
