use super::*;

#[test]
fn what_the_server_is_told_survives_the_way() {
    let launch = Launch {
        namespace: "k8s.io".into(),
        pod_id: "s1".into(),
        bundle: "/run/bundle".into(),
        address: "unix:///run/s/x".into(),
        events_address: "/run/c.ttrpc".into(),
        debug: true,
        oom_score_adj: Some(-998),
        options: RuntimeOptions {
            config_path: Some("/etc/b.toml".into()),
            shim_cgroup: Some("/shims".into()),
        },
        started_us: 12,
    };
    let file = memory_file(&serde_json::to_vec(&launch).unwrap()).unwrap();
    let flags = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_ne!(
        flags & nix::libc::FD_CLOEXEC,
        0,
        "programs that the server runs do not get it"
    );
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let read: Launch = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(read.bundle, launch.bundle);
    assert_eq!(read.options, launch.options);
    assert_eq!(
        (read.debug, read.oom_score_adj, read.started_us),
        (true, Some(-998), 12)
    );
}

fn child(script: &str) -> Child {
    Command::new("/bin/sh")
        .args(["-c", script])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_server_that_closes_the_pipe_is_ready() {
    let mut server = child("exec 2>/dev/null; sleep 30");
    wait_until_ready(&mut server).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn what_a_failing_server_says_reaches_the_caller() {
    let mut server = child("echo no mount namespace >&2; exit 1");
    let error = wait_until_ready(&mut server).unwrap_err().to_string();
    assert!(error.contains("no mount namespace"), "{error}");
    server.wait().unwrap();
}

#[test]
fn the_score_is_one_above_the_parents() {
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    // The test's parent hands its own score down.
    let given = oom_score_beside_containerd().unwrap();
    assert!(given > own || own == OOM_SCORE_ADJ_MAX, "{given} beside {own}");
}
