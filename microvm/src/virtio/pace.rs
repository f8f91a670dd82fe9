//! How much of a host CPU a guest can have spent on requests that cost the host more than the guest: memory that goes to and fro. Each takes
//! locks of the whole process and makes KVM take pages from all vCPUs. A driver that asks in bursts, as those of Linux do, is served at
//! full speed; one that asks without end gets a share.

use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::sync::lock;

/// CPU time that a guest can have at once. Growing by a gigabyte takes some tens of milliseconds.
const BURST: Duration = Duration::from_secs(1);
/// What it gets all the time: one of so many parts of a CPU.
const PARTS: u32 = 4;
/// A pause holds up the driver's own reset.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the workers of a device have spent lately. The device keeps it: a reset is no new beginning.
#[derive(Debug)]
pub struct Pace {
    spent: Duration,
    since: Instant,
}

impl Pace {
    fn new() -> Pace {
        Pace {
            spent: Duration::ZERO,
            since: Instant::now(),
        }
    }

    /// One that its device shares with its worker.
    pub fn shared() -> Arc<Mutex<Pace>> {
        Arc::new(Mutex::new(Pace::new()))
    }

    /// Does `work` on the calling thread, and then pauses if that was too much.
    pub fn spend<T>(pace: &Mutex<Pace>, work: impl FnOnce() -> T) -> T {
        let before = cpu_time();
        let done = work();
        let worked = cpu_time().saturating_sub(before);
        let pause = lock(pace).pause_after(worked, Instant::now());
        if !pause.is_zero() {
            sleep(pause);
        }
        done
    }

    fn pause_after(&mut self, worked: Duration, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.since) / PARTS;
        self.since = now;
        self.spent = self.spent.saturating_sub(earned).saturating_add(worked);
        let over = self.spent.saturating_sub(BURST);
        over.saturating_mul(PARTS).min(LONGEST_PAUSE)
    }
}

/// Of the calling thread. A kernel without that clock sets no bound.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
#[path = "pace_test.rs"]
mod pace_test;
