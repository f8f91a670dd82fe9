//! The one owner of wait statuses.
//!
//! Every process in the guest whose parent has died becomes a child of PID 1, and a container's init is one of them: the helper
//! that creates it ends at once. So nobody else in the agent calls wait, and a status may arrive before the agent has heard
//! of its pid. While an [`Expectation`] is alive, statuses of unknown pids are kept; otherwise they are orphans of no interest. Pids come
//! again: an expectation has nothing to do with what was reaped before it.

use crate::sys;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0-255; 128 + N for a death by signal N.
    pub status: u32,
    /// Realtime clock, nanoseconds since the epoch, never 0.
    pub at_ns: u64,
}

/// Becomes `Some` once the process has ended.
pub type ExitWatch = watch::Receiver<Option<Exit>>;

#[derive(Default)]
struct Table {
    watched: HashMap<i32, watch::Sender<Option<Exit>>>,
    /// With its number among all that were reaped.
    unclaimed: HashMap<i32, (u64, Exit)>,
    reaped: u64,
    expectations: usize,
}

/// Collects the status of every child and orphan.
pub struct Reaper {
    table: Mutex<Table>,
}

/// While one of these lives, the statuses of pids that nobody watches yet are kept for [`Reaper::watch`].
pub struct Expectation {
    reaper: Arc<Reaper>,
    /// How many had been reaped when it began.
    since: u64,
}

/// Most statuses that are collected at a time: orphans may come as fast as they are reaped, and there is other work.
const TURN: usize = 64;

impl Reaper {
    /// Installs the SIGCHLD handler and spawns the task that reaps. Called once, inside the runtime.
    pub fn start() -> std::io::Result<Arc<Self>> {
        let reaper = Arc::new(Self {
            table: Mutex::default(),
        });
        let mut children = signal(SignalKind::child())?;
        let task = reaper.clone();
        tokio::spawn(async move {
            loop {
                while !task.collect(TURN) {
                    tokio::task::yield_now().await;
                }
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// Must be taken before the process can exist, and held until [`Reaper::watch`] has been called for it.
    pub fn expect(self: &Arc<Self>) -> Expectation {
        let mut table = self.lock();
        table.expectations += 1;
        Expectation {
            since: table.reaped,
            reaper: self.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: there may be more than the `most` that it has taken.
    fn collect(&self, most: usize) -> bool {
        for _ in 0..most {
            match sys::reap_one() {
                Ok(Some((pid, status))) => self.ended(pid, status),
                Err(Errno::EINTR) => {}
                // Nothing left, or no child at all; the next SIGCHLD comes back here.
                Ok(None) | Err(_) => return true,
            }
        }
        false
    }

    fn ended(&self, pid: Pid, status: u32) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let exit = Exit {
            status,
            at_ns: u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX).max(1),
        };
        let mut table = self.lock();
        table.reaped += 1;
        let number = table.reaped;
        if let Some(watched) = table.watched.remove(&pid.as_raw()) {
            watched.send_replace(Some(exit));
        } else if table.expectations > 0 {
            table.unclaimed.insert(pid.as_raw(), (number, exit));
        }
    }
}

impl Expectation {
    /// The end of `pid`, a process created under this expectation.
    pub fn watch(&self, pid: Pid) -> ExitWatch {
        let mut table = self.reaper.lock();
        let ended = table.unclaimed.get(&pid.as_raw());
        if let Some((_, exit)) = ended.filter(|(number, _)| *number > self.since).copied() {
            table.unclaimed.remove(&pid.as_raw());
            return watch::channel(Some(exit)).1;
        }
        let (sender, receiver) = watch::channel(None);
        table.watched.insert(pid.as_raw(), sender);
        receiver
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        let mut table = self.reaper.lock();
        table.expectations = table.expectations.saturating_sub(1);
        if table.expectations == 0 {
            table.unclaimed.clear();
        }
    }
}

/// Waits for the end that `watch` tells.
pub async fn ended(watch: &mut ExitWatch) -> Option<Exit> {
    watch.wait_for(Option::is_some).await.ok().and_then(|exit| *exit)
}

#[cfg(test)]
#[path = "reaper_test.rs"]
mod reaper_test;
