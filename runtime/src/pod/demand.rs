//! What containers may have, each and all of a pod together: what its machine and its cgroup on the host must have room for.

use std::cmp::Ordering;

use serde_json::Value;

use super::sizing::MIB;
use super::spec_input::limit_at;
use super::types::PodResources;

/// The kernel's own default period of the CPU controller.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// CPU time in microseconds for each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) us: u64,
    pub(super) period_us: u64,
}

impl Quota {
    /// That of a pod, if it has one.
    pub(super) fn of(resources: &PodResources) -> Option<Quota> {
        resources.cpu_quota_us.map(|us| Quota::new(us, resources.cpu_period_us))
    }

    /// As OCI has it, where the period may be left out.
    fn new(us: u64, period_us: Option<u64>) -> Quota {
        Quota {
            us,
            period_us: period_us.unwrap_or(DEFAULT_PERIOD_US).max(1),
        }
    }

    /// Whole CPUs that it needs.
    pub(super) fn cpus(self) -> u64 {
        self.us.div_ceil(self.period_us)
    }

    /// Both together, for the period of this one.
    fn plus(self, other: Quota) -> Quota {
        let more = u128::from(other.us) * u128::from(self.period_us) / u128::from(other.period_us);
        Quota {
            us: self.us.saturating_add(u64::try_from(more).unwrap_or(u64::MAX)),
            ..self
        }
    }

    /// Which of them is more CPU time.
    pub(super) fn compared(self, other: Quota) -> Ordering {
        let ours = u128::from(self.us) * u128::from(other.period_us);
        ours.cmp(&(u128::from(other.us) * u128::from(self.period_us)))
    }
}

/// What containers may have; `None`: there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) memory_mib: Option<u64>,
    pub(super) cpu: Option<Quota>,
}

impl Demand {
    /// Of one container, from its OCI "linux.resources".
    pub(super) fn of(resources: Option<&Value>) -> Demand {
        let limit = |pointer| limit_at(resources?, pointer);
        Demand {
            memory_mib: limit("/memory/limit").map(|bytes| bytes.div_ceil(MIB)),
            cpu: limit("/cpu/quota").map(|us| Quota::new(us, limit("/cpu/period"))),
        }
    }

    /// The same container's after an update with `resources`: what that does not name, or calls 0, stays.
    pub(super) fn updated(self, resources: &Value) -> Demand {
        let named = |pointer| resources.pointer(pointer).and_then(Value::as_i64).filter(|n| *n != 0);
        let new = Demand::of(Some(resources));
        let period_us = named("/cpu/period").and_then(|n| u64::try_from(n).ok());
        Demand {
            memory_mib: match named("/memory/limit") {
                Some(_) => new.memory_mib,
                None => self.memory_mib,
            },
            cpu: match named("/cpu/quota") {
                Some(_) => new.cpu.map(|quota| Quota {
                    period_us: period_us
                        .or(self.cpu.map(|old| old.period_us))
                        .unwrap_or(quota.period_us),
                    ..quota
                }),
                None => self.cpu.map(|old| Quota {
                    period_us: period_us.unwrap_or(old.period_us),
                    ..old
                }),
            },
        }
    }

    /// Of all of them together: one without a limit leaves all without.
    pub(super) fn of_all(containers: impl IntoIterator<Item = Demand>) -> Demand {
        let both = |sum: Demand, next: Demand| Demand {
            memory_mib: sum.memory_mib.zip(next.memory_mib).map(|(a, b)| a.saturating_add(b)),
            cpu: sum.cpu.zip(next.cpu).map(|(a, b)| a.plus(b)),
        };
        containers.into_iter().reduce(both).unwrap_or_default()
    }
}

#[cfg(test)]
#[path = "demand_test.rs"]
mod demand_test;
