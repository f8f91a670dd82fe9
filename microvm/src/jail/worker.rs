//! The one way to start a thread.
//!
//! Threads are started by a spawner thread, never by the one that asks: seccomp filters are inherited and only ever add up, so a
//! device worker started from a vCPU's register write would otherwise live under the vCPU's narrow filter as well.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use thiserror::Error;

/// Which policy a thread lives under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThreadKind {
    /// Runs a vCPU and the register side of every device.
    Vcpu,
    /// Serves a virtio-blk or virtio-rng queue.
    Block,
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

static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();

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
            let order = Order { name: name.to_owned(), kind, body: Box::new(body), reply };
            spawner.send(order).map_err(|_| gone())?;
            answer.recv().map_err(|_| gone())?
        }
    };
    started.map_err(|source| SpawnError::Thread { name: name.to_owned(), source })
}
