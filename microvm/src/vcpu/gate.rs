//! Where all vCPUs wait while something is done that the guest must not see half done.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::sync::lock;

/// Open at first. The main thread closes and opens it; every vCPU passes through it before it runs the guest.
#[derive(Debug, Default)]
pub struct Gate {
    /// The same as `closed`, to be looked at before each run.
    is_closed: AtomicBool,
    closed: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicUsize,
}

impl Gate {
    /// A vCPU's thread: goes on at once, or when the gate is opened.
    pub fn pass(&self) {
        if !self.is_closed.load(Ordering::Acquire) {
            return;
        }
        let mut closed = lock(&self.closed);
        self.waiting.fetch_add(1, Ordering::AcqRel);
        while *closed {
            closed = self.opened.wait(closed).unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whoever comes from now on waits.
    pub fn close(&self) {
        *lock(&self.closed) = true;
        self.is_closed.store(true, Ordering::Release);
    }

    /// Lets everybody go on.
    pub fn open(&self) {
        self.is_closed.store(false, Ordering::Release);
        *lock(&self.closed) = false;
        self.opened.notify_all();
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }
}

#[cfg(test)]
#[path = "gate_test.rs"]
mod gate_test;
