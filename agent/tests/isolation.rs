//! What a spec says about a process's rights and view, checked from inside. Needs what tests/containers.rs needs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test fails by panicking

mod pod;

use pod::{Pod, Streams, process, spec};
use serde_json::{Value, json};

/// Runs a container to its end: its output.
async fn run(pod: &Pod, spec: &Value) -> String {
    let (stdio, streams) = Streams::output(pod).await;
    pod.create("c", spec, stdio).await.unwrap();
    pod.start_container("c").await.unwrap();
    let (out, err) = streams.read().await;
    pod.wait("c", "").await;
    pod.delete("c", "").await.unwrap();
    out + &err
}

/// The lines of /proc/self/status that tell rights.
const STATUS: &str = "grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status";

fn profile() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]
    })
}

#[tokio::test]
async fn rights_are_those_of_the_spec_in_init_and_exec() {
    let pod = Pod::start().await;
    // CHOWN, KILL, SETGID, SETUID, NET_BIND_SERVICE, MKNOD.
    let mask = (1u64 << 0) | (1 << 5) | (1 << 6) | (1 << 7) | (1 << 10) | (1 << 27);
    let expected = |new_privileges: u8, seccomp: u8| {
        format!(
            "CapInh:\t{0:016x}\nCapPrm:\t{mask:016x}\nCapEff:\t{mask:016x}\nCapBnd:\t{mask:016x}\n\
             CapAmb:\t{0:016x}\nNoNewPrivs:\t{new_privileges}\nSeccomp:\t{seccomp}\n",
            0
        )
    };
    for (no_new_privileges, filtered) in [(true, true), (false, true), (true, false)] {
        let mut spec = spec(&["sh", "-c", STATUS]);
        spec["process"]["noNewPrivileges"] = no_new_privileges.into();
        if filtered {
            spec["linux"]["seccomp"] = profile();
        }
        let wanted = expected(no_new_privileges.into(), if filtered { 2 } else { 0 });
        assert_eq!(run(&pod, &spec).await, wanted, "init, {no_new_privileges}, {filtered}");
        spec["process"]["args"] = json!(["sleep", "1000"]);
        pod.create("c", &spec, Default::default()).await.unwrap();
        pod.start_container("c").await.unwrap();
        let mut exec = process(&["sh", "-c", STATUS]);
        exec["noNewPrivileges"] = no_new_privileges.into();
        let (text, _) = pod.run_exec("c", "e", &exec).await;
        assert_eq!(text, wanted, "exec, {no_new_privileges}, {filtered}");
        pod.end("c").await;
    }
}

#[tokio::test]
async fn the_seccomp_profile_binds_init_and_exec() {
    let pod = Pod::start().await;
    let mut spec = spec(&["sh", "-c", "mkdir /tmp/x; sleep 1000"]);
    spec["linux"]["seccomp"] = profile();
    pod.create("c", &spec, Default::default()).await.unwrap();
    pod.start_container("c").await.unwrap();
    let (text, status) = pod.run_exec("c", "e", &process(&["mkdir", "/tmp/y"])).await;
    assert!(text.contains("not supported") && status == 1, "{text}");
    assert!(!pod.rootfs().join("tmp/x").exists());
    pod.end("c").await;
}

#[tokio::test]
async fn no_capabilities_means_none() {
    let pod = Pod::start().await;
    let mut spec = spec(&["grep", "CapEff", "/proc/self/status"]);
    spec["process"]["capabilities"] = json!({});
    assert_eq!(run(&pod, &spec).await, "CapEff:\t0000000000000000\n");
}

#[tokio::test]
async fn a_process_that_is_added_without_capabilities_has_those_of_its_container() {
    let pod = Pod::start().await;
    let mut spec = spec(&["sleep", "1000"]);
    spec["process"]["capabilities"] =
        json!({"bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"]});
    pod.create("c", &spec, Default::default()).await.unwrap();
    pod.start_container("c").await.unwrap();
    let mut exec = process(&["grep", "CapEff", "/proc/self/status"]);
    exec.as_object_mut().unwrap().remove("capabilities");
    assert_eq!(pod.run_exec("c", "e", &exec).await.0, "CapEff:\t0000000000000001\n");
    pod.end("c").await;
}

#[tokio::test]
async fn user_groups_umask_and_limits() {
    let pod = Pod::start().await;
    let script = "id -u; id -g; id -G; umask; ulimit -n; ulimit -Hn; echo $HOME; echo again > /dev/stdout";
    let mut spec = spec(&["sh", "-c", script]);
    let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 1001], "umask": 63});
    spec["process"]["user"] = user.clone();
    let wanted = "1000\n1001\n1001 5\n0077\n1024\n2048\n/home/user\nagain\n";
    assert_eq!(run(&pod, &spec).await, wanted);
    pod.run_idle("c").await;
    let mut exec = process(&["sh", "-c", script]);
    exec["user"] = user;
    assert_eq!(pod.run_exec("c", "e", &exec).await.0, wanted);
    pod.end("c").await;
}

#[tokio::test]
async fn masked_and_readonly_paths_and_mounts() {
    let pod = Pod::start().await;
    let shared = pod.rootfs().join("../shared");
    std::fs::create_dir_all(&shared).unwrap();
    std::fs::write(shared.join("file"), "content\n").unwrap();
    let script = "cat /proc/keys; ls /sys/firmware; echo 1 > /proc/sys/kernel/printk; cat /vol/file; echo x > /vol/file; \
                  touch /writable; mkdir /sys/fs/cgroup/x; ls /dev | tr '\\n' ' '; readlink /dev/fd";
    let mut spec = spec(&["sh", "-c", script]);
    spec["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/vol", "type": "bind", "source": shared, "options": ["rbind", "ro"]
    }));
    spec["root"]["readonly"] = true.into();
    let text = run(&pod, &spec).await;
    for expected in [
        "content\n",
        "can't create /proc/sys/kernel/printk: Read-only file system",
        "can't create /vol/file: Read-only file system",
        "/writable: Read-only file system",
        "'/sys/fs/cgroup/x': Read-only file system",
        "mqueue null ptmx pts random",
        "/proc/self/fd\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text:?}");
    }
    assert_eq!(std::fs::read_to_string(shared.join("file")).unwrap(), "content\n");
}

#[tokio::test]
async fn sysctls_of_the_network_and_of_ipc() {
    let pod = Pod::start().await;
    let files = "/proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax";
    let mut spec = spec(&["sh", "-c", &format!("cat {files}")]);
    spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4321"});
    assert_eq!(run(&pod, &spec).await, "1\n4321\n");
    spec["linux"]["sysctl"] = json!({"net.no.such": "1"});
    let error = pod.create("c", &spec, Default::default()).await.unwrap_err();
    assert!(error.message().contains("net.no.such"), "{}", error.message());
    spec["linux"]["sysctl"] = json!({"kernel.panic": "1"});
    let error = pod.create("c", &spec, Default::default()).await.unwrap_err();
    assert!(error.message().contains("kernel.panic"), "{}", error.message());
    assert!(pod.is_clean());
}

#[tokio::test]
async fn oom_score_starts_from_zero_and_follows_the_spec() {
    let pod = Pod::start().await;
    let mut spec = spec(&["cat", "/proc/self/oom_score_adj"]);
    assert_eq!(run(&pod, &spec).await, "0\n");
    spec["process"]["oomScoreAdj"] = 500.into();
    assert_eq!(run(&pod, &spec).await, "500\n");
}

#[tokio::test]
async fn devices_beyond_the_rules_can_be_made_but_not_opened() {
    let pod = Pod::start().await;
    let script = "mknod /run/mem c 1 1 && cat /run/mem; mknod /run/zero c 1 5 && head -c 3 /run/zero | wc -c";
    let mut spec = spec(&["sh", "-c", script]);
    let run_mount = spec["mounts"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .find(|mount| mount["destination"] == "/run");
    run_mount.unwrap()["options"] = json!(["nosuid", "dev", "mode=755"]);
    let text = run(&pod, &spec).await;
    assert!(
        text.contains("can't open '/run/mem': Operation not permitted") && text.contains("3\n"),
        "{text}"
    );
}
