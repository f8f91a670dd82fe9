//! What a process that is added to a container gets of how its init is scheduled, and of the machine that its init takes itself to be on;
//! libcontainer does the same for the init.

use super::program;
use crate::sys;
use libcontainer::config::PersonalityDomain;
use libcontainer::syscall::syscall::create_syscall;
use nix::libc;
use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process,
    Scheduler, Spec,
};
use serde::{Deserialize, Serialize};

/// That of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    scheduler: Option<Scheduler>,
    io_priority: Option<LinuxIOPriority>,
    personality: Option<LinuxPersonalityDomain>,
}

impl Scheduling {
    /// By its specification.
    pub fn of(spec: &Spec) -> Scheduling {
        let process = spec.process().as_ref();
        let linux = spec.linux().as_ref();
        let personality = linux.and_then(|linux| linux.personality().clone());
        Scheduling {
            scheduler: process.and_then(|process| process.scheduler().clone()),
            io_priority: process.and_then(|process| *process.io_priority()),
            personality: personality.map(|personality| personality.domain()),
        }
    }

    /// With what a process that is added asks for itself.
    pub fn with(mut self, process: &Process) -> Scheduling {
        self.scheduler = process.scheduler().clone().or(self.scheduler);
        self.io_priority = process.io_priority().or(self.io_priority);
        self
    }

    /// Sets the calling process's, which has one thread.
    pub fn apply(&self) -> Result<(), String> {
        let syscall = create_syscall();
        if let Some(wanted) = &self.scheduler {
            sys::set_scheduler(&attributes(wanted))
                .map_err(|errno| format!("error setting scheduler: {}", program::text(errno)))?;
        }
        if let Some(wanted) = &self.io_priority {
            syscall
                .set_io_priority(class(wanted.class()), wanted.priority())
                .map_err(|error| format!("error setting I/O priority: {error}"))?;
        }
        let domain = self.personality.map(|domain| match domain {
            LinuxPersonalityDomain::PerLinux => PersonalityDomain::Linux,
            LinuxPersonalityDomain::PerLinux32 => PersonalityDomain::Linux32,
        });
        domain.map_or(Ok(()), |domain| {
            syscall
                .personality(domain)
                .map_err(|error| format!("error setting personality: {error}"))
        })
    }
}

/// By the numbers of ioprio_set(2).
fn class(class: IOPriorityClass) -> i64 {
    match class {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    }
}

/// As sched_setattr(2) takes it.
fn attributes(wanted: &Scheduler) -> libc::sched_attr {
    let policy = match wanted.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: policy,
        sched_flags: wanted.flags().iter().flatten().map(flag).fold(0, |all, one| all | one),
        sched_nice: wanted.nice().unwrap_or(0),
        sched_priority: wanted.priority().unwrap_or(0).cast_unsigned(),
        sched_runtime: wanted.runtime().unwrap_or(0),
        sched_deadline: wanted.deadline().unwrap_or(0),
        sched_period: wanted.period().unwrap_or(0),
    }
}

#[cfg(test)]
#[path = "scheduling_test.rs"]
mod tests;
