//! One process of a container as the host sees it: its state, number and streams.
//!
//! ```text
//! Created --start--> Running --exit--> Stopped      Created --exit (killed, or the microVM ended)--> Stopped
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::types::{Exit, PidInfo, Status, StdioPaths};
use crate::error::{Error, Result};
use crate::stdio::Streams;

/// Exit status of a process whose microVM ended under it: as if killed by SIGKILL.
pub(super) const KILLED: u32 = 137;

/// What changes in a process's life.
#[derive(Debug, Clone, Copy)]
struct Life {
    status: Status,
    exit: Option<Exit>,
    pid: u32,
    guest_pid: u32,
}

/// One process.
pub(super) struct Process {
    pub(super) container: String,
    pub(super) exec_id: Option<String>,
    pub(super) stdio: StdioPaths,
    /// One start or deletion at a time.
    pub(super) operation: tokio::sync::Mutex<()>,
    life: watch::Sender<Life>,
    streams: Mutex<Option<Streams>>,
    stdin_closed: AtomicBool,
    /// Terminal size in characters, as a client wanted it last.
    size: Mutex<(u32, u32)>,
}

impl Process {
    /// A created process; `pid` is 0 for an exec, which gets its number when it starts.
    pub(super) fn new(container: &str, exec_id: Option<&str>, stdio: StdioPaths, size: (u32, u32)) -> Process {
        let life = Life {
            status: Status::Created,
            exit: None,
            pid: 0,
            guest_pid: 0,
        };
        Process {
            container: container.to_owned(),
            exec_id: exec_id.map(str::to_owned),
            stdio,
            operation: tokio::sync::Mutex::new(()),
            life: watch::Sender::new(life),
            streams: Mutex::new(None),
            stdin_closed: AtomicBool::new(false),
            size: Mutex::new(size),
        }
    }

    /// As the agent names it; empty: the container's init.
    pub(super) fn agent_id(&self) -> &str {
        self.exec_id.as_deref().unwrap_or_default()
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        match &self.exec_id {
            Some(exec) => format!("process {exec} of container {}", self.container),
            None => format!("container {}", self.container),
        }
    }

    pub(super) fn status(&self) -> Status {
        self.life.borrow().status
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        self.life.borrow().exit
    }

    /// Host-unique number; 0 while it has none.
    pub(super) fn pid(&self) -> u32 {
        self.life.borrow().pid
    }

    pub(super) fn guest_pid(&self) -> u32 {
        self.life.borrow().guest_pid
    }

    pub(super) fn info(&self) -> PidInfo {
        PidInfo {
            pid: self.pid(),
            guest_pid: self.guest_pid(),
            exec_id: self.exec_id.clone(),
        }
    }

    pub(super) fn set_pids(&self, pid: u32, guest_pid: u32) {
        self.life
            .send_modify(|life| (life.pid, life.guest_pid) = (pid, guest_pid));
    }

    /// Created to Running; a process that has ended meanwhile stays ended.
    pub(super) fn set_running(&self) {
        self.life.send_if_modified(|life| {
            let starts = life.status == Status::Created;
            if starts {
                life.status = Status::Running;
            }
            starts
        });
    }

    /// To Stopped; whether this call did it.
    pub(super) fn finish(&self, status: u32) -> bool {
        self.life.send_if_modified(|life| {
            let ends = life.status != Status::Stopped;
            if ends {
                life.status = Status::Stopped;
                life.exit = Some(Exit {
                    status,
                    at: SystemTime::now(),
                });
            }
            ends
        })
    }

    /// Waits until it is Stopped.
    pub(super) async fn wait(&self) -> Result<Exit> {
        let mut life = self.life.subscribe();
        let ended = life.wait_for(|life| life.exit.is_some()).await;
        ended
            .ok()
            .and_then(|life| life.exit)
            .ok_or_else(|| Error::internal(format!("{} was forgotten", self.name())))
    }

    pub(super) fn set_streams(&self, streams: Streams) {
        if self.stdin_closed.load(Ordering::Relaxed) {
            streams.close_stdin();
        }
        *self.streams() = Some(streams);
    }

    pub(super) fn take_streams(&self) -> Option<Streams> {
        self.streams().take()
    }

    /// The process runs; see [`Streams::started`].
    pub(super) fn streams_started(&self) {
        if let Some(streams) = self.streams().as_ref() {
            streams.started();
        }
    }

    /// Also before the streams are there: then they start closed.
    pub(super) fn close_stdin(&self) {
        self.stdin_closed.store(true, Ordering::Relaxed);
        if let Some(streams) = self.streams().as_ref() {
            streams.close_stdin();
        }
    }

    pub(super) fn size(&self) -> (u32, u32) {
        *self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_size(&self, size: (u32, u32)) {
        *self.size.lock().unwrap_or_else(PoisonError::into_inner) = size;
    }

    fn streams(&self) -> MutexGuard<'_, Option<Streams>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "process_test.rs"]
mod process_test;
