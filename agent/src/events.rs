//! What happens in the guest without being asked for, kept until the host fetches it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Events kept for a runtime that does not fetch them; the oldest go first.
const MAX_KEPT: usize = 256;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The out-of-memory killer ended a process of this container.
    OutOfMemory(String),
    /// The guest wants this much more memory, bytes.
    MemoryWanted(u64),
}

/// The queue.
#[derive(Default)]
pub struct Events {
    kept: Mutex<VecDeque<Event>>,
    arrived: Notify,
}

impl Events {
    /// Adds the latest, unless the same is waiting. Containers that want memory are held up until it comes, so that this is told first.
    pub fn push(&self, event: Event) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.contains(&event) {
            if kept.len() == MAX_KEPT {
                kept.pop_front();
            }
            match event {
                Event::MemoryWanted(_) => kept.push_front(event),
                Event::OutOfMemory(_) => kept.push_back(event),
            }
        }
        drop(kept);
        self.arrived.notify_one();
    }

    /// The next, as soon as there is one; each is told once.
    pub async fn next(&self) -> Event {
        loop {
            let next = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                Some(event) => return event,
                None => self.arrived.notified().await,
            }
        }
    }
}
