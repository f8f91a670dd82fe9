//! The task API, versions 2 and 3: the same calls under two names.
//!
//! Checks what clients send (ids, specs, options), hands it to the pod, and says what happened as events.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_runtime::error::{Error, ErrorKind, Result, blocking};
use bulkhead_runtime::ids::{ContainerId, validate_exec_id};
use bulkhead_runtime::phase;
use bulkhead_runtime::pod::{ContainerSpec, Exit, Pod, ProcessState, RootfsMount, Status, StdioPaths, load_spec};
use containerd_shim_protos::api;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskIO, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::Task;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageFull};
use serde_json::Value;
use tokio::sync::watch;
use ttrpc::r#async::TtrpcContext;

use crate::bootstrap::membership_by;
use crate::error_codes::{answer, unimplemented};
use crate::events::{Process, timestamp};
use crate::options::RuntimeOptions;
use crate::sandbox_files;
use crate::stats;
use crate::supervisor::{Origin, Supervisor, detached};

/// Serves the task API of one pod.
pub struct TaskService {
    supervisor: Arc<Supervisor>,
}

impl TaskService {
    /// For the pod of `supervisor`.
    pub fn new(supervisor: Arc<Supervisor>) -> TaskService {
        TaskService { supervisor }
    }

    fn pod(&self, container: &str) -> Result<Arc<Pod>> {
        self.supervisor.pod(&format!("container {container}"))
    }
}

/// An empty exec id means the container's init.
fn exec(id: &str) -> Option<&str> {
    (!id.is_empty()).then_some(id)
}

fn process(container: &str, exec_id: &str) -> Process {
    Process {
        container: container.to_owned(),
        exec_id: exec(exec_id).map(str::to_owned),
    }
}

fn stdio(terminal: bool, stdin: &str, stdout: &str, stderr: &str) -> StdioPaths {
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    StdioPaths {
        terminal,
        stdin: path(stdin),
        stdout: path(stdout),
        stderr: path(stderr),
    }
}

fn text(path: Option<PathBuf>) -> String {
    path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The container but for its spec, which has to be read.
fn container_without_spec(request: &api::CreateTaskRequest, given_up: watch::Receiver<bool>) -> Result<ContainerSpec> {
    let id = ContainerId::try_from(request.id.as_str())?;
    if !request.checkpoint.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "container {id}: this runtime cannot restore checkpoint {}",
                request.checkpoint
            ),
        ));
    }
    let bundle = PathBuf::from(&request.bundle);
    if !bundle.is_absolute() {
        let message = format!("container {id}: bundle {:?} is not an absolute path", request.bundle);
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let rootfs = request.rootfs.iter().map(|mount| RootfsMount {
        fstype: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    });
    Ok(ContainerSpec {
        id,
        bundle,
        spec: Value::Null,
        rootfs: rootfs.collect(),
        stdio: stdio(request.terminal, &request.stdin, &request.stdout, &request.stderr),
        given_up,
    })
}

async fn create(supervisor: Arc<Supervisor>, request: api::CreateTaskRequest) -> Result<u32> {
    phase::over("create", &request.id);
    let options = RuntimeOptions::decode(request.options.as_ref())?;
    let creation = async |given_up| {
        let mut container = container_without_spec(&request, given_up)?;
        let sandbox = supervisor.current().filter(|(_, origin)| *origin == Origin::Sandbox);
        let sandbox = sandbox.map(|_| supervisor.launch().bundle.clone());
        let recorder = supervisor.clone();
        let (container, membership) = blocking("reading the bundle", move || {
            container.spec = load_spec(&container.bundle)?;
            recorder.record_state_dir(&container.bundle)?;
            if let Some(sandbox) = sandbox {
                sandbox_files::complete(&sandbox, &mut container.spec)?;
            }
            let membership = membership_by(&container.spec, &container.bundle, &container.id);
            let membership = membership.map_err(|e| Error::new(ErrorKind::InvalidArgument, format!("{e:#}")))?;
            Ok((container, membership))
        })
        .await?;
        supervisor.create(container, membership, options).await
    };
    let pid = supervisor.creating(&request.id, creation).await?;
    let bundle = request.bundle.clone();
    // Before anything is waited for: the exit of an init that ends at once comes after it.
    let event = TaskCreate {
        container_id: request.id,
        bundle: request.bundle,
        rootfs: request.rootfs,
        io: MessageField::some(TaskIO {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
            ..Default::default()
        }),
        checkpoint: request.checkpoint,
        pid,
        ..Default::default()
    };
    supervisor.order().publish(supervisor.event(&event));
    let pid_file = PathBuf::from(&bundle).join("init.pid");
    // Only `delete` reads it, and does without.
    let _ = blocking("writing the pid", move || Ok(std::fs::write(pid_file, pid.to_string()))).await;
    Ok(pid)
}

async fn start(supervisor: Arc<Supervisor>, pod: Arc<Pod>, request: api::StartRequest) -> Result<u32> {
    let process = process(&request.id, &request.exec_id);
    let order = supervisor.order();
    let first = order.starting(&process);
    let pid = match pod.start(&request.id, exec(&request.exec_id)).await {
        Ok(pid) => pid,
        Err(error) => {
            if first {
                order.not_started(&process);
            }
            return Err(error);
        }
    };
    let event = if request.exec_id.is_empty() {
        supervisor.event(&TaskStart {
            container_id: request.id,
            pid,
            ..Default::default()
        })
    } else {
        let (container_id, exec_id) = (request.id, request.exec_id);
        supervisor.event(&TaskExecStarted {
            container_id,
            exec_id,
            pid,
            ..Default::default()
        })
    };
    order.started(&process, event);
    Ok(pid)
}

async fn delete(supervisor: Arc<Supervisor>, pod: Arc<Pod>, request: api::DeleteRequest) -> Result<(u32, Exit)> {
    let (pid, exit) = pod.delete(&request.id, exec(&request.exec_id)).await?;
    let order = supervisor.order();
    order.wait_for_exit(&process(&request.id, &request.exec_id)).await;
    if request.exec_id.is_empty() {
        order.forget(&request.id);
        let event = TaskDelete {
            container_id: request.id,
            pid,
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)).into(),
            ..Default::default()
        };
        order.publish(supervisor.event(&event));
        supervisor.end_soon_if_empty();
    }
    Ok((pid, exit))
}

async fn add_exec(supervisor: Arc<Supervisor>, pod: Arc<Pod>, request: api::ExecProcessRequest) -> Result<()> {
    validate_exec_id(&request.exec_id)?;
    let spec = request.spec.into_option().map(|any| any.value).unwrap_or_default();
    let streams = stdio(request.terminal, &request.stdin, &request.stdout, &request.stderr);
    pod.add_exec(&request.id, &request.exec_id, &spec, streams).await?;
    let event = TaskExecAdded {
        container_id: request.id,
        exec_id: request.exec_id,
        ..Default::default()
    };
    supervisor.order().publish(supervisor.event(&event));
    Ok(())
}

fn state_answer(request: api::StateRequest, state: ProcessState) -> api::StateResponse {
    let status = match state.status {
        Status::Created => api::Status::CREATED,
        Status::Running => api::Status::RUNNING,
        Status::Paused => api::Status::PAUSED,
        Status::Stopped => api::Status::STOPPED,
    };
    api::StateResponse {
        id: request.id,
        exec_id: request.exec_id,
        bundle: state.bundle.to_string_lossy().into_owned(),
        pid: state.pid,
        status: status.into(),
        stdin: text(state.stdio.stdin),
        stdout: text(state.stdio.stdout),
        stderr: text(state.stdio.stderr),
        terminal: state.stdio.terminal,
        exit_status: state.exit.map(|exit| exit.status).unwrap_or_default(),
        exited_at: Some(state.exit.map_or_else(never, |exit| timestamp(exit.at))).into(),
        ..Default::default()
    }
}

/// Go's zero time, by which clients know a process that has not ended.
fn never() -> Timestamp {
    Timestamp {
        seconds: -62_135_596_800,
        ..Default::default()
    }
}

/// What `ctr task ps` shows beside a pid. containerd's clients read only this type, so the guest's number stands in it too.
fn details(exec_id: Option<String>, guest_pid: u32) -> Any {
    let exec_id = match exec_id {
        Some(id) => format!("{id} (guest pid {guest_pid})"),
        None => format!("guest pid {guest_pid}"),
    };
    let details = ProcessDetails {
        exec_id,
        ..Default::default()
    };
    Any {
        type_url: ProcessDetails::descriptor().full_name().to_owned(),
        value: details.write_to_bytes().unwrap_or_default(),
        ..Default::default()
    }
}

#[async_trait]
impl Task for TaskService {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        tracing::debug!(id = request.id, bundle = request.bundle, "create");
        let pid = detached(create(self.supervisor.clone(), request)).await?;
        Ok(api::CreateTaskResponse {
            pid,
            ..Default::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: api::StartRequest) -> ttrpc::Result<api::StartResponse> {
        tracing::debug!(id = request.id, exec = request.exec_id, "start");
        let pod = self.pod(&request.id).map_err(answer)?;
        let init = request.exec_id.is_empty().then(|| request.id.clone());
        init.iter().for_each(|id| phase::over("start", id));
        let pid = detached(start(self.supervisor.clone(), pod, request)).await?;
        init.iter().for_each(|id| phase::over("started", id));
        Ok(api::StartResponse {
            pid,
            ..Default::default()
        })
    }

    async fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> ttrpc::Result<api::StateResponse> {
        let pod = self.pod(&request.id).map_err(answer)?;
        let state = pod.state(&request.id, exec(&request.exec_id)).await.map_err(answer)?;
        Ok(state_answer(request, state))
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> ttrpc::Result<api::WaitResponse> {
        let pod = self.pod(&request.id).map_err(answer)?;
        let exit = pod.wait(&request.id, exec(&request.exec_id)).await.map_err(answer)?;
        let exited_at = Some(timestamp(exit.at)).into();
        Ok(api::WaitResponse {
            exit_status: exit.status,
            exited_at,
            ..Default::default()
        })
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<api::Empty> {
        tracing::debug!(
            id = request.id,
            exec = request.exec_id,
            signal = request.signal,
            all = request.all,
            "kill"
        );
        let pod = self.pod(&request.id).map_err(answer)?;
        detached(async move {
            pod.kill(&request.id, exec(&request.exec_id), request.signal, request.all)
                .await
        })
        .await?;
        Ok(api::Empty::default())
    }

    async fn delete(&self, _: &TtrpcContext, request: api::DeleteRequest) -> ttrpc::Result<api::DeleteResponse> {
        tracing::debug!(id = request.id, exec = request.exec_id, "delete");
        if request.exec_id.is_empty() {
            self.supervisor.give_up(&request.id);
        }
        let pod = self.pod(&request.id).map_err(answer)?;
        let init = request.exec_id.is_empty().then(|| request.id.clone());
        init.iter().for_each(|id| phase::over("delete", id));
        let (pid, exit) = detached(delete(self.supervisor.clone(), pod, request)).await?;
        init.iter().for_each(|id| phase::over("deleted", id));
        let exited_at = Some(timestamp(exit.at)).into();
        Ok(api::DeleteResponse {
            pid,
            exit_status: exit.status,
            exited_at,
            ..Default::default()
        })
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> ttrpc::Result<api::Empty> {
        tracing::debug!(id = request.id, exec = request.exec_id, "exec");
        let pod = self.pod(&request.id).map_err(answer)?;
        detached(add_exec(self.supervisor.clone(), pod, request)).await?;
        Ok(api::Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: api::ResizePtyRequest) -> ttrpc::Result<api::Empty> {
        let pod = self.pod(&request.id).map_err(answer)?;
        let exec_id = exec(&request.exec_id);
        pod.resize_pty(&request.id, exec_id, request.width, request.height)
            .await
            .map_err(answer)?;
        Ok(api::Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> ttrpc::Result<api::Empty> {
        let pod = self.pod(&request.id).map_err(answer)?;
        if request.stdin {
            pod.close_io(&request.id, exec(&request.exec_id))
                .await
                .map_err(answer)?;
        }
        Ok(api::Empty::default())
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> ttrpc::Result<api::PidsResponse> {
        let pod = self.pod(&request.id).map_err(answer)?;
        let pids = pod.pids(&request.id).await.map_err(answer)?;
        let processes = pids.into_iter().map(|info| api::ProcessInfo {
            pid: info.pid,
            info: MessageField::some(details(info.exec_id, info.guest_pid)),
            ..Default::default()
        });
        Ok(api::PidsResponse {
            processes: processes.collect(),
            ..Default::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> ttrpc::Result<api::Empty> {
        let pod = self.pod(&request.id).map_err(answer)?;
        let supervisor = self.supervisor.clone();
        detached(async move {
            pod.pause(&request.id).await?;
            let event = TaskPaused {
                container_id: request.id,
                ..Default::default()
            };
            supervisor.order().publish(supervisor.event(&event));
            Ok(api::Empty::default())
        })
        .await
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> ttrpc::Result<api::Empty> {
        let pod = self.pod(&request.id).map_err(answer)?;
        let supervisor = self.supervisor.clone();
        detached(async move {
            pod.resume(&request.id).await?;
            let event = TaskResumed {
                container_id: request.id,
                ..Default::default()
            };
            supervisor.order().publish(supervisor.event(&event));
            Ok(api::Empty::default())
        })
        .await
    }

    async fn stats(&self, _: &TtrpcContext, request: api::StatsRequest) -> ttrpc::Result<api::StatsResponse> {
        let pod = self.pod(&request.id).map_err(answer)?;
        let counters = pod.stats(&request.id).await.map_err(answer)?;
        let stats = MessageField::some(stats::any(&stats::metrics(&counters)));
        Ok(api::StatsResponse {
            stats,
            ..Default::default()
        })
    }

    /// containerd asks every shim that it finds after a restart, also those whose container is not created yet.
    async fn connect(&self, _: &TtrpcContext, request: api::ConnectRequest) -> ttrpc::Result<api::ConnectResponse> {
        let task_pid = match self.supervisor.current() {
            Some((pod, _)) => pod
                .state(&request.id, None)
                .await
                .map(|state| state.pid)
                .unwrap_or_default(),
            None => 0,
        };
        Ok(api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: api::ShutdownRequest) -> ttrpc::Result<api::Empty> {
        tracing::debug!(id = request.id, "shutdown");
        self.supervisor.shut_down_if_empty().await;
        Ok(api::Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: api::CheckpointTaskRequest) -> ttrpc::Result<api::Empty> {
        Err(unimplemented("this runtime cannot checkpoint containers"))
    }

    async fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> ttrpc::Result<api::Empty> {
        let pod = self.pod(&request.id).map_err(answer)?;
        detached(async move {
            pod.update(&request.id, &request.resources.value).await?;
            Ok(api::Empty::default())
        })
        .await
    }
}

#[cfg(test)]
#[path = "task_service_test.rs"]
mod task_service_test;
