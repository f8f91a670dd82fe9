//! Limits and out-of-memory kills. Needs what tests/containers.rs needs, and the memory, cpu and pids controllers on the cgroup
//! v2 tree: a machine that has them on v1 hierarchies cannot run these, says so and leaves them to the test host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test fails by panicking

mod pod;

use bulkhead_agent_protocol::agent::{ContainerRequest, Empty};
use pod::{Pod, Streams, process, spec};
use serde_json::json;
use std::time::Duration;

async fn pod_with_controllers() -> Option<Pod> {
    let pod = Pod::start().await;
    let inside = format!(
        "/proc/{}/root/sys/fs/cgroup/pod/cgroup.subtree_control",
        pod.agent_pid()
    );
    let controllers = std::fs::read_to_string(inside).unwrap();
    if ["memory", "cpu", "pids"]
        .iter()
        .all(|name| controllers.split_whitespace().any(|controller| controller == *name))
    {
        return Some(pod);
    }
    eprintln!(
        "not run: the controllers on this machine's cgroup v2 tree are only {:?}",
        controllers.trim()
    );
    None
}

#[tokio::test]
async fn limits_show_in_the_containers_own_cgroup() {
    let Some(pod) = pod_with_controllers().await else {
        return;
    };
    let files = "memory.max memory.low cpu.max cpu.weight pids.max";
    let script = format!("cd /sys/fs/cgroup; for file in {files}; do cat $file; done");
    let mut spec = spec(&["sh", "-c", &script]);
    spec["linux"]["resources"] = json!({
        "memory": {"limit": 33_554_432, "reservation": 4_194_304, "swap": 67_108_864},
        "cpu": {"shares": 1024, "quota": 150_000, "period": 100_000, "cpus": "0-63"},
        "pids": {"limit": 77}, "blockIO": {"weight": 100}
    });
    let (stdio, streams) = Streams::output(&pod).await;
    pod.create("c", &spec, stdio).await.unwrap();
    pod.start_container("c").await.unwrap();
    assert_eq!(streams.read().await.0, "33554432\n4194304\n150000 100000\n100\n77\n");
    let request = ContainerRequest {
        container_id: "c".into(),
        ..Default::default()
    };
    let stats = pod
        .client
        .stats(ttrpc::context::with_duration(Duration::from_secs(5)), &request)
        .await
        .unwrap();
    assert_eq!(stats.files["memory.max"], "33554432\n");
    assert!(stats.files["cpu.stat"].starts_with("usage_usec "));
    pod.wait("c", "").await;
    pod.delete("c", "").await.unwrap();
    assert!(pod.is_clean());
}

#[tokio::test]
async fn a_limit_that_the_kernel_refuses_fails_the_creation() {
    let Some(pod) = pod_with_controllers().await else {
        return;
    };
    let mut spec = spec(&["true"]);
    spec["linux"]["resources"] = json!({"unified": {"memory.nosuch": "1"}});
    let error = pod.create("c", &spec, Default::default()).await.unwrap_err();
    assert!(error.message().contains("memory.nosuch"), "{}", error.message());
    assert!(pod.is_clean());
}

#[tokio::test]
async fn an_out_of_memory_kill_is_told_and_remembered() {
    let Some(pod) = pod_with_controllers().await else {
        return;
    };
    let mut spec = spec(&["sh", "-c", "tail /dev/zero; echo survived; sleep 1000"]);
    spec["linux"]["resources"] = json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}});
    let (stdio, mut streams) = Streams::output(&pod).await;
    pod.create("c", &spec, stdio).await.unwrap();
    pod.start_container("c").await.unwrap();
    let patience = ttrpc::context::with_duration(Duration::from_secs(60));
    let event = pod.client.next_event(patience, &Empty::default()).await.unwrap();
    assert_eq!(event.oom_container_id, "c");
    streams.stderr = None;
    pod.signal("c", "", 9, false).await.unwrap();
    assert!(pod.wait("c", "").await.oom_killed);
    assert_eq!(streams.read().await.0, "survived\n");
    assert!(pod.delete("c", "").await.unwrap().oom_killed);
}

#[tokio::test]
async fn too_many_processes_are_refused_in_the_container_alone() {
    let Some(pod) = pod_with_controllers().await else {
        return;
    };
    let mut spec = spec(&["sleep", "1000"]);
    spec["linux"]["resources"] = json!({"pids": {"limit": 8}});
    pod.create("c", &spec, Default::default()).await.unwrap();
    pod.start_container("c").await.unwrap();
    let (stdio, mut streams) = Streams::output(&pod).await;
    // The sleeping children keep stdout, the shell's complaint comes on stderr.
    streams.stdout = None;
    let bomb = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 2>/dev/null & done";
    pod.exec("c", "e", &process(&["sh", "-c", bomb]), stdio).await.unwrap();
    let (_, complaint) = streams.read().await;
    assert!(complaint.contains("can't fork"), "{complaint}");
    assert_ne!(pod.wait("c", "e").await.exit_status, 0);
    pod.hello().await;
    pod.end("c").await;
    assert!(pod.is_clean());
}

#[tokio::test]
async fn a_limit_below_what_is_in_use_is_refused_instead_of_killing() {
    let Some(pod) = pod_with_controllers().await else {
        return;
    };
    pod.run_idle("c").await;
    let fill = process(&["sh", "-c", "head -c 8000000 /dev/zero >/run/full"]);
    pod.run_exec("c", "fill", &fill).await;
    let checked = |limit: u32| json!({"memory": {"limit": limit, "checkBeforeUpdate": true}});
    let error = pod.update("c", &checked(4_194_304)).await.unwrap_err();
    assert!(
        error.message().contains("rejecting memory limit 4194304 <= usage"),
        "{}",
        error.message()
    );
    pod.update("c", &checked(33_554_432)).await.unwrap();
    let (limit, _) = pod
        .run_exec("c", "see", &process(&["cat", "/sys/fs/cgroup/memory.max"]))
        .await;
    assert_eq!(limit, "33554432\n");
    pod.end("c").await;
}

#[tokio::test]
async fn a_quota_and_its_burst_grow_and_shrink_together() {
    let Some(pod) = pod_with_controllers().await else {
        return;
    };
    pod.run_idle("c").await;
    for (quota, burst) in [(40_000, 30_000), (20_000, 10_000), (90_000, 80_000)] {
        let wanted = json!({"cpu": {"quota": quota, "period": 100_000, "burst": burst}});
        pod.update("c", &wanted).await.unwrap();
        let see = process(&["cat", "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu.max.burst"]);
        let (text, _) = pod.run_exec("c", &format!("see-{quota}"), &see).await;
        assert_eq!(text, format!("{quota} 100000\n{burst}\n"));
    }
    let too_much = json!({"cpu": {"quota": 10_000, "burst": 20_000}});
    assert!(pod.update("c", &too_much).await.is_err());
    pod.end("c").await;
}
