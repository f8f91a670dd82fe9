use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::shim_async::{Task, create_task};
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::{Code, get_status};

use super::*;

#[test]
fn only_the_shim_of_that_pod_is_taken_for_it() {
    let line = b"containerd-shim-bulkhead-v2\0-namespace\0default\0-id\0p1\0-address\0unix:///x\0";
    assert!(serves(line, "p1"));
    assert!(!serves(line, "p2"));
    assert!(!serves(line, "default"));
    assert!(!serves(b"sleep\0-id\0p1\0", "p1"));
    assert!(!serves(b"", "p1"));
    assert!(!serves(b"containerd-shim-bulkhead-v2\0-id", "p1"));
}

#[test]
fn a_pid_that_is_another_process_by_now_is_spared() {
    let bundle = tempfile::tempdir().unwrap();
    let mut other = std::process::Command::new("sleep").arg("30").spawn().unwrap();
    std::fs::write(bundle.path().join("shim.pid"), other.id().to_string()).unwrap();
    kill_shim(bundle.path(), "p1", Duration::ZERO);
    assert!(other.try_wait().unwrap().is_none(), "killed a stranger");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn recorded_pids_are_numbers_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("init.pid");
    assert_eq!(read_number(&path), None);
    std::fs::write(&path, "12\n").unwrap();
    assert_eq!(read_number(&path), Some(12));
    std::fs::write(&path, "-1").unwrap();
    assert_eq!(read_number(&path), None);
}

#[test]
fn hooks_after_the_end_are_for_containers_that_were_created() {
    let bundle = tempfile::tempdir().unwrap();
    let path = bundle.path();
    let touch = path.join("ran");
    let spec = format!(r#"{{"hooks":{{"poststop":[{{"path":"/usr/bin/touch","args":["touch",{touch:?}]}}]}}}}"#);
    std::fs::write(path.join("config.json"), spec).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    run_hooks(path, "c1", end);
    assert!(!touch.exists());
    std::fs::write(path.join(INIT_PID), "12").unwrap();
    run_hooks(path, "c1", end);
    assert!(touch.exists());
}

/// A shim whose pod has one container, and which ignores Shutdown as it does in use.
struct InUse(&'static str);

#[async_trait]
impl Task for InUse {
    async fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> ttrpc::Result<api::StateResponse> {
        if request.id == self.0 {
            return Ok(api::StateResponse::default());
        }
        Err(ttrpc::Error::RpcStatus(get_status(Code::NOT_FOUND, "not found")))
    }

    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> ttrpc::Result<api::Empty> {
        Ok(api::Empty::default())
    }
}

fn serve(path: &Path, service: impl Task + Send + 'static) {
    let address = format!("unix://{}", path.display());
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let service = create_task(Arc::new(service));
            let mut server = Server::new().bind(&address).unwrap().register_service(service);
            server.start().await.unwrap();
            ready.send(()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    is_ready.recv().unwrap();
}

/// A shim with a container that runs until it is killed. Says what it was told.
struct Living(std::sync::mpsc::Sender<String>);

#[async_trait]
impl Task for Living {
    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<api::Empty> {
        let told = format!("kill {} with {} all {}", request.id, request.signal, request.all);
        self.0.send(told).unwrap();
        Ok(api::Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, _: api::WaitRequest) -> ttrpc::Result<api::WaitResponse> {
        Ok(api::WaitResponse::default())
    }

    async fn delete(&self, _: &TtrpcContext, request: api::DeleteRequest) -> ttrpc::Result<api::DeleteResponse> {
        self.0.send(format!("delete {}", request.id)).unwrap();
        Ok(api::DeleteResponse::default())
    }
}

#[test]
fn a_container_that_containerd_has_lost_is_killed_in_its_living_pod() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let (says, told) = std::sync::mpsc::channel();
    serve(&path, Living(says));
    end_container(&path, "c1");
    let told: Vec<_> = told.try_iter().collect();
    assert_eq!(told, ["kill c1 with 9 all true", "delete c1"]);
}

#[test]
fn a_pod_that_others_use_outlives_the_container_that_founded_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    serve(&path, InUse("other"));
    assert!(is_in_use(&path, "founder"));
    assert!(!is_in_use(&path, "other"), "given up by containerd while it runs");
}

#[test]
fn a_shim_that_does_not_answer_is_not_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(!is_in_use(&path, "founder"));
}
