//! Out-of-memory kills, told as they happen.

use super::cgroup::Cgroup;
use crate::events::{Event, Events};
use crate::reaper::{ExitWatch, ended};
use std::fs::File;
use std::sync::Arc;
use tokio::io::Interest;

/// Watches the group's counter until the container's init has ended.
pub fn watch(events: &Arc<Events>, cgroup: &Cgroup, id: &str, mut exit: ExitWatch) {
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
                events.push(Event::OutOfMemory(id.clone()));
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
