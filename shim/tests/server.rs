//! The program as containerd runs it: `start`, calls over its socket, `delete`. Needs root, but neither containerd nor KVM.

// A helper of a test may end it as the test itself may.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    ConnectRequest, CreateTaskRequest, DeleteResponse, PidsRequest, ShutdownRequest, StateRequest,
};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension};
use containerd_shim_protos::sandbox_api::{CreateSandboxRequest, SandboxStatusRequest, ShutdownSandboxRequest};
use containerd_shim_protos::sandbox_async::SandboxClient;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::Context;
use ttrpc::proto::{Code, Request};

const NAMESPACE: &str = "shim-test";

/// Folders as containerd has them: bundles of one namespace, and one for sockets.
struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        Host {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn bundle(&self, id: &str, spec: Option<&str>) -> PathBuf {
        let bundle = self.folder.path().join(id);
        std::fs::create_dir_all(&bundle).unwrap();
        if let Some(spec) = spec {
            std::fs::write(bundle.join("config.json"), spec).unwrap();
        }
        bundle
    }

    fn sockets(&self) -> PathBuf {
        self.folder.path().join("sockets")
    }

    fn run(&self, id: &str, action: &str, input: &[u8]) -> Output {
        let bundle = self.folder.path().join(id);
        let mut child = Command::new(env!("CARGO_BIN_EXE_containerd-shim-bulkhead-v2"))
            .args([
                "-namespace",
                NAMESPACE,
                "-address",
                "/nonexistent/containerd.sock",
                "-id",
                id,
                action,
            ])
            .current_dir(bundle)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    fn start_with(&self, id: &str, options: Option<Any>) -> Output {
        let params = BootstrapParams {
            instance_id: id.into(),
            namespace: NAMESPACE.into(),
            containerd_version: "2.3.0".into(),
            containerd_ttrpc_address: "/nonexistent/containerd.sock.ttrpc".into(),
            socket_dir: Some(self.sockets().to_str().unwrap().into()),
            extensions: options
                .map(|any| Extension {
                    value: Some(any).into(),
                    ..Default::default()
                })
                .into_iter()
                .collect(),
            ..Default::default()
        };
        self.run(id, "start", &params.write_to_bytes().unwrap())
    }

    fn start(&self, id: &str) -> Server {
        let output = self.start_with(id, None);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((answer.version, answer.protocol.as_str()), (3, "ttrpc"));
        let socket = PathBuf::from(answer.address.strip_prefix("unix://").unwrap());
        let pid = std::fs::read_to_string(self.folder.path().join(id).join("shim.pid"));
        Server {
            socket,
            pid: pid.ok().map(|text| text.parse().unwrap()),
        }
    }
}

/// A server that `start` left behind. Killed at the end whatever a test finds.
struct Server {
    socket: PathBuf,
    /// Known where this `start` was the one that made the server.
    pid: Option<i32>,
}

impl Server {
    async fn client(&self) -> Client {
        Client::new(Socket::new(
            tokio::net::UnixStream::connect(&self.socket).await.unwrap(),
        ))
    }

    async fn tasks(&self) -> TaskClient {
        TaskClient::new(self.client().await)
    }

    fn is_running(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid.unwrap())).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    fn wait_until_gone(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.is_running() {
            assert!(Instant::now() < deadline, "the server still runs");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn status(error: ttrpc::Error) -> (Code, String) {
    match error {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
        other => panic!("not an answer: {other}"),
    }
}

fn context() -> Context {
    ttrpc::context::with_duration(Duration::from_secs(60))
}

async fn shut_down(server: &Server, id: &str) {
    let request = ShutdownRequest {
        id: id.into(),
        ..Default::default()
    };
    server.tasks().await.shutdown(context(), &request).await.unwrap();
    server.wait_until_gone();
    assert!(!server.socket.exists(), "the socket is still there");
}

#[tokio::test]
async fn a_started_server_answers_both_versions_and_ends_on_shutdown() {
    let host = Host::new();
    host.bundle("c1", Some("{}"));
    let server = host.start("c1");
    let tasks = server.tasks().await;
    let answer = tasks
        .connect(
            context(),
            &ConnectRequest {
                id: "c1".into(),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!((answer.shim_pid as i32, answer.task_pid), (server.pid.unwrap(), 0));

    let request = StateRequest {
        id: "c1".into(),
        ..Default::default()
    };
    let (code, message) = status(tasks.state(context(), &request).await.unwrap_err());
    assert_eq!(code, Code::NOT_FOUND);
    assert!(message.contains("c1"), "{message}");
    // After a restart containerd ends a shim that has no task because of this answer.
    let request = PidsRequest {
        id: "c1".into(),
        ..Default::default()
    };
    assert_eq!(
        status(tasks.pids(context(), &request).await.unwrap_err()).0,
        Code::NOT_FOUND
    );

    let request = Request {
        service: "containerd.task.v2.Task".into(),
        method: "Connect".into(),
        payload: ConnectRequest {
            id: "c1".into(),
            ..Default::default()
        }
        .write_to_bytes()
        .unwrap(),
        timeout_nano: 60_000_000_000,
        ..Default::default()
    };
    server.client().await.request(request).await.unwrap();
    shut_down(&server, "c1").await;
}

#[tokio::test]
async fn further_containers_of_a_pod_get_its_socket() {
    let host = Host::new();
    let annotated = |kind: &str| {
        format!(
            r#"{{"annotations":{{"io.kubernetes.cri.sandbox-id":"s1","io.kubernetes.cri.container-type":"{kind}"}}}}"#
        )
    };
    host.bundle("s1", Some(&annotated("sandbox")));
    host.bundle("c1", Some(&annotated("container")));
    let refused = host.start_with("c1", None);
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("sandbox s1"),
        "{refused:?}"
    );

    let server = host.start("s1");
    let joined = host.start("c1");
    assert_eq!((joined.socket.as_path(), joined.pid), (server.socket.as_path(), None));
    // What `delete` of one container must never do is end its pod.
    let output = host.run("c1", "delete", &[]);
    assert!(output.status.success(), "{output:?}");
    assert!(server.is_running());
    shut_down(&server, "s1").await;
}

#[tokio::test]
async fn a_second_start_of_a_living_pod_is_refused_by_name() {
    let host = Host::new();
    host.bundle("c1", Some("{}"));
    let server = host.start("c1");
    let again = host.start_with("c1", None);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && again.stdout.is_empty());
    assert!(
        said.contains("c1") && said.contains(server.socket.to_str().unwrap()),
        "{said}"
    );
    assert!(server.is_running());
    shut_down(&server, "c1").await;
}

#[tokio::test]
async fn a_bundle_without_spec_fails_clearly_and_leaves_nothing() {
    let host = Host::new();
    let bundle = host.bundle("c1", None);
    let server = host.start("c1");
    let request = CreateTaskRequest {
        id: "c1".into(),
        bundle: bundle.to_str().unwrap().into(),
        ..Default::default()
    };
    let (code, message) = status(server.tasks().await.create(context(), &request).await.unwrap_err());
    assert!(matches!(code, Code::NOT_FOUND | Code::UNKNOWN), "{code:?}");
    assert!(message.contains("config.json"), "{message}");
    shut_down(&server, "c1").await;
}

#[tokio::test]
async fn a_killed_shim_is_cleaned_up_by_delete() {
    let host = Host::new();
    host.bundle("c1", Some("{}"));
    let server = host.start("c1");
    let pid = nix::unistd::Pid::from_raw(server.pid.unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    server.wait_until_gone();
    assert!(server.socket.exists());

    let before = Instant::now();
    let output = host.run("c1", "delete", &[]);
    assert!(output.status.success(), "{output:?}");
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(
        DeleteResponse::parse_from_bytes(&output.stdout).unwrap().exit_status,
        137
    );
    assert!(!server.socket.exists());
    assert!(
        !Path::new("/sys/fs/cgroup/bulkhead-shims")
            .join(format!("{NAMESPACE}:c1"))
            .exists()
    );
    // The id is free again.
    shut_down(&host.start("c1"), "c1").await;
}

#[test]
fn delete_of_a_pod_ends_a_shim_that_containerd_has_given_up() {
    let host = Host::new();
    host.bundle("c1", Some("{}"));
    let server = host.start("c1");
    let output = host.run("c1", "delete", &[]);
    assert!(output.status.success(), "{output:?}");
    server.wait_until_gone();
    assert!(!server.socket.exists());
}

#[test]
fn options_that_cannot_be_honoured_are_refused_and_nothing_stays() {
    let host = Host::new();
    host.bundle("c1", Some("{}"));
    let config = runtime_options(&host.folder.path().join("absent.toml"));
    let unknown = Any {
        type_url: "io.example.Options".into(),
        ..Default::default()
    };
    for (options, said) in [(unknown, "io.example.Options"), (config, "absent.toml")] {
        let output = host.start_with("c1", Some(options));
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(said), "{text}");
    }
    assert!(std::fs::read_dir(host.sockets()).map_or(true, |mut entries| entries.next().is_none()));
}

/// runtimeoptions.v1.Options with ConfigPath (field 2), encoded by hand.
fn runtime_options(config: &Path) -> Any {
    let path = config.to_str().unwrap().as_bytes();
    let mut value = vec![0x12, u8::try_from(path.len()).unwrap()];
    value.extend_from_slice(path);
    Any {
        type_url: "runtimeoptions.v1.Options".into(),
        value,
        ..Default::default()
    }
}

#[tokio::test]
async fn the_sandbox_api_remembers_refuses_and_ends() {
    let host = Host::new();
    let bundle = host.bundle("s1", None);
    let server = host.start("s1");
    let sandboxes = SandboxClient::new(server.client().await);
    let asked = SandboxStatusRequest {
        sandbox_id: "s1".into(),
        ..Default::default()
    };
    assert_eq!(
        status(sandboxes.sandbox_status(context(), &asked).await.unwrap_err()).0,
        Code::NOT_FOUND
    );

    // PodSandboxConfig.linux (8) . security_context (2) . namespace_options (1) . network (1) = NODE (2)
    let host_network = vec![0x42, 0x06, 0x12, 0x04, 0x0a, 0x02, 0x08, 0x02];
    let mut create = CreateSandboxRequest {
        sandbox_id: "s1".into(),
        bundle_path: bundle.to_str().unwrap().into(),
        options: Some(Any {
            type_url: "runtime.v1.PodSandboxConfig".into(),
            value: host_network,
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    let (code, message) = status(sandboxes.create_sandbox(context(), &create).await.unwrap_err());
    assert_eq!(code, Code::UNKNOWN);
    assert!(message.contains("hostNetwork"), "{message}");

    create.options = None.into();
    sandboxes.create_sandbox(context(), &create).await.unwrap();
    assert_eq!(
        status(sandboxes.create_sandbox(context(), &create).await.unwrap_err()).0,
        Code::ALREADY_EXISTS
    );
    let answer = sandboxes.sandbox_status(context(), &asked).await.unwrap();
    assert_eq!(answer.state, "SANDBOX_NOTREADY");
    // In the server's own mount namespace, so that nothing of it can stay behind.
    let seen_by_server = PathBuf::from(format!("/proc/{}/root", server.pid.unwrap()));
    let etc = bundle.join("sandbox-etc");
    assert!(
        seen_by_server
            .join(etc.strip_prefix("/").unwrap())
            .join("resolv.conf")
            .exists()
    );
    assert!(!etc.join("resolv.conf").exists());

    let request = ShutdownSandboxRequest {
        sandbox_id: "s1".into(),
        ..Default::default()
    };
    sandboxes.shutdown_sandbox(context(), &request).await.unwrap();
    server.wait_until_gone();
    assert!(!server.socket.exists());
}
