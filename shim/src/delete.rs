//! `delete`: containerd's way to clean up after a shim that does not answer.
//!
//! Run for each container of a dead shim, and after the deletion of the container that the shim was started for; perhaps by a newer
//! version of this program than the pod was started with. The pod of a shim that answers is left alone, unless the call is for
//! the pod itself and its own container is still there, or nobody uses the pod: then containerd has given it up. Of another container
//! it has lost no more than the connection, and gives that container up: it is killed, and the pod goes on. The poststop hooks of a container
//! that went with its shim are run here.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use bulkhead_runtime::config::Config;
use bulkhead_runtime::pod::run_poststop;
use containerd_shim_protos::api::{self, DeleteResponse};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protobuf::Message;
use ttrpc::r#async::transport::Socket;

use crate::bootstrap::{
    Membership, has_spec, is_alive, read_membership, recorded_socket, recorded_state_dir, remove_socket,
};
use crate::cli::Call;
use crate::events::timestamp;
use crate::own_cgroup;

/// The shim writes it into the bundle when it has created the container.
const INIT_PID: &str = "init.pid";

/// 128 and SIGKILL: how a container ends whose shim was lost.
const LOST: u32 = 137;

/// How long a killed shim may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the shim may take to say whether it has a container.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a shim that has answered may take to end an empty pod, or to ignore that: a creation or a boot that is under way comes
/// first. The waits for answers together stay within the 5 s that containerd gives `delete`.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// When the hooks of a lost container have to have ended, counted from the start of `delete`, so that there is an answer before containerd
/// stops waiting for it.
const HOOKS_END: Duration = Duration::from_millis(4500);

/// What they have in any case.
const HOOKS_LEAST: Duration = Duration::from_millis(500);

/// How long a living shim may take to kill and forget a container.
const CONTAINER_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a shim whose socket is gone may take to end by itself: its last events may still be on their way.
const LAST_WORDS: Duration = Duration::from_millis(1500);

/// How long a shim that was asked to end may take to close its socket.
const END_TIMEOUT: Duration = Duration::from_millis(300);

/// Runs `delete` and prints the answer.
pub fn delete(call: &Call) -> Result<()> {
    let start = Instant::now();
    let bundle = match &call.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().context("cannot find the bundle")?,
    };
    // A bundle that is damaged must not keep the pod on the host.
    let membership = read_membership(&bundle, &call.id).unwrap_or_else(|_| Membership::Founds { pod: call.id.clone() });
    let socket = recorded_socket(call, &bundle, membership.pod_id().as_str());
    let alive = socket.as_deref().is_some_and(is_alive);
    let founds = matches!(membership, Membership::Founds { .. });
    if founds {
        // A sandbox of the sandbox API has no container of its own, whose absence would say anything.
        let of_container = has_spec(&bundle);
        if let Some(socket) = socket.as_deref().filter(|_| alive && of_container)
            && is_in_use(socket, call.id.as_str())
        {
            return answer(&bundle);
        }
        // Also one whose socket has gone: nobody can reach it any more.
        let patience = if alive { Duration::ZERO } else { LAST_WORDS };
        kill_shim(&bundle, call.id.as_str(), patience);
    }
    if !alive || founds {
        let cleaned = clean_up(call, &membership, &bundle, socket.as_deref());
        run_hooks(&bundle, call.id.as_str(), start + HOOKS_END);
        cleaned?;
    } else if let Some(socket) = &socket {
        end_container(socket, call.id.as_str());
    }
    answer(&bundle)
}

/// True when the shim says that the container `founder` is gone and others still use its pod. An empty pod ends over the question.
fn is_in_use(socket: &Path, founder: &str) -> bool {
    let ignored = ask(socket, async |shim| {
        let context = ttrpc::context::with_duration(QUESTION_TIMEOUT);
        let request = api::StateRequest {
            id: founder.to_owned(),
            ..Default::default()
        };
        let state = tokio::time::timeout(QUESTION_TIMEOUT, shim.state(context, &request)).await;
        match state.ok()? {
            Err(ttrpc::Error::RpcStatus(status)) if status.code() == ttrpc::Code::NOT_FOUND => {}
            _ => return None,
        }
        let request = api::ShutdownRequest {
            id: founder.to_owned(),
            ..Default::default()
        };
        let context = ttrpc::context::with_duration(SHUTDOWN_TIMEOUT);
        // Without an answer the pod is busy: the shim lives, as its first answer shows.
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, shim.shutdown(context, &request)).await;
        Some(())
    });
    if ignored.is_none() {
        return false;
    }
    let deadline = Instant::now() + END_TIMEOUT;
    while is_alive(socket) {
        if Instant::now() >= deadline {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Kills a container in a pod that lives, and lets its shim forget it; one that it does not know is gone already. What remains when that
/// takes too long goes with the pod.
fn end_container(socket: &Path, id: &str) {
    let id = id.to_owned();
    ask(socket, async |shim| {
        let context = || ttrpc::context::with_duration(CONTAINER_TIMEOUT);
        let kill = api::KillRequest {
            id: id.clone(),
            signal: Signal::SIGKILL as u32,
            all: true,
            ..Default::default()
        };
        let wait = api::WaitRequest {
            id: id.clone(),
            ..Default::default()
        };
        let delete = api::DeleteRequest {
            id,
            ..Default::default()
        };
        let ended = async {
            // Also one that has ended, or is still being created, is deleted.
            let _ = shim.kill(context(), &kill).await;
            let _ = shim.wait(context(), &wait).await;
            shim.delete(context(), &delete).await.ok()
        };
        tokio::time::timeout(CONTAINER_TIMEOUT, ended).await.ok()?
    });
}

/// `None` also when there is no connection.
fn ask<T>(socket: &Path, questions: impl AsyncFnOnce(TaskClient) -> Option<T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.ok()?.block_on(async {
        let stream = tokio::net::UnixStream::connect(socket).await.ok()?;
        questions(TaskClient::new(Client::new(Socket::new(stream)))).await
    })
}

fn clean_up(call: &Call, membership: &Membership, bundle: &Path, socket: Option<&Path>) -> Result<()> {
    let pod = membership.pod_id();
    // With no config that can be read, the defaults say where the state is.
    let mut config = Config::load(None).unwrap_or_default();
    if let Some(state_dir) = recorded_state_dir(bundle, pod.as_str()) {
        config.state_dir = state_dir;
    }
    bulkhead_runtime::state::cleanup(&config, &call.namespace, pod)?;
    own_cgroup::remove(&call.namespace, pod.as_str());
    if let Some(socket) = socket {
        remove_socket(socket);
    }
    Ok(())
}

/// Runs the hooks that come after a container's end, if the shim had created it and not begun with them. containerd logs what is written to
/// standard error.
fn run_hooks(bundle: &Path, id: &str, end: Instant) {
    if !bundle.join(INIT_PID).exists() {
        return;
    }
    let patience = end.saturating_duration_since(Instant::now()).max(HOOKS_LEAST);
    if let Err(error) = run_poststop(bundle, id, patience) {
        eprintln!("container {id}: {error}");
    }
}

fn answer(bundle: &Path) -> Result<()> {
    let response = DeleteResponse {
        pid: read_number(&bundle.join(INIT_PID)).unwrap_or_default(),
        exit_status: LOST,
        exited_at: MessageField::some(timestamp(SystemTime::now())),
        ..Default::default()
    };
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&response.write_to_bytes()?)
        .and_then(|()| stdout.flush())
        .context("cannot write to stdout")
}

/// Kills a shim that has not ended within `patience`, if the recorded pid is still that shim.
fn kill_shim(bundle: &Path, pod: &str, patience: Duration) {
    let Some(pid) = read_number(&bundle.join("shim.pid"))
        .and_then(|pid| i32::try_from(pid).ok())
        .filter(|pid| *pid > 1)
    else {
        return;
    };
    let kill_from = Instant::now() + patience;
    while is_shim_of(pid, pod) && Instant::now() < kill_from {
        std::thread::sleep(Duration::from_millis(5));
    }
    let deadline = kill_from + KILL_TIMEOUT;
    while is_shim_of(pid, pod) && Instant::now() < deadline {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// True while the process exists, is this program and serves that pod.
fn is_shim_of(pid: i32, pod: &str) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| serves(&line, pod))
}

fn serves(command_line: &[u8], pod: &str) -> bool {
    let words: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
    let program = words
        .first()
        .is_some_and(|word| word.ends_with(b"containerd-shim-bulkhead-v2"));
    program
        && words
            .windows(2)
            .any(|pair| matches!(pair, [flag, id] if *flag == b"-id" && *id == pod.as_bytes()))
}

fn read_number(path: &PathBuf) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
#[path = "delete_test.rs"]
mod delete_test;
