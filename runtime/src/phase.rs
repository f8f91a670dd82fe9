//! When each step of a pod's life ended: one debug line a step, from which the benchmark makes its breakdown and the
//! end-to-end suites know when to strike. The names stand in e2e/bench/figures.py.

use std::fmt::Display;

use nix::time::{ClockId, clock_gettime};

/// Microseconds of CLOCK_MONOTONIC, which is one clock for all programs of the host.
pub fn now_us() -> i64 {
    // Cannot fail: the clock always exists.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |at| {
        at.tv_sec()
            .saturating_mul(1_000_000)
            .saturating_add(at.tv_nsec() / 1000)
    })
}

/// Logs that `phase` of pod `id` is over.
pub fn over(phase: &'static str, id: impl Display) {
    over_at(phase, id, now_us());
}

/// The same for a phase that ended before there was a log.
pub fn over_at(phase: &'static str, id: impl Display, monotonic_us: i64) {
    tracing::debug!(phase, monotonic_us, id = %id, "phase");
}
