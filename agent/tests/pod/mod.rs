//! An agent in namespaces of its own and the host's side of its two sockets.
#![allow(dead_code)] // each file of tests uses its own part
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test fails by panicking

use bulkhead_agent_protocol::agent::{
    ContainerRequest, CreateContainerRequest, Empty, ExecRequest, ProcessRequest, ProcessResponse, ResizePtyRequest,
    SetFrozenRequest, SignalRequest, Stdio, UpdateRequest, WaitResponse,
};
use bulkhead_agent_protocol::agent_ttrpc::AgentClient;
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

const BUSYBOX: &str = "/bin/busybox";
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a group of cgroups for this agent alone, which shall look like the whole tree, and removes it when the agent has ended.
const OUTER: &str = r#"
    umount -l /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup || exit 1
    group=/sys/fs/cgroup/agent-test-$5
    mkdir "$group" || exit 1
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
    done
    unshare --pid --fork --kill-child --net --ipc --uts sh -c "$6" "$0" "$1" "$2" "$3" "$4" "$group"
    find "$group" -depth -type d -exec rmdir {} \;
"#;

/// Inside the namespaces: a /proc and a cgroup tree of their own, a tmpfs for the state, then the agent, not in the tree's root,
/// because this one is no real root and must be empty to hand controllers down.
const INNER: &str = r#"
    echo 0 > "$5/cgroup.procs" && mount -t proc proc /proc && mount -t tmpfs tmpfs "$4" &&
    exec unshare --cgroup --mount sh -c 'umount /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup &&
        mkdir /sys/fs/cgroup/agent && echo 0 > /sys/fs/cgroup/agent/cgroup.procs && exec "$0" unix "$1" "$2" "$3"' "$0" "$1" "$2" "$3"
"#;

pub struct Pod {
    pub client: AgentClient,
    directory: PathBuf,
    agent: Child,
    next_stream: AtomicU64,
}

pub type Answer<T> = Result<T, ttrpc::Status>;

fn status(error: ttrpc::Error) -> ttrpc::Status {
    match error {
        ttrpc::Error::RpcStatus(status) => status,
        other => panic!("the agent does not answer: {other}"),
    }
}

impl Pod {
    pub async fn start() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        assert!(nix::unistd::geteuid().is_root(), "creating containers needs root");
        assert!(
            Path::new(BUSYBOX).exists(),
            "the containers of this test are made from the package busybox-static"
        );
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("agent-test-{}-{number}", std::process::id()));
        let state = directory.join("state");
        std::fs::create_dir_all(&state).unwrap();
        make_rootfs(&directory.join("rootfs"));
        let (control, streams) = (directory.join("control"), directory.join("streams"));
        let agent = Command::new("unshare")
            .args(["--mount", "sh", "-c", OUTER, env!("CARGO_BIN_EXE_bulkhead-agent")])
            .args([&control, &streams, &state, &state])
            .args([format!("{}-{number}", std::process::id()).as_str(), INNER])
            .spawn()
            .unwrap();
        // The stream socket is the second that listens; an early connection without a header is dropped by the agent.
        let mut attempts = 0;
        while let Err(error) = UnixStream::connect(&streams).await {
            attempts += 1;
            assert!(attempts < 2000, "the agent does not listen: {error}");
            sleep(Duration::from_millis(10)).await;
        }
        let client = ttrpc::r#async::Client::connect(&format!("unix://{}", control.display()))
            .await
            .unwrap();
        Self {
            client: AgentClient::new(client),
            directory,
            agent,
            next_stream: AtomicU64::new(1),
        }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    fn context(&self) -> ttrpc::context::Context {
        ttrpc::context::with_duration(PATIENCE)
    }

    pub async fn create(&self, id: &str, spec: &Value, stdio: Stdio) -> Answer<u32> {
        self.create_sharing(id, spec, stdio, "", &[]).await
    }

    pub async fn create_sharing(
        &self,
        id: &str,
        spec: &Value,
        stdio: Stdio,
        with: &str,
        namespaces: &[&str],
    ) -> Answer<u32> {
        let mut spec = spec.clone();
        spec["root"]["path"] = json!(self.rootfs());
        let request = CreateContainerRequest {
            container_id: id.to_string(),
            spec: serde_json::to_vec(&spec).unwrap(),
            stdio: Some(stdio).into(),
            share_namespaces_with: with.to_string(),
            shared_namespaces: namespaces.iter().map(|name| (*name).to_string()).collect(),
            ..Default::default()
        };
        self.client
            .create_container(self.context(), &request)
            .await
            .map(pid)
            .map_err(status)
    }

    pub async fn start_container(&self, id: &str) -> Answer<()> {
        let request = ContainerRequest {
            container_id: id.to_string(),
            ..Default::default()
        };
        self.client
            .start_container(self.context(), &request)
            .await
            .map(drop)
            .map_err(status)
    }

    /// Creates and starts a container that does nothing until it is killed.
    pub async fn run_idle(&self, id: &str) {
        self.create(id, &spec(&["sleep", "1000"]), Stdio::default())
            .await
            .unwrap();
        self.start_container(id).await.unwrap();
    }

    pub async fn exec(&self, id: &str, exec_id: &str, process: &Value, stdio: Stdio) -> Answer<u32> {
        let request = ExecRequest {
            container_id: id.to_string(),
            exec_id: exec_id.to_string(),
            process: serde_json::to_vec(process).unwrap(),
            stdio: Some(stdio).into(),
            ..Default::default()
        };
        self.client
            .exec(self.context(), &request)
            .await
            .map(pid)
            .map_err(status)
    }

    /// Runs a program in a container: its output and its exit status.
    pub async fn run_exec(&self, id: &str, exec_id: &str, process: &Value) -> (String, u32) {
        let (stdio, streams) = Streams::output(self).await;
        self.exec(id, exec_id, process, stdio).await.unwrap();
        let (out, err) = streams.read().await;
        let status = self.wait(id, exec_id).await.exit_status;
        self.delete(id, exec_id).await.unwrap();
        (out + &err, status)
    }

    fn process(id: &str, exec_id: &str) -> ProcessRequest {
        ProcessRequest {
            container_id: id.to_string(),
            exec_id: exec_id.to_string(),
            ..Default::default()
        }
    }

    pub async fn wait(&self, id: &str, exec_id: &str) -> WaitResponse {
        self.client
            .wait(self.context(), &Self::process(id, exec_id))
            .await
            .unwrap()
    }

    pub async fn delete(&self, id: &str, exec_id: &str) -> Answer<WaitResponse> {
        self.client
            .delete(self.context(), &Self::process(id, exec_id))
            .await
            .map_err(status)
    }

    pub async fn signal(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Answer<()> {
        let request = SignalRequest {
            container_id: id.to_string(),
            exec_id: exec_id.to_string(),
            signal,
            all,
            ..Default::default()
        };
        self.client
            .signal(self.context(), &request)
            .await
            .map(drop)
            .map_err(status)
    }

    pub async fn freeze(&self, id: &str, frozen: bool) -> Answer<()> {
        let request = SetFrozenRequest {
            container_id: id.to_string(),
            frozen,
            ..Default::default()
        };
        self.client
            .set_frozen(self.context(), &request)
            .await
            .map(drop)
            .map_err(status)
    }

    pub async fn update(&self, id: &str, resources: &Value) -> Answer<()> {
        let request = UpdateRequest {
            container_id: id.to_string(),
            resources: serde_json::to_vec(resources).unwrap(),
            ..Default::default()
        };
        self.client
            .update(self.context(), &request)
            .await
            .map(drop)
            .map_err(status)
    }

    pub async fn resize(&self, id: &str, width: u32, height: u32) -> Answer<()> {
        let request = ResizePtyRequest {
            container_id: id.to_string(),
            width,
            height,
            ..Default::default()
        };
        self.client
            .resize_pty(self.context(), &request)
            .await
            .map(drop)
            .map_err(status)
    }

    pub async fn pids(&self, id: &str) -> Vec<u32> {
        let request = ContainerRequest {
            container_id: id.to_string(),
            ..Default::default()
        };
        self.client.pids(self.context(), &request).await.unwrap().guest_pids
    }

    /// Kills and deletes a container.
    pub async fn end(&self, id: &str) {
        self.signal(id, "", 9, false).await.unwrap();
        self.wait(id, "").await;
        self.delete(id, "").await.unwrap();
    }

    /// True if the agent holds neither state nor a cgroup of any container.
    pub fn is_clean(&self) -> bool {
        let inside = PathBuf::from(format!("/proc/{}/root", self.agent_pid()));
        let left = |path: &Path| {
            let entries = std::fs::read_dir(inside.join(path.strip_prefix("/").unwrap()))
                .unwrap()
                .flatten();
            entries.filter(|entry| entry.file_type().unwrap().is_dir()).count()
        };
        left(&self.directory.join("state")) == 0 && left(Path::new("/sys/fs/cgroup/pod")) == 0
    }

    /// The only child of the shell's only child.
    pub fn agent_pid(&self) -> u32 {
        let child = |id: u32| -> u32 {
            let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
            children.split_whitespace().next().unwrap().parse().unwrap()
        };
        child(child(self.agent.id()))
    }

    /// Descriptors that the agent has open.
    pub fn open_descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.agent_pid()))
            .unwrap()
            .count()
    }

    /// Ended children that the agent has not reaped.
    pub fn zombies(&self) -> usize {
        let agent = self.agent_pid();
        let children = std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).unwrap();
        let ended = |pid: &&str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
        };
        children.split_whitespace().filter(ended).count()
    }

    /// Connects a stream and returns its id.
    pub async fn connect(&self) -> (u64, UnixStream) {
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let mut stream = UnixStream::connect(self.directory.join("streams")).await.unwrap();
        stream.write_all(&id.to_le_bytes()).await.unwrap();
        (id, stream)
    }

    pub async fn hello(&self) {
        let request = bulkhead_agent_protocol::agent::HelloRequest::default();
        let answer = self.client.hello(self.context(), &request).await.unwrap();
        assert!(!answer.kernel_release.is_empty());
    }

    pub async fn shutdown(&self) {
        self.client.shutdown(self.context(), &Empty::default()).await.unwrap();
    }
}

fn pid(response: ProcessResponse) -> u32 {
    response.guest_pid
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _gone = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.agent_pid() as i32),
            nix::sys::signal::Signal::SIGKILL,
        );
        self.agent.wait().unwrap();
        std::fs::remove_dir_all(&self.directory).unwrap();
    }
}

/// The host's ends of a process's streams.
#[derive(Default)]
pub struct Streams {
    pub stdin: Option<UnixStream>,
    pub stdout: Option<UnixStream>,
    pub stderr: Option<UnixStream>,
}

impl Streams {
    pub async fn output(pod: &Pod) -> (Stdio, Self) {
        let ((out, stdout), (err, stderr)) = (pod.connect().await, pod.connect().await);
        let stdio = Stdio {
            stdout_stream: out,
            stderr_stream: err,
            ..Default::default()
        };
        (
            stdio,
            Self {
                stdin: None,
                stdout: Some(stdout),
                stderr: Some(stderr),
            },
        )
    }

    pub async fn all(pod: &Pod) -> (Stdio, Self) {
        let (mut stdio, mut streams) = Self::output(pod).await;
        let (id, stdin) = pod.connect().await;
        stdio.stdin_stream = id;
        streams.stdin = Some(stdin);
        (stdio, streams)
    }

    pub async fn terminal(pod: &Pod, width: u32, height: u32) -> (Stdio, Self) {
        let ((input, stdin), (output, stdout)) = (pod.connect().await, pod.connect().await);
        let stdio = Stdio {
            terminal: true,
            stdin_stream: input,
            stdout_stream: output,
            width,
            height,
            ..Default::default()
        };
        (
            stdio,
            Self {
                stdin: Some(stdin),
                stdout: Some(stdout),
                stderr: None,
            },
        )
    }

    /// Everything that stdout and stderr bring until both end.
    pub async fn read(self) -> (String, String) {
        let read = |stream: Option<UnixStream>| async move {
            let mut text = Vec::new();
            if let Some(mut stream) = stream {
                timeout(PATIENCE, stream.read_to_end(&mut text))
                    .await
                    .expect("the stream does not end")
                    .unwrap();
            }
            String::from_utf8_lossy(&text).into_owned()
        };
        let (stdout, stderr) = (self.stdout, self.stderr);
        tokio::join!(read(stdout), read(stderr))
    }
}

fn make_rootfs(rootfs: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        std::fs::create_dir_all(rootfs.join(directory)).unwrap();
    }
    std::fs::copy(BUSYBOX, rootfs.join("bin/busybox")).unwrap();
    let applets = Command::new(BUSYBOX).arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(applets)
        .unwrap()
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
    std::fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
    )
    .unwrap();
}

/// A process as containerd describes one.
pub fn process(args: &[&str]) -> Value {
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_KILL",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_NET_BIND_SERVICE",
        "CAP_MKNOD"
    ]);
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/usr/bin:/bin", "COLOUR=blue"],
        "cwd": "/",
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 2048}],
        "noNewPrivileges": true
    })
}

/// A spec as containerd makes one for busybox.
pub fn spec(args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "process": process(args),
        "root": {"path": ""},
        "hostname": "inside",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}
        ],
        "linux": {
            "cgroupsPath": "/default/c",
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}, {"type": "network"}
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
