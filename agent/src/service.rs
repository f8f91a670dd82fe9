//! The agent's ttrpc service: from requests to the modules that do the work, and from their errors to status codes.

use crate::apart::apart;
use crate::clock;
use crate::container::{Containers, Places, cgroup, share};
use crate::cpus;
use crate::disks;
use crate::error::{Error, chain};
use crate::events::Event;
use crate::kmsg;
use crate::memory;
use crate::power;
use crate::reaper::Reaper;
use crate::streams::Streams;
use crate::transport::Listener;
use async_trait::async_trait;
use bulkhead_agent_protocol::agent::{
    ContainerRequest, CreateContainerRequest, DiskRequest, Empty, EventResponse, ExecRequest, GrowMemoryRequest,
    HelloRequest, HelloResponse, LookAgainRequest, PidsResponse, ProcessRequest, ProcessResponse, ResizePtyRequest,
    SetFrozenRequest, SignalRequest, StatsResponse, SyncClockRequest, SyncClockResponse, UpdateRequest, UseCpusRequest,
    WaitResponse,
};
use bulkhead_agent_protocol::agent_ttrpc;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::AbortHandle;
use ttrpc::r#async::TtrpcContext;

type Answer<T> = ttrpc::Result<T>;

/// Serves the protocol for one pod.
pub struct Service {
    containers: Containers,
    /// What watches the containers' memory.
    growth: Mutex<Option<AbortHandle>>,
}

/// Serves control requests and streams on two listeners until the guest ends.
pub async fn serve(control: Listener, streams: Listener, places: Places) -> std::io::Result<()> {
    let reaper = Reaper::start()?;
    let table = Arc::new(Streams::default());
    tokio::spawn(table.clone().serve(streams));
    let service = Arc::new(Service {
        containers: Containers::new(places, reaper, table),
        growth: Mutex::default(),
    });
    let connections =
        futures_util::stream::unfold(
            control,
            |control| async move { Some((control.accept().await, control)) },
        );
    let mut server = ttrpc::r#async::Server::new()
        .add_listener(ttrpc::r#async::transport::Listener::new(connections))
        .register_service(agent_ttrpc::create_agent(service));
    server.start().await.map_err(std::io::Error::other)?;
    std::future::pending::<()>().await;
    Ok(())
}

impl Service {
    fn shut_down(&self) {
        self.containers.kill_all();
        power::off_soon();
    }
}

#[async_trait]
impl agent_ttrpc::Agent for Service {
    async fn hello(&self, _: &TtrpcContext, request: HelloRequest) -> Answer<HelloResponse> {
        if request.realtime_ns != 0 {
            clock::set(request.realtime_ns).map_err(|error| Error::internal("cannot set the guest's clock", &error))?;
        }
        clock::add_entropy(&request.entropy).map_err(|error| Error::internal("cannot add entropy", &error))?;
        if !request.hostname.is_empty() {
            nix::unistd::sethostname(&request.hostname)
                .map_err(|error| Error::internal(format!("cannot set host name {:?}", request.hostname), &error))?;
        }
        for (name, value) in &request.sysctls {
            if let Err(error) = std::fs::write(Path::new("/proc/sys").join(name.replace('.', "/")), value) {
                kmsg::notice(&format!("cannot set sysctl {name}={value}: {error}"));
            }
        }
        if let Err(error) = cgroup::leave_room(Path::new(cgroup::ROOT)) {
            kmsg::notice(&format!("containers may take all processes: {}", chain(&error)));
        }
        let kernel = nix::sys::utsname::uname().map_err(|error| Error::internal("uname", &error))?;
        Ok(HelloResponse {
            agent_version: env!("CARGO_PKG_VERSION").to_string(),
            kernel_release: kernel.release().to_string_lossy().into_owned(),
            ..Default::default()
        })
    }

    async fn create_container(&self, _: &TtrpcContext, request: CreateContainerRequest) -> Answer<ProcessResponse> {
        Ok(started(self.containers.create(&request).await?))
    }

    async fn start_container(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<Empty> {
        self.containers.start(&request.container_id).await?;
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> Answer<ProcessResponse> {
        Ok(started(self.containers.exec(&request).await?))
    }

    async fn signal(&self, _: &TtrpcContext, request: SignalRequest) -> Answer<Empty> {
        self.containers.signal(&request).await?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: ProcessRequest) -> Answer<WaitResponse> {
        Ok(self.containers.wait(&request.container_id, &request.exec_id).await?)
    }

    async fn delete(&self, _: &TtrpcContext, request: ProcessRequest) -> Answer<WaitResponse> {
        Ok(self.containers.delete(&request.container_id, &request.exec_id).await?)
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Answer<Empty> {
        let process = self.containers.process(&request.container_id, &request.exec_id)?;
        process.resize(request.width, request.height)?;
        Ok(Empty::default())
    }

    async fn pids(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<PidsResponse> {
        Ok(PidsResponse {
            guest_pids: self.containers.pids(&request.container_id).await?,
            ..Default::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: ContainerRequest) -> Answer<StatsResponse> {
        Ok(StatsResponse {
            files: self.containers.stats(&request.container_id)?,
            ..Default::default()
        })
    }

    async fn set_frozen(&self, _: &TtrpcContext, request: SetFrozenRequest) -> Answer<Empty> {
        self.containers
            .set_frozen(&request.container_id, request.frozen)
            .await?;
        Ok(Empty::default())
    }

    async fn next_event(&self, _: &TtrpcContext, _: Empty) -> Answer<EventResponse> {
        let event = self.containers.events().next().await;
        let mut answer = EventResponse::default();
        match event {
            Event::OutOfMemory(container) => answer.oom_container_id = container,
            Event::MemoryWanted(bytes) => answer.wanted_bytes = bytes,
        }
        Ok(answer)
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateRequest) -> Answer<Empty> {
        self.containers
            .update(&request.container_id, &request.resources)
            .await?;
        Ok(Empty::default())
    }

    async fn grow_memory(&self, _: &TtrpcContext, request: GrowMemoryRequest) -> Answer<Empty> {
        let (group, events) = (self.containers.top_cgroup(), self.containers.events().clone());
        let watch = tokio::spawn(memory::grow(group, request.bytes, events)).abort_handle();
        let earlier = self
            .growth
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(watch);
        if let Some(earlier) = earlier {
            earlier.abort();
        }
        Ok(Empty::default())
    }

    async fn use_cpus(&self, _: &TtrpcContext, request: UseCpusRequest) -> Answer<Empty> {
        let online = move || cpus::bring_online(cpus::SYSFS.as_ref(), request.count);
        blocking("cannot use more CPUs", online).await?;
        Ok(Empty::default())
    }

    async fn forget_files(&self, _: &TtrpcContext, _: Empty) -> Answer<Empty> {
        // It goes through all that is cached.
        blocking("cannot make the guest's kernel forget files", share::forget_unused).await?;
        Ok(Empty::default())
    }

    async fn look_again(&self, _: &TtrpcContext, request: LookAgainRequest) -> Answer<Empty> {
        let look = move || {
            share::look_again(&request.paths);
            Ok::<_, std::convert::Infallible>(())
        };
        blocking("cannot look at files", look).await?;
        Ok(Empty::default())
    }

    async fn rescan_bus(&self, _: &TtrpcContext, _: Empty) -> Answer<Empty> {
        blocking("cannot look for devices", disks::rescan).await?;
        Ok(Empty::default())
    }

    async fn let_go_disk(&self, _: &TtrpcContext, request: DiskRequest) -> Answer<Empty> {
        let slot = request.slot;
        blocking("cannot let a disk go", move || disks::let_go(slot)).await?;
        Ok(Empty::default())
    }

    async fn sync_clock(&self, _: &TtrpcContext, request: SyncClockRequest) -> Answer<SyncClockResponse> {
        let offset_ns = clock::sync(request.realtime_ns, request.step)
            .map_err(|error| Error::internal("cannot correct the guest's clock", &error))?;
        Ok(SyncClockResponse {
            offset_ns,
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: Empty) -> Answer<Empty> {
        self.shut_down();
        Ok(Empty::default())
    }
}

/// Runs work that only a thread can wait for.
async fn blocking<E: std::error::Error + Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Answer<()> {
    let failed = |error: &dyn std::error::Error| Error::internal(what, error);
    let done = apart(work).await;
    Ok(done.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?)
}

fn started(guest_pid: u32) -> ProcessResponse {
    ProcessResponse {
        guest_pid,
        ..Default::default()
    }
}
