//! How a machine ends: the first cause counts, and everybody who waits is woken.

use std::sync::Mutex;

use vmm_sys_util::eventfd::EventFd;

use crate::sync::lock;

/// What ended the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopCause {
    /// The guest wrote the power-off state to the sleep control register.
    PoweredOff,
    /// The guest reset itself: reset register or triple fault.
    Reset,
    /// The monitor cannot go on.
    Failed(String),
}

/// Shared by all threads of a machine.
#[derive(Debug)]
pub struct StopSignal {
    cause: Mutex<Option<StopCause>>,
    event: EventFd,
}

impl StopSignal {
    /// Not stopped. `event` becomes readable once, when the machine stops.
    pub fn new(event: EventFd) -> StopSignal {
        StopSignal {
            cause: Mutex::new(None),
            event,
        }
    }

    /// Any thread: ends the machine. Only the first cause is kept.
    pub fn stop(&self, cause: StopCause) {
        let mut slot = lock(&self.cause);
        if slot.is_none() {
            *slot = Some(cause);
            if let Err(error) = self.event.write(1) {
                tracing::error!("cannot wake the main thread: {error}");
            }
        }
    }

    /// The cause, once there is one.
    pub fn cause(&self) -> Option<StopCause> {
        lock(&self.cause).clone()
    }

    /// What the main thread waits for.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

#[cfg(test)]
#[path = "stop_test.rs"]
mod stop_test;
