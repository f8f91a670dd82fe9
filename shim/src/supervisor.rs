//! The pod's life as containerd sees it: booted by the first container or by the sandbox API, joined by others, ended when it
//! is empty or told to. Both services call in here; the runtime does the work.
//!
//! A client that goes away cancels its call, so everything that changes the pod runs as a task of its own ([`detached`]).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bulkhead_runtime::config::Config;
use bulkhead_runtime::error::{Error, ErrorKind, Result, blocking};
use bulkhead_runtime::phase;
use bulkhead_runtime::pod::{ContainerSpec, Pod, PodEvent, PodSpec};
use containerd_shim_protos::events::task::{TaskExit, TaskOOM};
use tokio::sync::{RwLock, mpsc, watch};

use crate::bootstrap::{Launch, Membership, record_state_dir};
use crate::error_codes;
use crate::events::{Order, Process, Queue, envelope, timestamp};
use crate::options::RuntimeOptions;

/// How long Shutdown may take before it is answered; containerd waits 3 s.
const SHUTDOWN_ANSWER: Duration = Duration::from_millis(2500);

/// Who made the pod, which decides who ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Its first container; it ends with its last.
    Container,
    /// The sandbox API, which ends it.
    Sandbox,
}

/// How the microVM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Host's clock.
    pub at: SystemTime,
    /// Nobody had asked for it.
    pub by_itself: bool,
}

/// One for each shim.
pub struct Supervisor {
    launch: Launch,
    config: Config,
    order: Order,
    /// Read while a container is created in the living pod; written while the pod is booted, or ended because it is empty.
    gate: RwLock<()>,
    // Guards the pair below; never held across an await.
    pod: Mutex<Option<(Arc<Pod>, Origin)>>,
    /// Containers that are being created, to be told when nobody wants them any more.
    creations: Mutex<BTreeMap<String, watch::Sender<bool>>>,
    ended: watch::Sender<Option<End>>,
    /// The shim is to exit. Set behind the gate: from then on no pod is booted.
    finished: watch::Sender<bool>,
}

impl Supervisor {
    /// For the pod that `launch` names, with the content of its config file; events go into `queue`.
    pub fn new(launch: Launch, config: Config, queue: Queue) -> Supervisor {
        Supervisor {
            launch,
            config,
            order: Order::new(queue),
            gate: RwLock::default(),
            pod: Mutex::default(),
            creations: Mutex::default(),
            ended: watch::Sender::new(None),
            finished: watch::Sender::new(false),
        }
    }

    /// What `start` handed over.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// Notes in the bundle of a further container where the pod's state is.
    pub fn record_state_dir(&self, bundle: &Path) -> Result<()> {
        // The server has done that for the bundle that it was started in.
        if bundle == self.launch.bundle {
            return Ok(());
        }
        let recorded = record_state_dir(bundle, &self.config);
        recorded.map_err(|e| Error::new(ErrorKind::Internal, format!("{e:#}")))
    }

    /// Where events go in.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Wraps an event of this pod.
    pub fn event(&self, event: &impl containerd_shim::event::Event) -> containerd_shim_protos::shim::event::Envelope {
        envelope(&self.launch.namespace, event)
    }

    /// The pod, or NotFound for the object that was asked for.
    pub fn pod(&self, asked_for: &str) -> Result<Arc<Pod>> {
        let pod = self.current().map(|(pod, _)| pod);
        pod.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("{asked_for}: pod {} is not running", self.launch.pod_id),
            )
        })
    }

    /// The pod and who made it, if there is one.
    pub fn current(&self) -> Option<(Arc<Pod>, Origin)> {
        self.lock().clone()
    }

    /// Runs the whole creation of a container, which [`Supervisor::give_up`] may end.
    pub async fn creating<F>(
        self: &Arc<Self>,
        id: &str,
        creation: impl FnOnce(watch::Receiver<bool>) -> F,
    ) -> Result<u32>
    where
        F: Future<Output = Result<u32>>,
    {
        let given_up = match self.creations().entry(id.to_owned()) {
            Entry::Vacant(free) => free.insert(watch::Sender::new(false)).subscribe(),
            Entry::Occupied(_) => {
                let message = format!("container {id}: already exists");
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
        };
        let created = creation(given_up).await;
        let given_up = self.creations().remove(id).is_some_and(|told| *told.borrow());
        if !given_up {
            return created;
        }
        if created.is_ok() {
            self.take_back(id).await;
        }
        self.shut_down_if_empty().await;
        created.and_then(|_| {
            let message = format!("container {id}: was deleted while it was being created");
            Err(Error::new(ErrorKind::NotFound, message))
        })
    }

    async fn take_back(self: &Arc<Self>, id: &str) {
        let Some((pod, _)) = self.current() else { return };
        if let Err(error) = pod.delete(id, None).await {
            tracing::warn!(id, %error, "a container that nobody wants any more cannot be deleted");
            // A pod that bears its name was made for it.
            if id == self.launch.pod_id.as_str() {
                let _ = self.end().await;
            }
        }
    }

    /// containerd deletes a container whose creation its client has given up, as soon as that, and asks no more. A creation that is
    /// under way then is taken back, at its end or while it waits for the host.
    pub fn give_up(&self, container: &str) {
        if let Some(creation) = self.creations().get(container) {
            creation.send_replace(true);
        }
    }

    /// Creates a container: boots the pod for the first one. Gives its pid.
    pub async fn create(
        self: &Arc<Self>,
        container: ContainerSpec,
        membership: Membership,
        asked: RuntimeOptions,
    ) -> Result<u32> {
        {
            let _creating = self.gate.read().await;
            if let Some((pod, origin)) = self.current() {
                self.check_membership(&container, &membership, origin)?;
                return pod.create_container(container).await;
            }
        }
        let _booting = self.gate.write().await;
        // Another first container may have been faster.
        if let Some((pod, origin)) = self.current() {
            self.check_membership(&container, &membership, origin)?;
            return pod.create_container(container).await;
        }
        if let Membership::Joins { pod, required: true } = &membership {
            let message = format!("container {}: its sandbox {pod} is not running", container.id);
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        self.check_membership(&container, &membership, Origin::Container)?;
        self.check_open()?;
        let config = self.config_for(asked).await?;
        let spec = PodSpec::from_spec(&self.launch.namespace, membership.pod_id().clone(), &container.spec)?;
        let (pod, events, pid) = Pod::boot_with(spec, container, &config).await?;
        self.adopt(pod, events, Origin::Container);
        phase::over("created", &self.launch.pod_id);
        Ok(pid)
    }

    /// Boots an empty pod for the sandbox API. Gives the vmm's pid.
    pub async fn boot(self: &Arc<Self>, spec: PodSpec) -> Result<u32> {
        let _booting = self.gate.write().await;
        if self.current().is_some() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("sandbox {} runs already", self.launch.pod_id),
            ));
        }
        self.check_open()?;
        let (pod, events) = Pod::boot(spec, &self.config).await?;
        let pid = pod.vmm_pid();
        self.adopt(pod, events, Origin::Sandbox);
        Ok(pid)
    }

    /// Ends the pod: powers the guest off and removes everything it had. Without a pod there is nothing to do.
    pub async fn end(&self) -> Result<()> {
        // Not behind the gate: a creation that hangs holds it, and is released by the pod's end.
        if let Some((pod, _)) = self.current() {
            return self.end_pod(&pod).await;
        }
        // It may be booting.
        let _ending = self.gate.write().await;
        match self.current() {
            Some((pod, _)) => self.end_pod(&pod).await,
            None => Ok(()),
        }
    }

    async fn end_pod(&self, pod: &Arc<Pod>) -> Result<()> {
        let result = pod.shutdown().await;
        {
            let mut current = self.lock();
            if !current.as_ref().is_some_and(|(now, _)| Arc::ptr_eq(now, pod)) {
                // Somebody else has ended it too; there may be a new one by now.
                return result;
            }
            *current = None;
        }
        self.mark_ended(false);
        result
    }

    /// Ends the pod and lets the shim exit.
    pub async fn shut_down(&self) -> Result<()> {
        let ended = self.end().await;
        let _ending = self.gate.write().await;
        // One that was booted meanwhile.
        let last = match self.current() {
            Some((pod, _)) => self.end_pod(&pod).await,
            None => Ok(()),
        };
        self.finish();
        ended.and(last)
    }

    /// After a container was deleted: a pod of containers ends with its last one, without keeping the caller waiting.
    pub fn end_soon_if_empty(self: &Arc<Self>) {
        if self.is_in_use() {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            let _ending = this.gate.write().await;
            this.end_unless_used().await;
        });
    }

    /// The task API's Shutdown, which containerd before 2.0 calls after each container: only an empty pod's shim ends.
    pub async fn shut_down_if_empty(self: &Arc<Self>) {
        if self.is_in_use() {
            return;
        }
        let this = self.clone();
        let ending = tokio::spawn(async move {
            let _ending = this.gate.write().await;
            if this.end_unless_used().await {
                this.finish();
            }
        });
        // Answered in time even when the guest takes longer: the task goes on.
        let _ = tokio::time::timeout(SHUTDOWN_ANSWER, ending).await;
    }

    /// Lets the shim exit. Called behind the gate.
    fn finish(&self) {
        self.finished.send_replace(true);
    }

    /// Answers when the shim is to exit.
    pub async fn finished(&self) {
        // The sender lives as long as `self`.
        let _ = self.finished.subscribe().wait_for(|finished| *finished).await;
    }

    /// When the microVM ended, once it has.
    pub fn ended_at(&self) -> Option<SystemTime> {
        self.ended.borrow().map(|end| end.at)
    }

    /// Answers when the microVM has ended.
    pub async fn ended(&self) -> End {
        let mut ended = self.ended.subscribe();
        let end = ended.wait_for(Option::is_some).await.map(|end| *end);
        // The sender lives as long as `self`.
        end.ok().flatten().unwrap_or(End {
            at: SystemTime::now(),
            by_itself: false,
        })
    }

    fn is_in_use(&self) -> bool {
        self.current()
            .is_some_and(|(pod, origin)| origin == Origin::Sandbox || !pod.is_empty())
    }

    /// Ends the pod unless it is in use. Called behind the gate, where nobody creates in it any more. True: there is no pod now.
    async fn end_unless_used(&self) -> bool {
        if self.is_in_use() {
            return false;
        }
        if let Some((pod, _)) = self.current() {
            if let Err(error) = self.end_pod(&pod).await {
                tracing::error!(%error, "the empty pod could not be ended");
            }
            phase::over("shutdown", &self.launch.pod_id);
        }
        true
    }

    /// Called behind the gate.
    fn check_open(&self) -> Result<()> {
        if !*self.finished.borrow() {
            return Ok(());
        }
        let message = format!(
            "the shim of pod {} is ending: create the container again",
            self.launch.pod_id
        );
        Err(Error::new(ErrorKind::FailedPrecondition, message))
    }

    fn check_membership(&self, container: &ContainerSpec, membership: &Membership, origin: Origin) -> Result<()> {
        let pod = membership.pod_id().as_str();
        // With the sandbox API it is containerd that says where a container belongs, by calling this shim.
        if pod == self.launch.pod_id || origin == Origin::Sandbox {
            return Ok(());
        }
        let message = format!(
            "container {} belongs to pod {pod}, but this shim serves pod {}",
            container.id, self.launch.pod_id
        );
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    /// The config file that the client names now, which is mostly the one that it named when the shim was started.
    async fn config_for(&self, asked: RuntimeOptions) -> Result<Config> {
        if asked.is_default() || asked.config_path == self.launch.options.config_path {
            return Ok(self.config.clone());
        }
        let bundle = self.launch.bundle.clone();
        blocking("reading the config file", move || {
            let config = Config::load(asked.config_path.as_deref())?;
            let recorded = record_state_dir(&bundle, &config);
            recorded.map_err(|e| Error::new(ErrorKind::Internal, format!("{e:#}")))?;
            Ok(config)
        })
        .await
    }

    fn adopt(self: &Arc<Self>, pod: Arc<Pod>, events: mpsc::UnboundedReceiver<PodEvent>, origin: Origin) {
        self.ended.send_replace(None);
        *self.lock() = Some((pod, origin));
        tokio::spawn(self.clone().pump(events));
    }

    async fn pump(self: Arc<Self>, mut events: mpsc::UnboundedReceiver<PodEvent>) {
        while let Some(event) = events.recv().await {
            match event {
                PodEvent::Exited {
                    container,
                    exec_id,
                    pid,
                    status,
                    at,
                } => {
                    let exit = TaskExit {
                        id: exec_id.clone().unwrap_or_else(|| container.clone()),
                        container_id: container.clone(),
                        pid,
                        exit_status: status,
                        exited_at: Some(timestamp(at)).into(),
                        ..Default::default()
                    };
                    if exec_id.is_none() {
                        phase::over("exited", &container);
                    }
                    let (process, event) = (Process { container, exec_id }, self.event(&exit));
                    if process.exec_id.is_none() && self.order.has_execs(&process.container) {
                        let this = self.clone();
                        tokio::spawn(async move {
                            this.order.wait_for_execs(&process.container).await;
                            this.order.exited(&process, event);
                        });
                    } else {
                        self.order.exited(&process, event);
                    }
                }
                PodEvent::OutOfMemory { container } => {
                    let event = TaskOOM {
                        container_id: container,
                        ..Default::default()
                    };
                    self.order.publish(self.event(&event));
                }
                PodEvent::Stopped { reason } => {
                    tracing::error!(reason, "the microVM ended by itself");
                    self.mark_ended(true);
                }
            }
        }
    }

    fn mark_ended(&self, by_itself: bool) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert_with(|| End {
                at: SystemTime::now(),
                by_itself,
            });
            first
        });
    }

    fn creations(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, watch::Sender<bool>>> {
        // Nothing panics while it is held.
        self.creations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Arc<Pod>, Origin)>> {
        // Nothing panics while it is held.
        self.pod.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a call that changes something to its end, whether or not the client waits for it.
pub async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> ttrpc::Result<T> {
    let result = tokio::spawn(work).await;
    let result =
        result.unwrap_or_else(|e| Err(Error::new(ErrorKind::Internal, "the call did not finish").caused_by(e)));
    result.map_err(|error| {
        tracing::debug!(%error, "a call failed");
        error_codes::answer(error)
    })
}

#[cfg(test)]
#[path = "supervisor_test.rs"]
mod supervisor_test;
