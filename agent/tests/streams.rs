//! Standard streams and terminals, end to end. Needs what tests/containers.rs needs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test fails by panicking

mod pod;

use bulkhead_agent_protocol::agent::Stdio;
use pod::{Pod, Streams, process, spec};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

/// Bytes of all values in no simple order.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test]
async fn many_bytes_pass_unchanged_through_a_slow_reader() {
    let pod = Pod::start().await;
    let (stdio, streams) = Streams::all(&pod).await;
    pod.create("c", &spec(&["cat"]), stdio).await.unwrap();
    pod.start_container("c").await.unwrap();
    let sent = noise(16 << 20);
    let (mut stdin, mut stdout) = (streams.stdin.unwrap(), streams.stdout.unwrap());
    let send = async {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let receive = async {
        sleep(Duration::from_millis(300)).await;
        let mut received = Vec::new();
        stdout.read_to_end(&mut received).await.unwrap();
        received
    };
    let ((), received) = tokio::join!(send, receive);
    assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
    assert_eq!(
        pod.wait("c", "").await.exit_status,
        0,
        "the end of stdin ended the program"
    );
}

#[tokio::test]
async fn output_of_an_ended_process_is_not_lost() {
    let pod = Pod::start().await;
    let (stdio, streams) = Streams::output(&pod).await;
    pod.create("c", &spec(&["sh", "-c", "head -c 50000 /dev/zero"]), stdio)
        .await
        .unwrap();
    pod.start_container("c").await.unwrap();
    assert_eq!(pod.wait("c", "").await.exit_status, 0);
    pod.delete("c", "").await.unwrap();
    assert_eq!(streams.read().await.0.len(), 50_000);
}

#[tokio::test]
async fn a_dropped_stdout_breaks_the_pipe() {
    let pod = Pod::start().await;
    pod.run_idle("c").await;
    let (stdio, streams) = Streams::output(&pod).await;
    pod.exec("c", "e", &process(&["yes"]), stdio).await.unwrap();
    drop(streams);
    // Not for an init: the kernel shields PID 1 of a namespace from SIGPIPE.
    assert_eq!(pod.wait("c", "e").await.exit_status, 128 + 13);
    pod.end("c").await;
}

#[tokio::test]
async fn a_background_process_keeps_stdout_open() {
    let pod = Pod::start().await;
    pod.run_idle("c").await;
    let (stdio, streams) = Streams::output(&pod).await;
    let script = "(sleep 0.5; echo late) & echo early";
    pod.exec("c", "e", &process(&["sh", "-c", script]), stdio)
        .await
        .unwrap();
    pod.wait("c", "e").await;
    assert_eq!(streams.read().await.0, "early\nlate\n");
    pod.end("c").await;
}

#[tokio::test]
async fn without_streams_a_process_has_dev_null() {
    let pod = Pod::start().await;
    pod.create(
        "c",
        &spec(&["sh", "-c", "cat && echo x && echo y >&2 && ls /proc/self/fd > /tmp/fds"]),
        Stdio::default(),
    )
    .await
    .unwrap();
    pod.start_container("c").await.unwrap();
    assert_eq!(pod.wait("c", "").await.exit_status, 0);
    let fds = std::fs::read_to_string(pod.rootfs().join("tmp/fds")).unwrap();
    assert_eq!(
        fds, "0\n1\n2\n3\n",
        "no descriptor of the agent reaches the program (3 is that of ls)"
    );
}

#[tokio::test]
async fn a_stream_that_never_comes_fails_the_creation_in_bounded_time() {
    let pod = Pod::start().await;
    let began = Instant::now();
    let stdio = Stdio {
        stdout_stream: 999,
        ..Default::default()
    };
    let error = pod.create("c", &spec(&["true"]), stdio).await.unwrap_err();
    assert!(error.message().contains("stream 999"), "{}", error.message());
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(pod.is_clean());
}

/// Reads a terminal's output until it contains `wanted`.
async fn read_until(stream: &mut tokio::net::UnixStream, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut buffer = [0; 1024];
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut buffer));
        let count = read
            .await
            .unwrap_or_else(|_| panic!("{wanted:?} does not come, only {text:?}"))
            .unwrap();
        assert!(count > 0, "{wanted:?} did not come, only {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    text
}

#[tokio::test]
async fn an_init_with_a_terminal() {
    let pod = Pod::start().await;
    let (stdio, streams) = Streams::terminal(&pod, 101, 33).await;
    let mut spec = spec(&["sh"]);
    spec["process"]["terminal"] = true.into();
    pod.create("c", &spec, stdio).await.unwrap();
    pod.start_container("c").await.unwrap();
    let (mut stdin, mut stdout) = (streams.stdin.unwrap(), streams.stdout.unwrap());
    stdin.write_all(b"tty; stty size; echo e\"\"nd\n").await.unwrap();
    let text = read_until(&mut stdout, "\nend\r\n").await;
    assert!(
        text.contains("/dev/pts/0\r\n") && text.contains("33 101\r\n"),
        "{text:?}"
    );
    pod.resize("c", 40, 20).await.unwrap();
    stdin
        .write_all(b"stty size; ls -l /dev/console; echo e\"\"nd\n")
        .await
        .unwrap();
    let text = read_until(&mut stdout, "\nend\r\n").await;
    assert!(text.contains("20 40\r\n") && text.contains("/dev/console"), "{text:?}");
    stdin.write_all(b"exit 4\n").await.unwrap();
    assert_eq!(pod.wait("c", "").await.exit_status, 4);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).await.unwrap();
    pod.delete("c", "").await.unwrap();
}

#[tokio::test]
async fn an_exec_with_a_terminal_as_another_user() {
    let pod = Pod::start().await;
    pod.run_idle("c").await;
    let (stdio, streams) = Streams::terminal(&pod, 77, 11).await;
    let mut process = process(&[
        "sh",
        "-c",
        "stty size; id -u; echo direct > $(tty); read line; echo got $line",
    ]);
    process["user"] = serde_json::json!({"uid": 1000, "gid": 1000});
    pod.exec("c", "e", &process, stdio).await.unwrap();
    let (mut stdin, mut stdout) = (streams.stdin.unwrap(), streams.stdout.unwrap());
    read_until(&mut stdout, "11 77\r\n1000\r\ndirect\r\n").await;
    stdin.write_all(b"word\n").await.unwrap();
    read_until(&mut stdout, "got word\r\n").await;
    assert_eq!(pod.wait("c", "e").await.exit_status, 0);
    pod.end("c").await;
}

#[tokio::test]
async fn a_terminal_that_nobody_reads_does_not_stop_the_program() {
    let pod = Pod::start().await;
    let (stdio, streams) = Streams::terminal(&pod, 0, 0).await;
    let mut spec = spec(&["sh", "-c", "head -c 1000000 /dev/zero; exit 5"]);
    spec["process"]["terminal"] = true.into();
    pod.create("c", &spec, stdio).await.unwrap();
    drop(streams);
    pod.start_container("c").await.unwrap();
    assert_eq!(pod.wait("c", "").await.exit_status, 5);
}
