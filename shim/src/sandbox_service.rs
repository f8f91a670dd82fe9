//! The sandbox API (`sandboxer = "shim"`): the pod is an object of its own, without a pause container.
//!
//! Order: CreateSandbox checks and remembers, StartSandbox boots, then containers come through the task API on the same socket.
//! StopSandbox ends the microVM, ShutdownSandbox ends the shim; both may come twice, or without the calls before them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bulkhead_runtime::error::{Error, ErrorKind, Result, blocking};
use bulkhead_runtime::pod::PodSpec;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::sandbox_api as api;
use containerd_shim_protos::sandbox_async::Sandbox as Service;
use ttrpc::r#async::TtrpcContext;

use crate::error_codes::answer;
use crate::events::timestamp;
use crate::sandbox_config::Sandbox;
use crate::sandbox_files;
use crate::stats;
use crate::supervisor::{Supervisor, detached};

/// 128 and SIGKILL: how a sandbox ends whose microVM was lost.
const LOST: u32 = 137;

/// Serves the sandbox API of one pod.
pub struct SandboxService {
    supervisor: Arc<Supervisor>,
    // Never held across an await.
    record: Arc<Mutex<Option<Record>>>,
}

/// What CreateSandbox and StartSandbox left.
#[derive(Debug, Clone)]
struct Record {
    spec: PodSpec,
    started: Option<Started>,
}

#[derive(Debug, Clone, Copy)]
struct Started {
    pid: u32,
    at: SystemTime,
}

impl SandboxService {
    /// For the pod of `supervisor`.
    pub fn new(supervisor: Arc<Supervisor>) -> SandboxService {
        SandboxService {
            supervisor,
            record: Arc::default(),
        }
    }

    fn record(&self, id: &str) -> Result<Record> {
        let record = lock(&self.record).clone();
        let record = record.filter(|record| record.spec.id.as_str() == id);
        record.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("sandbox {id} was not created in this shim"),
            )
        })
    }
}

fn lock(record: &Mutex<Option<Record>>) -> std::sync::MutexGuard<'_, Option<Record>> {
    // Nothing panics while it is held.
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn create(
    supervisor: Arc<Supervisor>,
    records: Arc<Mutex<Option<Record>>>,
    request: api::CreateSandboxRequest,
) -> Result<()> {
    let launch = supervisor.launch();
    if request.sandbox_id != launch.pod_id {
        let message = format!(
            "this shim was started for sandbox {}, not for {:.64}",
            launch.pod_id, request.sandbox_id
        );
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    if lock(&records).is_some() {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("sandbox {} exists already", launch.pod_id),
        ));
    }
    let sandbox = Sandbox::read(&launch.namespace, request)?;
    let bundle = launch.bundle.clone();
    let spec = blocking("making the sandbox's files", move || {
        sandbox_files::mount_memory(&bundle)?;
        sandbox_files::write(&bundle, &sandbox)?;
        Ok(sandbox.spec)
    })
    .await?;
    *lock(&records) = Some(Record { spec, started: None });
    Ok(())
}

async fn start(supervisor: Arc<Supervisor>, records: Arc<Mutex<Option<Record>>>, spec: PodSpec) -> Result<Started> {
    let pid = supervisor.boot(spec).await?;
    let started = Started {
        pid,
        at: SystemTime::now(),
    };
    if let Some(record) = lock(&records).as_mut() {
        record.started = Some(started);
    }
    Ok(started)
}

#[async_trait]
impl Service for SandboxService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::CreateSandboxRequest,
    ) -> ttrpc::Result<api::CreateSandboxResponse> {
        tracing::debug!(id = request.sandbox_id, netns = request.netns_path, "create sandbox");
        detached(create(self.supervisor.clone(), self.record.clone(), request)).await?;
        Ok(api::CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StartSandboxRequest,
    ) -> ttrpc::Result<api::StartSandboxResponse> {
        tracing::debug!(id = request.sandbox_id, "start sandbox");
        let spec = self.record(&request.sandbox_id).map_err(answer)?.spec;
        let started = detached(start(self.supervisor.clone(), self.record.clone(), spec)).await?;
        let created_at = MessageField::some(timestamp(started.at));
        Ok(api::StartSandboxResponse {
            pid: started.pid,
            created_at,
            ..Default::default()
        })
    }

    async fn platform(&self, _: &TtrpcContext, _: api::PlatformRequest) -> ttrpc::Result<api::PlatformResponse> {
        let mut response = api::PlatformResponse::default();
        let platform = response.platform.mut_or_insert_default();
        platform.os = "linux".to_owned();
        platform.architecture = "amd64".to_owned();
        Ok(response)
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StopSandboxRequest,
    ) -> ttrpc::Result<api::StopSandboxResponse> {
        tracing::debug!(id = request.sandbox_id, "stop sandbox");
        let supervisor = self.supervisor.clone();
        detached(async move { supervisor.end().await }).await?;
        Ok(api::StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::WaitSandboxRequest,
    ) -> ttrpc::Result<api::WaitSandboxResponse> {
        self.record(&request.sandbox_id).map_err(answer)?;
        let end = self.supervisor.ended().await;
        Ok(api::WaitSandboxResponse {
            exit_status: if end.by_itself { LOST } else { 0 },
            exited_at: MessageField::some(timestamp(end.at)),
            ..Default::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: api::SandboxStatusRequest,
    ) -> ttrpc::Result<api::SandboxStatusResponse> {
        let record = self.record(&request.sandbox_id).map_err(answer)?;
        let ended = self.supervisor.ended_at();
        let ready = record.started.is_some() && ended.is_none();
        Ok(api::SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: record.started.map(|started| started.pid).unwrap_or_default(),
            state: if ready { "SANDBOX_READY" } else { "SANDBOX_NOTREADY" }.to_owned(),
            created_at: record.started.map(|started| timestamp(started.at)).into(),
            exited_at: ended.map(timestamp).into(),
            ..Default::default()
        })
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: api::PingRequest) -> ttrpc::Result<api::PingResponse> {
        self.record(&request.sandbox_id).map_err(answer)?;
        if self.supervisor.ended_at().is_some() {
            let message = format!("the microVM of sandbox {} has ended", request.sandbox_id);
            return Err(answer(Error::new(ErrorKind::Unavailable, message)));
        }
        Ok(api::PingResponse::default())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownSandboxRequest,
    ) -> ttrpc::Result<api::ShutdownSandboxResponse> {
        tracing::debug!(id = request.sandbox_id, "shutdown sandbox");
        let supervisor = self.supervisor.clone();
        detached(async move { supervisor.shut_down().await }).await?;
        Ok(api::ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: api::SandboxMetricsRequest,
    ) -> ttrpc::Result<api::SandboxMetricsResponse> {
        let pod = self
            .supervisor
            .pod(&format!("sandbox {}", request.sandbox_id))
            .map_err(answer)?;
        let files = blocking("reading the pod's counters", move || {
            Ok(stats::host_files(pod.vmm_pid()))
        })
        .await
        .map_err(answer)?;
        let mut response = api::SandboxMetricsResponse::default();
        let metric = response.metrics.mut_or_insert_default();
        metric.timestamp = MessageField::some(timestamp(SystemTime::now()));
        metric.data = MessageField::some(stats::any(&stats::metrics(&files)));
        metric.id = request.sandbox_id;
        Ok(response)
    }
}
