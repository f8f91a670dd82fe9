use containerd_shim_protos::protobuf::MessageField;

use super::*;
use crate::messages::cri::{
    IDMapping, Int64Value, LinuxContainerResources, LinuxSandboxSecurityContext, NamespaceOption, UserNamespace,
};

fn request(config: &PodSandboxConfig) -> CreateSandboxRequest {
    CreateSandboxRequest {
        sandbox_id: "s1".into(),
        netns_path: "/var/run/netns/cni-1".into(),
        options: MessageField::some(Any {
            type_url: "runtime.v1.PodSandboxConfig".into(),
            value: config.write_to_bytes().unwrap(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn with_linux(linux: LinuxPodSandboxConfig) -> PodSandboxConfig {
    PodSandboxConfig {
        hostname: "web".into(),
        linux: MessageField::some(linux),
        ..Default::default()
    }
}

#[test]
fn a_pods_settings_reach_its_spec() {
    let linux = LinuxPodSandboxConfig {
        cgroup_parent: "/kubepods/burstable/pod1".into(),
        resources: MessageField::some(LinuxContainerResources {
            memory_limit_in_bytes: 1 << 30,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            ..Default::default()
        }),
        overhead: MessageField::some(LinuxContainerResources {
            memory_limit_in_bytes: 1 << 20,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut config = with_linux(linux);
    config.annotations.insert("a".into(), "1".into());
    let sandbox = Sandbox::read("k8s.io", request(&config)).unwrap();
    let spec = sandbox.spec;
    assert_eq!(
        (spec.namespace.as_str(), spec.id.as_str(), spec.hostname.as_deref()),
        ("k8s.io", "s1", Some("web"))
    );
    assert_eq!(spec.network_namespace, Some(PathBuf::from("/var/run/netns/cni-1")));
    assert_eq!(spec.cgroup_path.as_deref(), Some("/kubepods/burstable/pod1/s1"));
    assert_eq!(spec.resources.memory_bytes, Some(1 << 30));
    assert_eq!(
        (spec.resources.cpu_quota_us, spec.resources.cpu_period_us),
        (Some(50_000), Some(100_000))
    );
    assert_eq!(spec.annotations.get("a").map(String::as_str), Some("1"));
}

#[test]
fn the_ids_of_a_security_context_are_the_pods() {
    let context = LinuxSandboxSecurityContext {
        run_as_user: MessageField::some(Int64Value {
            value: 1_000_650_000,
            ..Default::default()
        }),
        supplemental_groups: vec![5, -1, 70_000],
        namespace_options: MessageField::some(user_namespace(NamespaceMode::POD)),
        ..Default::default()
    };
    let linux = LinuxPodSandboxConfig {
        security_context: MessageField::some(context),
        ..Default::default()
    };
    let sandbox = Sandbox::read("k8s.io", request(&with_linux(linux))).unwrap();
    assert_eq!(sandbox.spec.ids.single, [5, 70_000, 1_000_650_000].into());
    assert_eq!(sandbox.spec.ids.ranges, [200_000..=265_535, 300_000..=300_009]);
}

#[test]
fn the_host_s_user_namespace_adds_none() {
    let context = LinuxSandboxSecurityContext {
        namespace_options: MessageField::some(user_namespace(NamespaceMode::NODE)),
        ..Default::default()
    };
    let linux = LinuxPodSandboxConfig {
        security_context: MessageField::some(context),
        ..Default::default()
    };
    let sandbox = Sandbox::read("k8s.io", request(&with_linux(linux))).unwrap();
    assert!(sandbox.spec.ids.ranges.is_empty());
}

fn user_namespace(mode: NamespaceMode) -> NamespaceOption {
    let line = |host_id, length| IDMapping {
        host_id,
        length,
        ..Default::default()
    };
    NamespaceOption {
        userns_options: MessageField::some(UserNamespace {
            mode: mode.into(),
            uids: vec![line(200_000, 65_536)],
            gids: vec![line(300_000, 10), line(7, 0)],
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn no_limits_and_no_config_are_fine() {
    let sandbox = Sandbox::read("k8s.io", request(&PodSandboxConfig::default())).unwrap();
    assert_eq!(sandbox.spec.resources, PodResources::default());
    assert_eq!(sandbox.spec.hostname, None);
    let bare = CreateSandboxRequest {
        sandbox_id: "s1".into(),
        ..Default::default()
    };
    assert_eq!(Sandbox::read("x", bare).unwrap().spec.network_namespace, None);
}

#[test]
fn the_systemd_drivers_parent_becomes_its_three_parts() {
    let id = ContainerId::try_from("s1").unwrap();
    let parent = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice";
    assert_eq!(
        cgroup_path(parent, &id),
        "kubepods-burstable-pod1.slice:cri-containerd:s1"
    );
}

#[test]
fn host_namespaces_are_refused_by_their_kubernetes_name() {
    let node = || NamespaceMode::NODE.into();
    for (options, name) in [
        (
            NamespaceOption {
                network: node(),
                ..Default::default()
            },
            "hostNetwork",
        ),
        (
            NamespaceOption {
                pid: node(),
                ..Default::default()
            },
            "hostPID",
        ),
        (
            NamespaceOption {
                ipc: node(),
                ..Default::default()
            },
            "hostIPC",
        ),
    ] {
        let context = LinuxSandboxSecurityContext {
            namespace_options: MessageField::some(options),
            ..Default::default()
        };
        let linux = LinuxPodSandboxConfig {
            security_context: MessageField::some(context),
            ..Default::default()
        };
        let error = Sandbox::read("k8s.io", request(&with_linux(linux))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn malformed_requests_are_refused() {
    let mut bad_id = request(&PodSandboxConfig::default());
    bad_id.sandbox_id = "../s".into();
    assert!(Sandbox::read("x", bad_id).is_err());
    let mut garbage = request(&PodSandboxConfig::default());
    garbage.options.as_mut().unwrap().value = vec![0xff; 5];
    assert!(
        Sandbox::read("x", garbage)
            .unwrap_err()
            .to_string()
            .contains("malformed")
    );
    let mut other = request(&PodSandboxConfig::default());
    other.options.as_mut().unwrap().type_url = "x.Y".into();
    assert!(Sandbox::read("x", other).unwrap_err().to_string().contains("x.Y"));
    let long = PodSandboxConfig {
        hostname: "h".repeat(65),
        ..Default::default()
    };
    assert!(
        Sandbox::read("x", request(&long))
            .unwrap_err()
            .to_string()
            .contains("host name")
    );
}
