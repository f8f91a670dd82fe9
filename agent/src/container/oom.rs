//! Out-of-memory kills, told as they happen.

use super::cgroup::Cgroup;
use crate::reaper::{ExitWatch, ended};
use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::Interest;
use tokio::sync::Notify;

/// Events kept for a runtime that does not fetch them; the oldest go first.
const MAX_KEPT: usize = 256;

/// The queue of containers in which a process was killed.
#[derive(Default)]
pub struct OomEvents {
    containers: Mutex<VecDeque<String>>,
    arrived: Notify,
}

impl OomEvents {
    fn push(&self, container: &str) {
        let mut containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        if containers.len() == MAX_KEPT {
            containers.pop_front();
        }
        containers.push_back(container.to_string());
        drop(containers);
        self.arrived.notify_one();
    }

    /// The next container in which the kernel killed a process; each event is told once.
    pub async fn next(&self) -> String {
        loop {
            let next = self
                .containers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            match next {
                Some(container) => return container,
                None => self.arrived.notified().await,
            }
        }
    }
}

/// Watches the group's counter until the container's init has ended.
pub fn watch(events: &Arc<OomEvents>, cgroup: &Cgroup, id: &str, mut exit: ExitWatch) {
    let (events, id) = (events.clone(), id.to_string());
    // Polling the file wakes up with every change of its counters.
    let opened = File::open(cgroup.memory_events_file());
    let file = match opened.and_then(|file| crate::sys::watched(file.into(), Interest::PRIORITY)) {
        Ok(file) => file,
        Err(error) => {
            crate::kmsg::notice(&format!("out-of-memory kills in {id} will not be told: {error}"));
            return;
        }
    };
    let cgroup = cgroup.clone();
    tokio::spawn(async move {
        let mut seen = 0;
        loop {
            let over = tokio::select! {
                ready = file.ready(Interest::PRIORITY) => match ready {
                    Ok(mut ready) => {
                        ready.clear_ready();
                        false
                    }
                    Err(_) => true,
                },
                _ = ended(&mut exit) => true,
            };
            // Reading the polled file itself arms its next wake-up; the group's counter is what counts.
            let mut buffer = [0; 512];
            let kills = match nix::sys::uio::pread(file.get_ref(), &mut buffer, 0) {
                Ok(count) => count_in(buffer.get(..count).unwrap_or_default()),
                Err(_) => cgroup.oom_kills(),
            };
            if kills > seen {
                seen = kills;
                events.push(&id);
            }
            if over {
                return;
            }
        }
    });
}

fn count_in(text: &[u8]) -> u64 {
    super::cgroup::field(&String::from_utf8_lossy(text), "oom_kill")
}
