//! Numbers for processes that the host's kernel does not know.
//!
//! containerd wants a pid for every process, unique on the host. The first container has the vmm's own. All others get
//! `vmm pid + n * 2^22`: above the kernel's largest pid (2^22), unique in the pod by n, and among pods because no two living
//! processes have the same pid. Nothing is recorded or shared for that. n fits ten bits, so a pod can have 1022 of them at a
//! time; the lowest number not used lately is taken, as the kernel does with pids. The largest n is for processes that no client
//! made and that the guest alone knows: `guest pid + 1023 * 2^22`, unique in the pod.

use std::collections::HashSet;

/// Kernel pids are below this.
const KERNEL_PIDS: u32 = 1 << 22;
/// n is at most this.
const MOST: u32 = FOREIGN - 1;
/// n of processes that no client made.
const FOREIGN: u32 = (1 << 10) - 1;

/// The number of a process that no client made.
pub(super) fn foreign(guest_pid: u32) -> u32 {
    FOREIGN * KERNEL_PIDS + guest_pid % KERNEL_PIDS
}

/// Numbers of one pod.
#[derive(Debug)]
pub(super) struct Numbers {
    vmm_pid: u32,
    used: HashSet<u32>,
    last: u32,
}

impl Numbers {
    pub(super) fn new(vmm_pid: u32) -> Numbers {
        Numbers {
            vmm_pid: vmm_pid % KERNEL_PIDS,
            used: HashSet::new(),
            last: 0,
        }
    }

    /// A free number; `None` when all are in use.
    pub(super) fn take(&mut self) -> Option<u32> {
        let candidates = (self.last + 1..=MOST).chain(1..=self.last);
        let n = candidates.into_iter().find(|n| !self.used.contains(n))?;
        self.used.insert(n);
        self.last = n;
        Some(n * KERNEL_PIDS + self.vmm_pid)
    }

    /// Gives a number back; others (the vmm's pid) are ignored.
    pub(super) fn give_back(&mut self, number: u32) {
        if number % KERNEL_PIDS == self.vmm_pid {
            self.used.remove(&(number / KERNEL_PIDS));
        }
    }
}

#[cfg(test)]
#[path = "numbers_test.rs"]
mod numbers_test;
