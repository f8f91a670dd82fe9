//! How many files the guest may remember, and what happens before they are too many.
//!
//! Each one is a descriptor here and about 2 KiB of the host kernel's memory, which counts against the pod's cgroup. A guest with
//! memory to spare has no reason of its own to forget any, and the device cannot ask it to. So whoever can is told when there are
//! many ([`Crowd::when_many`]), and a request that would add one to the most there may be waits until another is forgotten. It is
//! refused when none is, as all of them are in use.

use std::io;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix::libc;

use crate::sync::lock;

/// How many there may be: 80 MiB of what the host grants the monitor (`vmm_overhead_mib`, 128 MiB by default).
const MOST: usize = 40_960;

/// How long a request waits while none is forgotten.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same after a request has waited in vain, until one is forgotten.
const NO_PATIENCE: Duration = Duration::from_millis(100);

/// What is done when there are many.
pub type Alarm = Box<dyn FnOnce() + Send>;

/// The files that the guest remembers, counted. Shared by the file server's threads and the main thread.
pub struct Crowd {
    most: usize,
    state: Mutex<State>,
    /// A file was forgotten while there were as many as may be.
    forgotten: Condvar,
}

#[derive(Default)]
struct State {
    count: usize,
    /// The fewest since the alarm was set.
    fewest: usize,
    /// All that were ever forgotten.
    gone: u64,
    /// A request has waited, and nothing has been forgotten since.
    in_vain: bool,
    alarm: Option<Alarm>,
}

impl Crowd {
    /// A bound of `most` files.
    pub fn new(most: usize) -> Crowd {
        Crowd {
            most,
            state: Mutex::default(),
            forgotten: Condvar::new(),
        }
    }

    /// One more. Whoever adds it has asked for room before, or takes it back when there is none; several threads may do so at a time,
    /// so there can be as many too many.
    pub fn joined(&self) {
        let alarm = {
            let mut state = lock(&self.state);
            state.count += 1;
            // Those that were left by the last alarm are in use: what has come since must be worth another one.
            let many = (self.most / 4 * 3).max(state.fewest.saturating_add(self.most / 16));
            if state.count >= many { state.alarm.take() } else { None }
        };
        call(alarm);
    }

    /// So many fewer.
    pub fn left(&self, count: usize) {
        let mut state = lock(&self.state);
        let was_full = state.count >= self.most;
        state.count = state.count.saturating_sub(count);
        state.fewest = state.fewest.min(state.count);
        state.gone = state.gone.wrapping_add(count as u64);
        state.in_vain = false;
        drop(state);
        if was_full {
            self.forgotten.notify_all();
        }
    }

    /// Whether there are as many as may be.
    pub fn is_full(&self) -> bool {
        lock(&self.state).count >= self.most
    }

    /// Waits until there is room for one more. ENFILE: nothing was forgotten for as long as a request may wait. The caller holds no
    /// lock, and is none of the threads that serve FORGET.
    pub fn wait_for_room(&self) -> io::Result<()> {
        while self.is_full() {
            self.wait_for_change()?;
        }
        Ok(())
    }

    /// Waits until one is forgotten, if there are as many as may be; otherwise like [`Crowd::wait_for_room`].
    pub fn wait_for_change(&self) -> io::Result<()> {
        let alarm = {
            let mut state = lock(&self.state);
            if state.count < self.most {
                return Ok(());
            }
            state.alarm.take()
        };
        call(alarm);
        let state = lock(&self.state);
        let patience = if state.in_vain { NO_PATIENCE } else { PATIENCE };
        let gone = state.gone;
        let nothing = |state: &mut State| state.count >= self.most && state.gone == gone;
        let waited = self.forgotten.wait_timeout_while(state, patience, nothing);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            state.in_vain = true;
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        Ok(())
    }

    /// Calls `alarm`, once, when there are many: three quarters of the most there may be and some more than there were fewest since now,
    /// or so many that a request waits. It takes the place of one that has not been called. It must not block.
    pub fn when_many(&self, alarm: Alarm) {
        let mut state = lock(&self.state);
        state.fewest = state.count;
        state.alarm = Some(alarm);
    }
}

impl Default for Crowd {
    fn default() -> Crowd {
        Crowd::new(MOST)
    }
}

/// Without a lock: what it does is not this module's.
fn call(alarm: Option<Alarm>) {
    if let Some(alarm) = alarm {
        alarm();
    }
}

#[cfg(test)]
#[path = "crowd_test.rs"]
mod crowd_test;
