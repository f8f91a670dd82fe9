//! What the machine costs: exits to user space.

use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_vmm_control::Counters;

/// Counted by every vCPU, read by the main thread.
#[derive(Debug, Default)]
pub struct ExitCounters {
    io: AtomicU64,
    mmio: AtomicU64,
    other: AtomicU64,
}

/// Kinds of exits that are told apart.
#[derive(Debug, Clone, Copy)]
pub enum ExitKind {
    /// Port access.
    Io,
    /// Memory access.
    Mmio,
    /// Anything else.
    Other,
}

impl ExitCounters {
    /// Counts one exit.
    pub fn count(&self, kind: ExitKind) {
        let counter = match kind {
            ExitKind::Io => &self.io,
            ExitKind::Mmio => &self.mmio,
            ExitKind::Other => &self.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// So far; `bytes_copied_at_boot` is the machine's to fill in.
    pub fn read(&self) -> Counters {
        Counters {
            exits_io: self.io.load(Ordering::Relaxed),
            exits_mmio: self.mmio.load(Ordering::Relaxed),
            exits_other: self.other.load(Ordering::Relaxed),
            bytes_copied_at_boot: 0,
        }
    }
}
