use serde_json::json;

use crate::error::ErrorKind;
use crate::ids::ContainerId;
use crate::pod::types::{PodResources, PodSpec};

fn id() -> ContainerId {
    ContainerId::try_from("p1").unwrap()
}

#[test]
fn a_container_brings_its_limits_network_and_cgroup() {
    let spec = json!({
        "hostname": "web",
        "process": { "oomScoreAdj": 100 },
        "annotations": { "io.bulkhead.vcpus": "2" },
        "linux": {
            "cgroupsPath": "/default/p1",
            "namespaces": [{ "type": "network", "path": "/var/run/netns/n" }],
            "resources": {
                "memory": { "limit": 1000 },
                "cpu": { "quota": -1, "period": 100000, "shares": 0, "cpus": "0-1" },
            },
        },
    });
    let pod = PodSpec::from_spec("default", id(), &spec).unwrap();
    assert_eq!(pod.hostname.as_deref(), Some("web"));
    assert_eq!(pod.network_namespace.unwrap().to_str(), Some("/var/run/netns/n"));
    assert_eq!(pod.cgroup_path.as_deref(), Some("/default/p1"));
    assert_eq!(pod.oom_score_adj, Some(100));
    assert_eq!(pod.annotations["io.bulkhead.vcpus"], "2");
    assert_eq!(
        pod.resources,
        PodResources {
            memory_bytes: Some(1000),
            cpu_period_us: Some(100_000),
            cpuset_cpus: Some("0-1".into()),
            ..Default::default()
        }
    );
}

#[test]
fn files_of_cgroups_that_mean_the_host_are_the_pods() {
    let with = |unified: serde_json::Value| {
        let resources = json!({ "cpu": { "cpus": "0", "mems": "0" }, "unified": unified });
        let linux = json!({ "namespaces": [{ "type": "network" }], "resources": resources });
        PodSpec::from_spec("default", id(), &json!({ "linux": linux }))
    };
    let files =
        json!({ "cpuset.cpus": "1-2", "cpuset.cpus.partition": "member", "io.max": "8:0 rbps=1", "memory.high": "7" });
    assert_eq!(
        with(files).unwrap().resources,
        PodResources {
            cpuset_cpus: Some("1-2".into()),
            cpuset_mems: Some("0".into()),
            unified: [("cpuset.cpus.partition", "member"), ("io.max", "8:0 rbps=1")]
                .map(|(file, value)| (file.to_owned(), value.to_owned()))
                .into(),
            ..Default::default()
        }
    );
    for (file, value) in [("io.x/../../memory.max", json!("1")), ("io.max", json!(1))] {
        let error = with(json!({ file: value })).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(file), "{error}");
    }
}

#[test]
fn a_sandbox_counts_by_the_pods_annotations() {
    let spec = json!({
        "process": { "oomScoreAdj": -998 },
        "annotations": {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-memory": "268435456",
            "io.kubernetes.cri.sandbox-cpu-quota": "0",
            "io.kubernetes.cri.sandbox-cpu-shares": "2",
        },
        "linux": {
            "namespaces": [{ "type": "network" }],
            "resources": { "memory": { "limit": 5 }, "cpu": { "shares": 2 } },
        },
    });
    let pod = PodSpec::from_spec("k8s.io", id(), &spec).unwrap();
    assert_eq!(pod.network_namespace, None);
    assert_eq!(pod.oom_score_adj, None);
    assert_eq!(
        pod.resources,
        PodResources {
            memory_bytes: Some(268_435_456),
            cpu_shares: Some(2),
            ..Default::default()
        }
    );
}

#[test]
fn the_hosts_network_is_refused() {
    let error = PodSpec::from_spec(
        "default",
        id(),
        &json!({ "linux": { "namespaces": [{ "type": "pid" }] } }),
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("host's network"), "{error}");
}
