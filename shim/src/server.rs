//! The server: what stays behind for as long as the pod lives.
//!
//! It sets itself up while it still has one thread (session, subreaper, private mount namespace that receives the host's mounts,
//! OOM score, log), says that it is ready, and then serves on one thread.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bulkhead_runtime::config::Config;
use bulkhead_runtime::error::Error;
use bulkhead_runtime::phase;
use containerd_shim_protos::sandbox_async::create_sandbox;
use containerd_shim_protos::shim_async::create_task;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::signal::unix::{SignalKind, signal};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::bootstrap::{self, Launch};
use crate::events::{Publisher, Queue};
use crate::own_cgroup::{self, OwnCgroup};
use crate::sandbox_service::SandboxService;
use crate::supervisor::Supervisor;
use crate::task_service::TaskService;
use crate::{clients, log, orphans};

/// How long containerd may take to accept the last events.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// How long clients may take to read their last answers and go, and then how long their connections may take to close.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// Serves until the pod is gone. What goes wrong before it is ready goes to stderr, which `start` reads.
pub fn serve() -> Result<()> {
    let (launch, listener) = bootstrap::take_inheritance()?;
    let config = Config::load(launch.options.config_path.as_deref()).map_err(Error::from)?;
    set_up(&launch)?;
    bootstrap::record_pid(&launch.bundle)?;
    bootstrap::record_state_dir(&launch.bundle, &config)?;
    log::init(&launch.bundle, &launch.pod_id, launch.debug, config.log_level);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    bootstrap::report_ready()?;
    let served = runtime.block_on(run(launch, config, listener));
    if let Err(error) = &served {
        tracing::error!(error = format!("{error:#}"), "the shim ends");
    }
    // Threads that still wait for a file system do not keep the process.
    runtime.shutdown_background();
    served
}

fn set_up(launch: &Launch) -> Result<()> {
    // Fails for a leader of a process group, as a shell's job is; the one that `start` makes is none.
    let _ = nix::unistd::setsid();
    nix::sys::prctl::set_child_subreaper(true).context("cannot become a child subreaper")?;
    if let Some(score) = launch.oom_score_adj {
        // Without privilege the score can only be raised; it is not worth failing for.
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    unshare(CloneFlags::CLONE_NEWNS).context("cannot create a private mount namespace (the shim runs as root)")?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .context("cannot make the shim's mounts private")
}

async fn run(launch: Launch, config: Config, listener: UnixListener) -> Result<()> {
    let queue = Queue::default();
    tokio::spawn(Publisher::new(queue.clone(), &launch.events_address).run());
    tokio::spawn(orphans::collect());
    let cgroup = join_own_cgroup(&launch);
    let socket = launch.address.clone();
    phase::over_at("shim-start", &launch.pod_id, launch.started_us);
    let supervisor = Arc::new(Supervisor::new(launch, config, queue.clone()));

    let (listener, clients) = clients::accept(listener).context("cannot use the inherited socket")?;
    let mut server = serve_on(listener, &supervisor);
    server.start().await.context("cannot serve")?;
    phase::over("shim-serving", &supervisor.launch().pod_id);
    tracing::debug!(pid = std::process::id(), version = env!("CARGO_PKG_VERSION"), "serving");
    tokio::select! {
        () = supervisor.finished() => {}
        error = ignore_signals() => error.context("cannot receive signals")?,
    }

    if let Some(path) = socket.strip_prefix("unix://") {
        bootstrap::remove_socket(path.as_ref());
    }
    // Before anything is waited for: a `delete` that finds the socket gone does not wait long.
    if let Ok(Some(cgroup)) = cgroup.await {
        cgroup.leave();
    }
    let _ = tokio::time::timeout(LAST_CALLS, clients.gone()).await;
    let _ = tokio::time::timeout(LAST_CALLS, server.shutdown()).await;
    queue.flush(LAST_EVENTS).await;
    Ok(())
}

fn serve_on(listener: Listener, supervisor: &Arc<Supervisor>) -> Server {
    let tasks = Arc::new(TaskService::new(supervisor.clone()));
    // Both versions have the same calls and messages; only the package's name differs.
    let version_2 = create_task(tasks.clone())
        .into_values()
        .map(|service| ("containerd.task.v2.Task".to_owned(), service));
    Server::new()
        .add_listener(listener)
        .register_service(create_task(tasks))
        .register_service(version_2.collect())
        .register_service(create_sandbox(Arc::new(SandboxService::new(supervisor.clone()))))
}

/// Moves in the background; the result is needed only at the end.
fn join_own_cgroup(launch: &Launch) -> tokio::task::JoinHandle<Option<OwnCgroup>> {
    let (namespace, pod, asked) = (
        launch.namespace.clone(),
        launch.pod_id.clone(),
        launch.options.shim_cgroup.clone(),
    );
    tokio::task::spawn_blocking(move || match own_cgroup::join(&namespace, &pod, asked.as_deref()) {
        Ok(joined) => joined,
        Err(error) => {
            tracing::warn!(%error, "the shim stays in containerd's cgroup");
            None
        }
    })
}

/// A shim outlives the signals that end a service; only containerd ends it.
async fn ignore_signals() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("a signal was ignored: a pod ends through containerd");
    }
}
