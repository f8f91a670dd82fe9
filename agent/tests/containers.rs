//! The life of containers and execs, driven through the agent's protocol: real containers in namespaces of the test's own,
//! without a monitor. Needs root, cgroup v2 (mounted for the test), util-linux and busybox-static.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test fails by panicking

mod pod;

use bulkhead_agent_protocol::agent::Stdio;
use pod::{Pod, Streams, process, spec};
use serde_json::json;
use std::time::Duration;
use tokio::time::sleep;
use ttrpc::Code;

#[tokio::test]
async fn echo_comes_back_and_the_exit_status_is_told() {
    let pod = Pod::start().await;
    pod.hello().await;
    let (stdio, streams) = Streams::output(&pod).await;
    pod.create("c", &spec(&["sh", "-c", "echo out; echo err >&2; exit 7"]), stdio)
        .await
        .unwrap();
    pod.start_container("c").await.unwrap();
    let (out, err) = streams.read().await;
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    assert_eq!(pod.wait("c", "").await.exit_status, 7);
    let answer = pod.delete("c", "").await.unwrap();
    assert!(answer.exit_status == 7 && answer.exited_at_ns > 0 && !answer.oom_killed);
    assert!(pod.is_clean());
    assert_eq!(pod.delete("c", "").await.unwrap_err().code(), Code::NOT_FOUND);
}

#[tokio::test]
async fn a_program_that_cannot_run_fails_the_creation_and_leaves_nothing() {
    let pod = Pod::start().await;
    let cases: [(&[&str], &str); 4] = [
        (&["nosuch"], r#"exec: "nosuch": executable file not found in $PATH"#),
        (
            &["/nosuch"],
            r#"exec: "/nosuch": stat /nosuch: no such file or directory"#,
        ),
        (&["/etc/passwd"], r#"exec: "/etc/passwd": permission denied"#),
        (&["/etc"], r#"exec: "/etc": is a directory"#),
    ];
    for (args, expected) in cases {
        let error = pod.create("c", &spec(args), Stdio::default()).await.unwrap_err();
        assert!(error.message().contains(expected), "{}", error.message());
    }
    let mut no_directory = spec(&["true"]);
    no_directory["process"]["cwd"] = "/etc/passwd".into();
    let error = pod.create("c", &no_directory, Stdio::default()).await.unwrap_err();
    assert!(
        error.message().contains("mkdir /etc/passwd: not a directory"),
        "{}",
        error.message()
    );
    let error = pod.create("a/b", &spec(&["true"]), Stdio::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::INVALID_ARGUMENT);
    assert!(pod.is_clean());
}

#[tokio::test]
async fn a_program_that_the_kernel_refuses_ends_with_255_and_says_why() {
    let pod = Pod::start().await;
    let script = pod.rootfs().join("bin/nothing");
    std::fs::write(&script, "no program").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (stdio, streams) = Streams::output(&pod).await;
    pod.create("c", &spec(&["nothing"]), stdio).await.unwrap();
    pod.start_container("c").await.unwrap();
    assert_eq!(streams.read().await.1, "exec /bin/nothing: exec format error\n");
    assert_eq!(pod.wait("c", "").await.exit_status, 255);
}

#[tokio::test]
async fn a_missing_working_directory_is_made() {
    let pod = Pod::start().await;
    let mut spec = spec(&["pwd"]);
    spec["process"]["cwd"] = "/new/place".into();
    let (stdio, streams) = Streams::output(&pod).await;
    pod.create("c", &spec, stdio).await.unwrap();
    pod.start_container("c").await.unwrap();
    assert_eq!(streams.read().await.0, "/new/place\n");
    assert!(pod.rootfs().join("new/place").is_dir());
}

#[tokio::test]
async fn a_missing_working_directory_is_made_in_mounts_and_behind_links() {
    let pod = Pod::start().await;
    std::os::unix::fs::symlink("/run", pod.rootfs().join("link")).unwrap();
    let script = "readlink /proc/self/cwd; stat -c '%a %u %g' . ..; touch x; touch /x";
    for (cwd, place) in [
        ("/run/app/deep", "/run/app/deep"),
        ("/link/app/deep", "/run/app/deep"),
        ("/new/place", "/new/place"),
    ] {
        let mut spec = spec(&["sh", "-c", script]);
        spec["process"]["cwd"] = cwd.into();
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1001, "umask": 63});
        spec["process"]["capabilities"] = json!({});
        spec["root"]["readonly"] = true.into();
        let (stdio, streams) = Streams::output(&pod).await;
        pod.create("c", &spec, stdio).await.unwrap();
        pod.start_container("c").await.unwrap();
        let (out, complaints) = streams.read().await;
        assert_eq!(out, format!("{place}\n755 0 0\n755 0 0\n"));
        assert!(
            complaints.contains("touch: x: ") && complaints.contains("/x: Read-only"),
            "{complaints}"
        );
        pod.wait("c", "").await;
        pod.delete("c", "").await.unwrap();
    }
    assert!(
        !pod.rootfs().join("run/app").exists(),
        "the image has none of what was made in the tmpfs"
    );
}

#[tokio::test]
async fn execs_run_in_the_container_and_report_their_own_status() {
    let pod = Pod::start().await;
    pod.run_idle("c").await;
    let (text, status) = pod
        .run_exec("c", "e", &process(&["sh", "-c", "hostname; echo $COLOUR; exit 3"]))
        .await;
    assert_eq!((text.as_str(), status), ("inside\nblue\n", 3));
    let (text, _) = pod.run_exec("c", "e", &process(&["cat", "/proc/1/comm"])).await;
    assert_eq!(text, "sleep\n", "the exec sees the container's processes");
    let (text, _) = pod
        .run_exec("c", "e", &process(&["grep", "^0:", "/proc/self/cgroup"]))
        .await;
    assert_eq!(text, "0::/\n", "and lives in its cgroup");
    let error = pod
        .exec("c", "e", &process(&["nosuch"]), Stdio::default())
        .await
        .unwrap_err();
    assert!(
        error
            .message()
            .contains(r#"exec: "nosuch": executable file not found in $PATH"#),
        "{}",
        error.message()
    );
    let mut bad_cwd = process(&["true"]);
    bad_cwd["cwd"] = "/nowhere".into();
    let error = pod.exec("c", "e", &bad_cwd, Stdio::default()).await.unwrap_err();
    assert!(
        error
            .message()
            .contains(r#"chdir to cwd ("/nowhere") set in config.json failed: no such file or directory"#)
    );
    pod.end("c").await;
    assert!(pod.is_clean());
}

#[tokio::test]
async fn execs_end_with_their_container() {
    let pod = Pod::start().await;
    pod.run_idle("c").await;
    pod.exec("c", "e", &process(&["sleep", "1000"]), Stdio::default())
        .await
        .unwrap();
    assert_eq!(pod.pids("c").await.len(), 2);
    assert_eq!(
        pod.delete("c", "e").await.unwrap_err().code(),
        Code::FAILED_PRECONDITION
    );
    assert_eq!(
        pod.delete("c", "").await.unwrap_err().code(),
        Code::FAILED_PRECONDITION,
        "running"
    );
    pod.signal("c", "", 9, false).await.unwrap();
    assert_eq!(pod.wait("c", "").await.exit_status, 137);
    assert_eq!(pod.wait("c", "e").await.exit_status, 137);
    let error = pod
        .exec("c", "late", &process(&["true"]), Stdio::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::FAILED_PRECONDITION);
    pod.delete("c", "").await.unwrap();
    assert!(pod.is_clean());
}

#[tokio::test]
async fn signals_reach_one_process_or_all() {
    let pod = Pod::start().await;
    pod.create(
        "c",
        &spec(&["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.1; done"]),
        Stdio::default(),
    )
    .await
    .unwrap();
    pod.start_container("c").await.unwrap();
    // Not SIGHUP: under nohup it is ignored from the test on down.
    for (exec_id, signal) in [("a", 15), ("b", 10), ("rt", 40)] {
        pod.exec("c", exec_id, &process(&["sleep", "1000"]), Stdio::default())
            .await
            .unwrap();
        pod.signal("c", exec_id, signal, false).await.unwrap();
        assert_eq!(pod.wait("c", exec_id).await.exit_status, 128 + signal);
        assert_eq!(
            pod.signal("c", exec_id, 15, false).await.unwrap_err().code(),
            Code::NOT_FOUND,
            "it has ended"
        );
    }
    pod.exec("c", "d", &process(&["sleep", "1000"]), Stdio::default())
        .await
        .unwrap();
    assert_eq!(
        pod.signal("c", "", 0, false).await.unwrap_err().code(),
        Code::INVALID_ARGUMENT
    );
    assert_eq!(
        pod.signal("c", "", 65, false).await.unwrap_err().code(),
        Code::INVALID_ARGUMENT
    );
    sleep(Duration::from_millis(200)).await;
    pod.signal("c", "", 15, true).await.unwrap();
    assert_eq!(pod.wait("c", "d").await.exit_status, 143);
    assert_eq!(pod.wait("c", "").await.exit_status, 9);
    pod.delete("c", "").await.unwrap();
}

#[tokio::test]
async fn states_are_guarded() {
    let pod = Pod::start().await;
    assert_eq!(pod.start_container("c").await.unwrap_err().code(), Code::NOT_FOUND);
    pod.create("c", &spec(&["sleep", "1000"]), Stdio::default())
        .await
        .unwrap();
    let error = pod.create("c", &spec(&["true"]), Stdio::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::ALREADY_EXISTS);
    pod.start_container("c").await.unwrap();
    assert_eq!(
        pod.start_container("c").await.unwrap_err().code(),
        Code::FAILED_PRECONDITION
    );
    pod.exec("c", "e", &process(&["sleep", "1000"]), Stdio::default())
        .await
        .unwrap();
    let error = pod
        .exec("c", "e", &process(&["true"]), Stdio::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::ALREADY_EXISTS);
    assert_eq!(
        pod.resize("c", 80, 25).await.unwrap_err().code(),
        Code::FAILED_PRECONDITION,
        "no terminal"
    );
    pod.end("c").await;
}

#[tokio::test]
async fn a_container_that_was_never_started_can_be_killed_and_deleted() {
    let pod = Pod::start().await;
    pod.create("killed", &spec(&["true"]), Stdio::default()).await.unwrap();
    pod.signal("killed", "", 9, false).await.unwrap();
    assert_eq!(pod.wait("killed", "").await.exit_status, 137);
    assert_eq!(
        pod.start_container("killed").await.unwrap_err().code(),
        Code::FAILED_PRECONDITION
    );
    pod.delete("killed", "").await.unwrap();
    pod.create("deleted", &spec(&["true"]), Stdio::default()).await.unwrap();
    assert_eq!(pod.delete("deleted", "").await.unwrap().exit_status, 137);
    assert!(pod.is_clean());
}

#[tokio::test]
async fn a_frozen_container_stands_still_until_it_is_thawed_or_killed() {
    let pod = Pod::start().await;
    let (stdio, streams) = Streams::output(&pod).await;
    pod.create("c", &spec(&["sh", "-c", "while :; do echo x; sleep 0.01; done"]), stdio)
        .await
        .unwrap();
    pod.start_container("c").await.unwrap();
    pod.freeze("c", true).await.unwrap();
    let error = pod
        .exec("c", "e", &process(&["true"]), Stdio::default())
        .await
        .unwrap_err();
    assert!(error.message().contains("paused"), "{}", error.message());
    pod.freeze("c", false).await.unwrap();
    assert_eq!(pod.run_exec("c", "e", &process(&["true"])).await.1, 0);
    pod.freeze("c", true).await.unwrap();
    pod.signal("c", "", 9, true).await.unwrap();
    assert_eq!(pod.wait("c", "").await.exit_status, 137);
    assert!(streams.read().await.0.starts_with("x\n"));
    pod.delete("c", "").await.unwrap();
}

#[tokio::test]
async fn containers_of_a_pod_can_share_namespaces() {
    let pod = Pod::start().await;
    pod.run_idle("pause").await;
    let (stdio, streams) = Streams::output(&pod).await;
    let script = "sleep 1000 & hostname; cat /proc/1/comm";
    pod.create_sharing(
        "app",
        &spec(&["sh", "-c", script]),
        stdio,
        "pause",
        &["pid", "ipc", "uts"],
    )
    .await
    .unwrap();
    pod.start_container("app").await.unwrap();
    assert_eq!(pod.wait("app", "").await.exit_status, 0);
    assert_eq!(
        streams.read().await.0,
        "inside\nsleep\n",
        "what is left of the container ends with its init"
    );
    pod.delete("app", "").await.unwrap();
    let unknown = pod
        .create_sharing("x", &spec(&["true"]), Stdio::default(), "nobody", &["pid"])
        .await;
    assert_eq!(unknown.unwrap_err().code(), Code::NOT_FOUND);
    pod.end("pause").await;
    assert!(pod.is_clean());
}

#[tokio::test]
async fn ten_containers_at_once() {
    let pod = Pod::start().await;
    pod.hello().await;
    let before = pod.open_descriptors();
    let one = |number: usize| {
        let pod = &pod;
        async move {
            let id = format!("c{number}");
            let (stdio, streams) = Streams::output(pod).await;
            pod.create(&id, &spec(&["sh", "-c", &format!("echo {id}; exit {number}")]), stdio)
                .await
                .unwrap();
            pod.start_container(&id).await.unwrap();
            assert_eq!(streams.read().await.0, format!("{id}\n"));
            assert_eq!(pod.wait(&id, "").await.exit_status, number as u32);
            pod.delete(&id, "").await.unwrap();
        }
    };
    for _ in 0..2 {
        tokio::join!(
            one(0),
            one(1),
            one(2),
            one(3),
            one(4),
            one(5),
            one(6),
            one(7),
            one(8),
            one(9)
        );
    }
    assert!(pod.is_clean());
    sleep(Duration::from_millis(100)).await;
    assert_eq!(pod.open_descriptors(), before, "descriptors stay open");
    assert_eq!(pod.zombies(), 0);
}

#[tokio::test]
async fn orphans_are_reaped() {
    let pod = Pod::start().await;
    pod.run_idle("c").await;
    for _ in 0..5 {
        pod.run_exec("c", "e", &process(&["sh", "-c", "(sleep 0.05 &) ; true"]))
            .await;
    }
    pod.end("c").await;
    assert_eq!(pod.zombies(), 0);
}
