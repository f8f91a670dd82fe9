//! Drives the agent's program through its protocol: real containers, in namespaces of the test's own, without a monitor.
//!
//! Needs root, cgroup v2 (mounted for the test), util-linux and busybox-static.

mod pod;

use pod::{Pod, Streams, spec};

#[tokio::test]
async fn echo_comes_back_and_the_exit_status_is_told() {
    let pod = Pod::start().await;
    let (stdio, streams) = Streams::output(&pod).await;
    pod.create("c", &spec(&["sh", "-c", "echo out; echo err >&2; exit 7"]), stdio)
        .await
        .unwrap();
    pod.start_container("c").await.unwrap();
    let (out, err) = streams.read().await;
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    assert_eq!(pod.wait("c", "").await.exit_status, 7);
    assert_eq!(pod.delete("c", "").await.unwrap().exit_status, 7);
    assert!(pod.is_clean());
}
