//! The order of a process's events.
//!
//! A process is *starting* from before its start is asked of the runtime until its start event is out; an exit that comes
//! meanwhile is held and follows. It is *running* until its exit event is out; a delete waits for that, and the exit event of an
//! init for those of its container's execs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::shim::event::Envelope;
use tokio::sync::Notify;

use super::Queue;

/// How long a delete waits for the exit event of a process that has ended.
const EXIT_EVENT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the exit event of an init waits for those of its container's execs.
const EXECS_TIMEOUT: Duration = Duration::from_secs(1);

/// A process: its container, and its exec id unless it is the container's init.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process {
    /// The container.
    pub container: String,
    /// `None`: the init.
    pub exec_id: Option<String>,
}

#[derive(Debug)]
enum Phase {
    Starting { held: Option<Envelope> },
    Running,
}

/// Puts events into the queue in their order. Every method may be called at any time; none blocks.
pub struct Order {
    queue: Queue,
    processes: Mutex<HashMap<Process, Phase>>,
    exited: Notify,
}

impl Order {
    /// For events that go into `queue`.
    pub fn new(queue: Queue) -> Order {
        Order {
            queue,
            processes: Mutex::default(),
            exited: Notify::new(),
        }
    }

    /// An event that waits for nothing: create, exec added, out of memory, paused, resumed.
    pub fn publish(&self, event: Envelope) {
        self.queue.push(event);
    }

    /// Before the runtime is asked to start. False: the process is starting or running already, which the runtime will refuse.
    pub fn starting(&self, process: &Process) -> bool {
        let mut processes = self.lock();
        if processes.contains_key(process) {
            return false;
        }
        processes.insert(process.clone(), Phase::Starting { held: None });
        true
    }

    /// It has started: its start event goes out, then the exit if that came first.
    pub fn started(&self, process: &Process, event: Envelope) {
        let mut processes = self.lock();
        self.queue.push(event);
        match processes.remove(process) {
            Some(Phase::Starting { held: Some(exit) }) => self.end(exit),
            Some(Phase::Starting { held: None } | Phase::Running) => {
                processes.insert(process.clone(), Phase::Running);
            }
            None => {}
        }
    }

    /// It could not be started. An init that ended over it is told; an exec never was.
    pub fn not_started(&self, process: &Process) {
        if let Some(Phase::Starting { held: Some(exit) }) = self.lock().remove(process)
            && process.exec_id.is_none()
        {
            self.end(exit);
        }
        self.exited.notify_waiters();
    }

    /// It has ended.
    pub fn exited(&self, process: &Process, event: Envelope) {
        let mut processes = self.lock();
        if let Some(Phase::Starting { held }) = processes.get_mut(process) {
            *held = Some(event);
            return;
        }
        processes.remove(process);
        self.end(event);
    }

    /// Whether a process that was added to the container is starting or running.
    pub fn has_execs(&self, container: &str) -> bool {
        let processes = self.lock();
        processes
            .keys()
            .any(|p| p.container == container && p.exec_id.is_some())
    }

    /// Waits, not for long, until the exit events of a container's execs are out: the init's is its last.
    pub async fn wait_for_execs(&self, container: &str) {
        // Those that come later are told all the same.
        let _ = tokio::time::timeout(EXECS_TIMEOUT, self.until(|| !self.has_execs(container))).await;
    }

    /// Waits, not for long, until the exit event of a process that has ended is out.
    pub async fn wait_for_exit(&self, process: &Process) {
        let gone = self.until(|| !self.lock().contains_key(process));
        if tokio::time::timeout(EXIT_EVENT_TIMEOUT, gone).await.is_err() {
            tracing::warn!(?process, "deleted without having seen its exit");
            self.lock().remove(process);
        }
    }

    /// Asks again after each exit event until `done` holds.
    async fn until(&self, done: impl Fn() -> bool) {
        loop {
            let notified = self.exited.notified();
            if done() {
                return;
            }
            notified.await;
        }
    }

    /// Its container is gone, and with it whatever was known of its execs.
    pub fn forget(&self, container: &str) {
        self.lock().retain(|process, _| process.container != container);
    }

    fn end(&self, exit: Envelope) {
        self.queue.push(exit);
        self.exited.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Process, Phase>> {
        // Nothing panics while it is held.
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "order_test.rs"]
mod order_test;
