//! The one way to start a thread.
//!
//! Threads are started by a spawner thread, never by the one that asks: seccomp filters are inherited and only ever add up, so a
//! device worker started from a vCPU's register write would otherwise live under the vCPU's narrow filter as well.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use thiserror::Error;

use super::policy::{Policies, Policy};

/// Which policy a thread lives under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThreadKind {
    /// Runs a vCPU and the register side of every device.
    Vcpu,
    /// Serves a virtio-blk or virtio-rng queue.
    Block,
    /// Serves the queues of the balloon and of the memory that comes and goes.
    Memory,
    /// Relays vsock streams.
    Vsock,
    /// Serves the share; the only kind that keeps capabilities.
    FileServer,
}

/// Why a thread could not be started.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// The system refused.
    #[error("cannot start thread {name}: {source}")]
    Thread {
        /// Name of the thread.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The spawner is gone, because the process is ending.
    #[error("cannot start thread {name}: the spawner has ended")]
    SpawnerGone {
        /// Name of the thread.
        name: String,
    },
}

type Body = Box<dyn FnOnce() + Send>;

/// A thread that somebody wants, and where its handle goes.
struct Order {
    name: String,
    kind: ThreadKind,
    body: Body,
    reply: Sender<io::Result<JoinHandle<()>>>,
}

enum Message {
    Start(Order),
    End,
}

static SPAWNER: OnceLock<Sender<Message>> = OnceLock::new();

/// The running spawner. Dropping it ends it; threads that it started go on.
#[derive(Debug)]
pub struct Spawner {
    thread: Option<JoinHandle<()>>,
}

impl Spawner {
    /// Main thread, once in the life of a process: from now on `spawn_worker` confines what it starts by `policies`.
    pub fn start(policies: Policies) -> Result<Spawner, SpawnError> {
        let name = "spawner";
        let failed = |source| SpawnError::Thread {
            name: name.to_owned(),
            source,
        };
        let (sender, orders) = channel();
        let body = move || {
            enter_or_abort(&policies.spawner());
            serve(&orders, &policies);
        };
        let thread = Builder::new().name(name.to_owned()).spawn(body).map_err(failed)?;
        match SPAWNER.set(sender) {
            Ok(()) => Ok(Spawner { thread: Some(thread) }),
            Err(_) => Err(failed(io::ErrorKind::AlreadyExists.into())),
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        // It can only be gone already.
        let _ = SPAWNER.get().map(|sender| sender.send(Message::End));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(orders: &Receiver<Message>, policies: &Policies) {
    while let Ok(Message::Start(Order {
        name,
        kind,
        body,
        reply,
    })) = orders.recv()
    {
        let policy = policies.of(kind);
        let confined = move || {
            enter_or_abort(&policy);
            body();
        };
        // Whoever asked has waited for the answer; if it is gone, so is its process.
        let _ = reply.send(Builder::new().name(name).spawn(confined));
    }
}

/// A thread that cannot be confined must not run.
fn enter_or_abort(policy: &Policy) {
    if let Err(error) = policy.enter() {
        tracing::error!("cannot confine a thread: {error}");
        std::process::abort();
    }
}

/// Starts a thread named `name` (at most 15 bytes are shown by the system) that lives under the policy of `kind` from its first
/// instruction on. Callable from any thread. Without a running spawner, which is how unit tests run, the thread is started
/// directly and unconfined.
pub fn spawn_worker<F>(name: &str, kind: ThreadKind, body: F) -> Result<JoinHandle<()>, SpawnError>
where
    F: FnOnce() + Send + 'static,
{
    let started = match SPAWNER.get() {
        None => Builder::new().name(name.to_owned()).spawn(body),
        Some(spawner) => {
            let gone = || SpawnError::SpawnerGone { name: name.to_owned() };
            let (reply, answer) = channel();
            let order = Order {
                name: name.to_owned(),
                kind,
                body: Box::new(body),
                reply,
            };
            spawner.send(Message::Start(order)).map_err(|_| gone())?;
            answer.recv().map_err(|_| gone())?
        }
    };
    started.map_err(|source| SpawnError::Thread {
        name: name.to_owned(),
        source,
    })
}
