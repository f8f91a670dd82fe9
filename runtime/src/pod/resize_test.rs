use std::collections::HashMap;

use super::{Config, PodResources, PodSpec, Quota, Size, Sizes};
use crate::ids::ContainerId;
use crate::pod::GuestIds;
use crate::pod::sizing::Fixed;

fn sizes(resources: PodResources) -> Sizes {
    let size = Size {
        vcpus: 1,
        max_vcpus: 1,
        memory_mib: 1024 + 16 + 64,
        max_memory_mib: 4096,
        grows: false,
        growth_mib: 4096,
        fixed: Fixed::default(),
        host_memory_bytes: None,
    };
    let spec = PodSpec {
        namespace: "test".into(),
        id: ContainerId::try_from("pod").unwrap(),
        hostname: None,
        network_namespace: None,
        cgroup_path: None,
        resources,
        oom_score_adj: None,
        ids: GuestIds::default(),
        annotations: HashMap::new(),
    };
    Sizes::new(size, &spec, &Config::default())
}

#[test]
fn a_machine_is_as_large_as_one_that_boots_with_the_same_limit_and_never_smaller_than_at_first() {
    let sizes = sizes(PodResources::default());
    for (limit, machine) in [
        (512, 1104),
        (1024, 1104),
        (2048, 2048 + 32 + 64),
        (65_536, 4096),
        (u64::MAX, 4096),
        (1, 1104),
    ] {
        assert_eq!(sizes.machine_for(limit), machine, "{limit} MiB");
    }
}

#[test]
fn a_pod_begins_with_the_quota_of_its_specification() {
    let sizes = sizes(PodResources {
        cpu_quota_us: Some(50_000),
        ..PodResources::default()
    });
    let now = sizes.now.try_lock().unwrap();
    assert_eq!(
        now.host_quota,
        Some(Quota {
            us: 50_000,
            period_us: 100_000
        })
    );
}
