//! The guest's realtime clock and entropy, both of which only the host can give.

use nix::time::{ClockId, clock_gettime, clock_settime};
use std::fs::File;
use std::time::Duration;

/// Offsets up to this are slewed, so that no program sees time jump; larger ones would take a quarter of an hour and more.
const MAX_SLEW: Duration = Duration::from_millis(500);

/// Steps the realtime clock to `realtime_ns` nanoseconds since the epoch.
pub fn set(realtime_ns: u64) -> nix::Result<()> {
    clock_settime(ClockId::CLOCK_REALTIME, Duration::from_nanos(realtime_ns).into())
}

/// Brings the realtime clock to `realtime_ns`; `step` forbids to slew. Returns host minus guest before the correction.
pub fn sync(realtime_ns: u64, step: bool) -> nix::Result<i64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME)?);
    let offset_ns = offset(now, realtime_ns);
    if step || !is_slewed(offset_ns) {
        // A slew that is still going on aimed at the clock as it was.
        crate::sys::slew_clock(0)?;
        set(realtime_ns)?;
    } else {
        crate::sys::slew_clock(offset_ns / 1000)?;
    }
    Ok(offset_ns)
}

/// How far the clock that says `now` is behind one that says `realtime_ns`, nanoseconds.
fn offset(now: Duration, realtime_ns: u64) -> i64 {
    let offset = i128::from(realtime_ns) - i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
    i64::try_from(offset).unwrap_or(if offset < 0 { i64::MIN } else { i64::MAX })
}

fn is_slewed(offset_ns: i64) -> bool {
    u128::from(offset_ns.unsigned_abs()) <= MAX_SLEW.as_nanos()
}

/// Feeds the kernel's random generator and credits the bytes.
pub fn add_entropy(bytes: &[u8]) -> std::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let random = File::options().write(true).open("/dev/random")?;
    for part in bytes.chunks(crate::sys::MAX_ENTROPY) {
        crate::sys::add_entropy(&random, part)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "clock_test.rs"]
mod clock_test;
