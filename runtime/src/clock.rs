//! Keeps a guest's realtime clock at the host's.
//!
//! kvm-clock gives the guest an even tick, but the host's clock is slewed (NTP) and stepped (an administrator, a resume). A
//! timerfd that the kernel cancels when the clock is set tells of steps at once; a call every half minute follows slews.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;

use crate::agent_client::Agent;
use crate::watched::{Watched, watch};

/// Time between two looks at an undisturbed clock.
const PERIOD: Duration = Duration::from_secs(30);
/// The same after an offset above [`NOTICEABLE_NS`] was seen: a slew is going on.
const PERIOD_WHILE_SLEWING: Duration = Duration::from_secs(5);
const NOTICEABLE_NS: u64 = 2_000_000;

/// Never ends: to be aborted when the pod does.
pub(crate) async fn follow(agent: Agent, pod: String) {
    let watch = match StepWatch::new() {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!("pod {pod}: steps of the clock are not noticed at once: {error}");
            None
        }
    };
    let mut period = PERIOD;
    // What the agent's first call has set is late by as long as that took, and nothing runs yet that could see a step.
    let mut stepped = true;
    loop {
        match agent.sync_clock(stepped).await {
            Ok(offset_ns) => {
                period = if offset_ns.unsigned_abs() > NOTICEABLE_NS && !stepped {
                    PERIOD_WHILE_SLEWING
                } else {
                    PERIOD
                };
                tracing::debug!("pod {pod}: the guest's clock was {offset_ns} ns behind (stepped: {stepped})");
            }
            Err(error) => tracing::debug!("pod {pod}: the guest's clock cannot be set: {error}"),
        }
        stepped = match &watch {
            Some(watch) => tokio::select! { _ = watch.stepped() => true, _ = tokio::time::sleep(period) => false },
            None => {
                tokio::time::sleep(period).await;
                false
            }
        };
    }
}

/// Becomes readable when somebody sets the host's realtime clock.
struct StepWatch {
    timer: Watched<TimerFd>,
}

impl StepWatch {
    fn new() -> std::io::Result<StepWatch> {
        let timer = TimerFd::new(
            ClockId::CLOCK_REALTIME,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )?;
        arm(&timer)?;
        Ok(StepWatch {
            timer: watch(timer, Interest::READABLE)?,
        })
    }

    /// Returns when the clock was set.
    async fn stepped(&self) {
        loop {
            let Ok(mut ready) = self.timer.readable().await else {
                return std::future::pending().await;
            };
            let mut expirations = [0u8; 8];
            match nix::unistd::read(self.timer.get_ref().as_fd(), &mut expirations) {
                Err(Errno::EAGAIN | Errno::EINTR) => ready.clear_ready(),
                result => {
                    ready.clear_ready();
                    if arm(self.timer.get_ref()).is_err() {
                        return std::future::pending().await;
                    }
                    if result == Err(Errno::ECANCELED) {
                        return;
                    }
                }
            }
        }
    }
}

/// Sets the timer to a moment that never comes; only its cancellation is of interest.
fn arm(timer: &TimerFd) -> nix::Result<()> {
    let never = Expiration::OneShot(TimeSpec::seconds(i64::from(i32::MAX) * 4));
    match timer.set(
        never,
        TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
    ) {
        // The clock was set in between; the timer is armed all the same.
        Err(Errno::ECANCELED) => Ok(()),
        result => result,
    }
}
