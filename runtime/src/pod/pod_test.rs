//! A pod whose machine is a `sleep` and whose agent is this test.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_agent_protocol::agent as message;
use bulkhead_agent_protocol::agent_ttrpc::Agent as Service;
use bulkhead_vmm_control::Channel;
use serde_json::json;
use tokio::sync::mpsc;
use ttrpc::r#async::TtrpcContext;
use ttrpc::{Code, get_status};

use super::*;
use crate::agent_client::agent_client_test::client_of;
use crate::config::Config;
use crate::pod::boot::{Parts, assemble};
use crate::pod::calls::{KILL_MOST, KILL_PATIENCE};
use crate::pod::resize::Sizes;
use crate::pod::sizing::{Fixed, Size};
use crate::pod::types::{PodResources, PodSpec};
use crate::pod::{Pod, Status};
use crate::vmm_client::vmm_test::machine;

/// Of a machine that stays as it is.
const SIZE: Size = Size {
    vcpus: 1,
    max_vcpus: 1,
    memory_mib: 64,
    max_memory_mib: 64,
    grows: false,
    growth_mib: 64,
    fixed: Fixed {
        vcpus: false,
        memory: false,
    },
    host_memory_bytes: None,
};

/// Takes every signal and does nothing; its processes never end.
struct Deaf;

#[async_trait]
impl Service for Deaf {
    async fn signal(&self, _: &TtrpcContext, _: message::SignalRequest) -> ttrpc::Result<message::Empty> {
        Ok(message::Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, _: message::ProcessRequest) -> ttrpc::Result<message::WaitResponse> {
        std::future::pending().await
    }
}

/// A pod and what must live as long as it.
struct Fake {
    pod: Arc<Pod>,
    events: mpsc::UnboundedReceiver<PodEvent>,
    _monitor: Channel,
}

impl Fake {
    async fn with(test: &str, agent: impl Service + Send + 'static) -> Fake {
        let (vmm, monitor) = machine();
        let agent = client_of(test, Arc::new(agent)).await;
        let spec = PodSpec {
            namespace: "test".into(),
            id: ContainerId::try_from("pod").unwrap(),
            hostname: None,
            network_namespace: None,
            cgroup_path: None,
            resources: PodResources::default(),
            oom_score_adj: None,
            ids: GuestIds::default(),
            annotations: HashMap::new(),
        };
        let sizes = Sizes::new(SIZE, &spec, &Config::default());
        let parts = Parts {
            spec,
            share: "/nonexistent".into(),
            volumes: Arc::new(SharedVolumes::new("/nonexistent".as_ref())),
            identity: Arc::new(Identity::HOST),
            sizes,
            has_first: true,
        };
        let (pod, events) = assemble(vmm, agent, Undo::default(), parts);
        Fake {
            pod,
            events,
            _monitor: monitor,
        }
    }

    /// Adds a running container.
    fn add(&self, id: &str) -> Arc<Container> {
        let id = ContainerId::try_from(id).unwrap();
        let reservation = self.pod.reserve(&id).unwrap();
        let init = Arc::new(Process::new(id.as_str(), None, StdioPaths::default(), (0, 0)));
        init.set_pids(reservation.pid, 7);
        init.set_running();
        let container = Arc::new(Container {
            bundle: "/nonexistent".into(),
            init: init.clone(),
            hooks: Hooks::of(&json!({}), id.as_str(), Path::new("/nonexistent")).unwrap(),
            frozen: AtomicBool::new(false),
            oom_score_adj: None,
            host_limits: HostLimits::OfThePod,
            owners: None,
            user_namespace: None,
            disks: Default::default(),
            execs: Mutex::default(),
            undo: Mutex::default(),
            id,
        });
        reservation.keep(container.clone());
        self.pod.watch_process(init);
        container
    }
}

#[tokio::test]
async fn a_guest_that_ignores_sigkill_is_ended() {
    let fake = Fake::with("deaf", Deaf).await;
    let container = fake.add("c");
    fake.pod.kill("c", None, SIGKILL, false).await.unwrap();
    assert_eq!(container.init.wait().await.unwrap().status, KILLED);
    assert!(fake.pod.stopped().is_some());
    assert_eq!(container.init.status(), Status::Stopped);
}

#[tokio::test]
async fn a_container_that_ignores_sigkill_does_not_take_others_along_while_the_guest_answers() {
    let fake = Fake::with("spared", Deaf).await;
    let stuck = fake.add("c");
    let other = fake.add("d");
    fake.pod.kill("c", None, SIGKILL, false).await.unwrap();
    tokio::time::sleep(KILL_PATIENCE * 3).await;
    assert_eq!(fake.pod.stopped(), None);
    assert_eq!(
        (stuck.init.status(), other.init.status()),
        (Status::Running, Status::Running)
    );
    fake.pod.finish(&other.init, 0);
    fake.pod.kill("c", None, SIGKILL, false).await.unwrap();
    assert_eq!(stuck.init.wait().await.unwrap().status, KILLED);
}

#[tokio::test]
async fn a_container_that_ignores_sigkill_is_not_borne_for_ever_although_the_guest_answers() {
    let fake = Fake::with("borne", Deaf).await;
    let stuck = fake.add("c");
    let other = fake.add("d");
    fake.pod.kill("c", None, SIGKILL, false).await.unwrap();
    let ended = tokio::time::timeout(KILL_MOST * 10, stuck.init.wait()).await;
    assert_eq!(ended.unwrap().unwrap().status, KILLED);
    assert_eq!(other.init.wait().await.unwrap().status, KILLED);
}

/// Takes no signal to its end, but lists its processes.
struct Evasive;

#[async_trait]
impl Service for Evasive {
    async fn signal(&self, _: &TtrpcContext, _: message::SignalRequest) -> ttrpc::Result<message::Empty> {
        Err(ttrpc::Error::RpcStatus(get_status(Code::DEADLINE_EXCEEDED, "no time")))
    }

    async fn wait(&self, _: &TtrpcContext, _: message::ProcessRequest) -> ttrpc::Result<message::WaitResponse> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn sigkill_is_answered_although_the_guest_does_not_take_it() {
    let fake = Fake::with("evasive", Evasive).await;
    let container = fake.add("c");
    fake.add("d");
    let answered = tokio::time::timeout(KILL_MOST * 10, fake.pod.kill("c", None, SIGKILL, false)).await;
    answered.unwrap().unwrap();
    assert_eq!(container.init.exit().unwrap().status, KILLED);
}

/// Keeps what it is to forget.
struct Retentive;

#[async_trait]
impl Service for Retentive {
    async fn wait(&self, _: &TtrpcContext, _: message::ProcessRequest) -> ttrpc::Result<message::WaitResponse> {
        std::future::pending().await
    }

    async fn delete(&self, _: &TtrpcContext, _: message::ProcessRequest) -> ttrpc::Result<message::WaitResponse> {
        Err(ttrpc::Error::RpcStatus(get_status(Code::INTERNAL, "no")))
    }
}

#[tokio::test]
async fn a_guest_that_keeps_an_ended_container_does_not_keep_its_files_on_the_host() {
    let fake = Fake::with("retentive", Retentive).await;
    let container = fake.add("c");
    fake.pod.finish(&container.init, 3);
    assert_eq!(fake.pod.delete("c", None).await.unwrap().1.status, 3);
    assert!(fake.pod.is_empty());
    assert_eq!(fake.pod.stopped(), None);
}

/// Reports ends and forgets nothing, as if it had no time.
struct Stubborn;

#[async_trait]
impl Service for Stubborn {
    async fn wait(&self, _: &TtrpcContext, _: message::ProcessRequest) -> ttrpc::Result<message::WaitResponse> {
        std::future::pending().await
    }

    async fn delete(&self, _: &TtrpcContext, _: message::ProcessRequest) -> ttrpc::Result<message::WaitResponse> {
        Err(ttrpc::Error::RpcStatus(get_status(Code::DEADLINE_EXCEEDED, "no time")))
    }
}

#[tokio::test]
async fn a_guest_that_does_not_forget_keeps_nobody_from_removing_the_container() {
    let fake = Fake::with("stubborn", Stubborn).await;
    for id in ["c", "d"] {
        fake.pod.finish(&fake.add(id).init, 3);
    }
    assert_eq!(fake.pod.delete("c", None).await.unwrap().1.status, 3);
    assert_eq!(fake.pod.stopped(), None, "the other container keeps the microVM");
    assert_eq!(fake.pod.delete("d", None).await.unwrap().1.status, 3);
    assert!(fake.pod.stopped().is_some());
    assert!(fake.pod.is_empty());
}

/// Does not even answer.
struct Hung;

#[async_trait]
impl Service for Hung {
    async fn signal(&self, _: &TtrpcContext, _: message::SignalRequest) -> ttrpc::Result<message::Empty> {
        std::future::pending().await
    }

    async fn wait(&self, _: &TtrpcContext, _: message::ProcessRequest) -> ttrpc::Result<message::WaitResponse> {
        std::future::pending().await
    }

    async fn pids(&self, _: &TtrpcContext, _: message::ContainerRequest) -> ttrpc::Result<message::PidsResponse> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn sigkill_in_a_guest_that_hangs_succeeds_with_the_end_of_its_microvm() {
    let fake = Fake::with("hung", Hung).await;
    let container = fake.add("c");
    fake.pod.kill("c", None, SIGKILL, false).await.unwrap();
    assert_eq!(container.init.exit().unwrap().status, KILLED);
}

/// Is busy deleting the container whenever it is asked for the end of one of its processes.
struct Deleting;

#[async_trait]
impl Service for Deleting {
    async fn wait(&self, _: &TtrpcContext, _: message::ProcessRequest) -> ttrpc::Result<message::WaitResponse> {
        let status = get_status(Code::FAILED_PRECONDITION, "is being created or deleted");
        Err(ttrpc::Error::RpcStatus(status))
    }
}

#[tokio::test]
async fn a_process_whose_container_is_being_deleted_does_not_take_the_pod_along() {
    let fake = Fake::with("deleting", Deleting).await;
    let container = fake.add("c");
    assert_eq!(container.init.wait().await.unwrap().status, KILLED);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fake.pod.stopped(), None);
}

#[tokio::test]
async fn a_guest_that_hangs_still_has_the_processes_that_clients_started() {
    let fake = Fake::with("pids", Hung).await;
    let container = fake.add("c");
    let pids = fake.pod.pids("c").await.unwrap();
    let pids: Vec<_> = pids.iter().map(|info| (info.pid, info.guest_pid)).collect();
    assert_eq!(pids, [(container.init.pid(), 7)]);
}

/// Reports kills for want of memory as fast as it is asked.
struct Shouting;

#[async_trait]
impl Service for Shouting {
    async fn next_event(&self, _: &TtrpcContext, _: message::Empty) -> ttrpc::Result<message::EventResponse> {
        Ok(message::EventResponse {
            oom_container_id: "c".into(),
            ..Default::default()
        })
    }

    async fn wait(&self, _: &TtrpcContext, _: message::ProcessRequest) -> ttrpc::Result<message::WaitResponse> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn out_of_memory_is_told_once_a_second() {
    let mut fake = Fake::with("shouting", Shouting).await;
    fake.add("c");
    tokio::time::sleep(Duration::from_millis(400)).await;
    let mut told = 0;
    while fake.events.try_recv().is_ok() {
        told += 1;
    }
    assert_eq!(told, 1);
}

#[tokio::test]
async fn a_second_deletion_leaves_a_successor_of_the_same_name_alone() {
    let fake = Fake::with("twice", Deaf).await;
    let first = fake.add("c");
    fake.pod.finish(&first.init, 0);
    let operation = first.init.operation.lock().await;
    let pod = fake.pod.clone();
    let second_deletion = tokio::spawn(async move { pod.delete("c", None).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    fake.pod.remove_container(&first).await;
    let successor = fake.add("c");
    drop(operation);
    let error = second_deletion.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(Arc::ptr_eq(&fake.pod.container("c").unwrap(), &successor));
}

#[tokio::test]
async fn resizing_without_a_terminal_is_no_failure() {
    let fake = Fake::with("resize", Deaf).await;
    fake.add("c");
    fake.pod.resize_pty("c", None, 80, 24).await.unwrap();
}
