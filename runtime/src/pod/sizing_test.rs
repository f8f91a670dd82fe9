use std::collections::HashMap;

use super::{Fixed, Host, MEMORY_ANNOTATION, Size, VCPUS_ANNOTATION, vcpus_of};
use crate::config::Config;
use crate::error::ErrorKind;
use crate::ids::ContainerId;
use crate::pod::demand::Quota;
use crate::pod::types::{PodResources, PodSpec};

const HOST: Host = Host {
    cpus: 8,
    memory_mib: 4096,
};

fn pod(resources: PodResources, annotations: &[(&str, &str)]) -> PodSpec {
    PodSpec {
        namespace: "default".into(),
        id: ContainerId::try_from("p").unwrap(),
        hostname: None,
        network_namespace: None,
        cgroup_path: None,
        resources,
        oom_score_adj: None,
        ids: Default::default(),
        annotations: annotations
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect::<HashMap<_, _>>(),
    }
}

#[test]
fn a_pod_without_limits_gets_the_defaults_and_no_host_limit() {
    let config = Config {
        default_vcpus: Some(1),
        ..Config::default()
    };
    let size = Size::of(&pod(PodResources::default(), &[]), &config, &HOST).unwrap();
    assert_eq!(
        size,
        Size {
            vcpus: 1,
            max_vcpus: 8,
            memory_mib: 512,
            max_memory_mib: 4096,
            grows: true,
            growth_mib: 4096,
            fixed: Fixed::default(),
            host_memory_bytes: None
        }
    );
}

#[test]
fn a_memory_limit_is_what_the_workload_can_use() {
    let limit = PodResources {
        memory_bytes: Some((100 << 20) + 1),
        ..Default::default()
    };
    let size = Size::of(&pod(limit, &[]), &Config::default(), &HOST).unwrap();
    assert_eq!(size.memory_mib, 101 + 1 + 64);
    assert_eq!(size.host_memory_bytes, Some((101 + 1 + 64 + 128) << 20));
    let large = PodResources {
        memory_bytes: Some(2 << 30),
        ..Default::default()
    };
    let size = Size::of(&pod(large, &[]), &Config::default(), &HOST).unwrap();
    assert_eq!(size.memory_mib, 2048 + 32 + 64);
    assert_eq!(size.host_memory_bytes, Some((2144 + 8 + 128) << 20));
    let tiny = PodResources {
        memory_bytes: Some(4 << 20),
        ..Default::default()
    };
    assert_eq!(
        Size::of(&pod(tiny, &[]), &Config::default(), &HOST).unwrap().memory_mib,
        68
    );
}

#[test]
fn quotas_and_sets_of_cpus_give_whole_vcpus() {
    let config = Config {
        default_vcpus: Some(3),
        max_vcpus: 32,
        ..Config::default()
    };
    let vcpus = |quota, set: Option<&str>| {
        let resources = PodResources {
            cpu_quota_us: quota,
            cpu_period_us: Some(100_000),
            ..Default::default()
        };
        vcpus_of(Quota::of(&resources), set, &config, 8)
    };
    assert_eq!(vcpus(Some(150_000), None), 2);
    assert_eq!(vcpus(Some(1), None), 1);
    assert_eq!(vcpus(Some(6_400_000), None), 8);
    assert_eq!(vcpus(Some(400_000), Some("0-1")), 2);
    assert_eq!(vcpus(None, Some("0,2,5-7")), 5);
    assert_eq!(vcpus(None, None), 3);
}

#[test]
fn annotations_decide_and_are_checked() {
    let config = Config {
        max_vcpus: 4,
        ..Config::default()
    };
    let size = Size::of(
        &pod(
            PodResources::default(),
            &[(VCPUS_ANNOTATION, "4"), (MEMORY_ANNOTATION, "100")],
        ),
        &config,
        &HOST,
    );
    assert_eq!(
        size.unwrap(),
        Size {
            vcpus: 4,
            max_vcpus: 4,
            memory_mib: 100,
            max_memory_mib: 4096,
            grows: false,
            growth_mib: 4096,
            fixed: Fixed {
                vcpus: true,
                memory: true
            },
            host_memory_bytes: Some(228 << 20)
        }
    );
    for (key, value) in [
        (VCPUS_ANNOTATION, "5"),
        (VCPUS_ANNOTATION, "0"),
        (VCPUS_ANNOTATION, "many"),
        (MEMORY_ANNOTATION, "63"),
    ] {
        let error = Size::of(&pod(PodResources::default(), &[(key, value)]), &config, &HOST).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(value), "{error}");
    }
}

#[test]
fn a_limit_above_the_hosts_memory_means_all_of_it_and_a_wish_is_refused() {
    let limit = PodResources {
        memory_bytes: Some(1 << 40),
        ..Default::default()
    };
    let size = Size::of(&pod(limit, &[]), &Config::default(), &HOST).unwrap();
    assert_eq!(size.memory_mib, 4096);
    let error = Size::of(
        &pod(PodResources::default(), &[(MEMORY_ANNOTATION, "4097")]),
        &Config::default(),
        &HOST,
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("64 to 4096") && error.contains(MEMORY_ANNOTATION),
        "{error}"
    );
    let config = Config {
        default_memory_mib: 5000,
        ..Config::default()
    };
    let error = Size::of(&pod(PodResources::default(), &[]), &config, &HOST)
        .unwrap_err()
        .to_string();
    assert!(error.contains("default_memory_mib"), "{error}");
}

#[test]
fn a_mistyped_annotation_is_refused() {
    let error = Size::of(
        &pod(PodResources::default(), &[("io.bulkhead.vcpu", "2")]),
        &Config::default(),
        &HOST,
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("io.bulkhead.vcpu\"") && error.contains(VCPUS_ANNOTATION),
        "{error}"
    );
}
