//! Where console output goes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// How much console output is kept.
pub const RING_BYTES: usize = 8 * 1024;

/// What the kernel prints first when it panics.
const PANIC_MARK: &[u8] = b"Kernel panic - not syncing";

/// Most bytes a guest can write to the log; the ring goes on.
const LOG_LIMIT: u64 = 16 << 20;

/// The last bytes that the guest wrote. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ConsoleRing(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    bytes: VecDeque<u8>,
    /// How much of `PANIC_MARK` the last bytes match.
    matched: usize,
    panicked: bool,
}

impl ConsoleRing {
    /// An empty ring.
    pub fn new() -> ConsoleRing {
        ConsoleRing::default()
    }

    /// The last `max` bytes, from the start of a line where one begins in them, as text.
    pub fn last(&self, max: usize) -> String {
        let ring = lock(&self.0);
        let skip = ring.bytes.len().saturating_sub(max);
        let mut tail: Vec<u8> = ring.bytes.iter().copied().skip(skip).collect();
        if skip > 0
            && let Some(end) = tail.iter().position(|byte| *byte == b'\n')
        {
            tail.drain(..=end);
        }
        tail.retain(|byte| *byte != b'\r');
        let mut text = String::from_utf8_lossy(&tail).into_owned();
        while text.len() > max {
            text.pop();
        }
        text
    }

    /// Whether the kernel said that it panicked.
    pub fn panicked(&self) -> bool {
        lock(&self.0).panicked
    }

    fn push(&self, bytes: &[u8]) {
        let mut ring = lock(&self.0);
        for byte in bytes {
            if ring.bytes.len() == RING_BYTES {
                ring.bytes.pop_front();
            }
            ring.bytes.push_back(*byte);
            // The mark does not begin with any of its own parts, so falling back to its start misses nothing.
            ring.matched = match PANIC_MARK.get(ring.matched) {
                Some(expected) if expected == byte => ring.matched + 1,
                _ => usize::from(PANIC_MARK.first() == Some(byte)),
            };
            ring.panicked |= ring.matched == PANIC_MARK.len();
        }
    }
}

/// The end that the serial port writes to.
#[derive(Debug)]
pub struct ConsoleWriter {
    ring: ConsoleRing,
    log: Option<File>,
    logged: u64,
}

impl ConsoleWriter {
    /// Output goes to `ring` and to `log`.
    pub fn new(ring: ConsoleRing, log: Option<File>) -> ConsoleWriter {
        ConsoleWriter { ring, log, logged: 0 }
    }
}

impl Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.ring.push(bytes);
        if let Some(log) = &mut self.log {
            self.logged = self.logged.saturating_add(bytes.len() as u64);
            if self.logged > LOG_LIMIT {
                self.log = None;
            } else if let Err(error) = log.write_all(bytes) {
                tracing::warn!("console log ends here: {error}");
                self.log = None;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "console_test.rs"]
mod console_test;
