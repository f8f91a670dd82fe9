//! The guest's memory grows when its containers need more.
//!
//! A program touches memory faster than the host can be asked for more. So the group of all containers has a mark below what there is
//! (memory.high; kernel, admin-guide/cgroup-v2): at the mark the kernel first takes back what it can, page cache above all, then holds up
//! whoever asks for more, and wakes the agent. What can be taken back is no reason to grow. At the most that the machine can have there
//! is no mark, and the out-of-memory killer does what it does on a host.

use crate::container::cgroup::field;
use crate::error::chain;
use crate::events::{Event, Events};
use crate::kmsg;
use nix::sys::uio::pread;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::time::{Instant, sleep};

const MIB: u64 = 1 << 20;
/// The kernel plugs memory in blocks of this size (x86-64, sparse memory sections).
const BLOCK: u64 = 128 * MIB;
/// Least that is asked for at a time.
const LEAST: u64 = 2 * BLOCK;
/// What the kernel, the agent and the descriptions of memory that is being plugged (1.6 % of it) have above the mark.
const RESERVE: u64 = 48 * MIB;
/// One part in so many of the memory is kept above the mark in addition.
const RESERVE_PART: u64 = 32;
/// How long the host may take to plug what was asked for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the containers have no mark when it did not.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// Between two looks at whether memory has come.
const LOOK: Duration = Duration::from_millis(1);
/// The mark can be reached at any rate by page cache alone.
const PAUSE: Duration = Duration::from_millis(20);

/// For so long after the boot, single free pages go back to the host: what the boot has left, bit by bit.
const TIDYING: Duration = Duration::from_secs(90);
/// Smallest power of two of pages that goes back (drivers: mm/page_reporting).
const REPORTING_ORDER: &str = "/sys/module/page_reporting/parameters/page_reporting_order";
/// 2 MiB: what is freed later comes in large pieces, or is wanted again soon, and the host's huge pages stay whole.
const LARGE: &str = "9";

/// Ends the giving back of single pages, which the kernel's command line has begun.
pub async fn tidy_up() {
    sleep(TIDYING).await;
    let set = || -> io::Result<()> {
        // Whoever has put another one on the command line wants that.
        match number_in(REPORTING_ORDER)? {
            0 => fs::write(REPORTING_ORDER, LARGE),
            _ => Ok(()),
        }
    };
    if let Err(error) = set() {
        kmsg::notice(&format!("free memory goes back to the host in small pieces: {error}"));
    }
}

/// Asks for memory, through `events`, as long as the machine can have more than it had at first: `growth` bytes. Ends when it has all.
pub async fn grow(group: PathBuf, growth: u64, events: Arc<Events>) {
    let pod = Pod { group, events };
    if let Err(error) = pod.grow(growth).await {
        kmsg::notice(&format!("the guest's memory does not grow: {}", chain(&error)));
        let _no_mark = pod.set_mark(None);
    }
}

struct Pod {
    /// Of all containers.
    group: PathBuf,
    events: Arc<Events>,
}

impl Pod {
    async fn grow(&self, growth: u64) -> io::Result<()> {
        let most = total()? + growth / BLOCK * BLOCK;
        // Of the group alone: containers can have marks of their own. Polling the file wakes up with every change of its counters.
        let file = File::open(self.group.join("memory.events.local"))?;
        let file = crate::sys::watched(file.into(), Interest::PRIORITY)?;
        let mut seen = 0;
        loop {
            let now = total()?;
            if now + BLOCK > most {
                return self.set_mark(None);
            }
            let mark = self.mark(now)?;
            loop {
                file.ready(Interest::PRIORITY).await?.clear_ready();
                // Reading the polled file itself arms its next wake-up.
                let mut buffer = [0; 512];
                let count = pread(file.get_ref(), &mut buffer, 0)?;
                let text = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()).into_owned();
                let reached = field(&text, "high");
                if reached != seen && self.needs(mark).await? {
                    seen = reached;
                    break;
                }
                seen = reached;
                sleep(PAUSE).await;
            }
            if !self.more(now, step(now).min(most - now)).await? {
                kmsg::notice("the host does not give the memory that the guest has asked for");
                self.set_mark(None)?;
                // A mark below what is in use would have the kernel look for what it cannot take back, again and again.
                loop {
                    sleep(GIVEN_UP).await;
                    if !self.is_far_above(mark)? || self.more(now, step(now).min(most - now)).await? {
                        break;
                    }
                }
            }
        }
    }

    /// Whether what cannot be taken back fills most of what is below the mark, or the kernel does not get back below it for another
    /// reason, in which case it holds everybody up without end.
    async fn needs(&self, mark: u64) -> io::Result<bool> {
        let text = fs::read_to_string(self.group.join("memory.stat"))?;
        let kept: u64 = ["anon", "shmem", "kernel", "sock"]
            .iter()
            .map(|key| field(&text, key))
            .sum();
        let kept = kept.saturating_sub(field(&text, "slab_reclaimable"));
        if kept > mark / 4 * 3 {
            return Ok(true);
        }
        if !self.is_far_above(mark)? {
            return Ok(false);
        }
        sleep(PAUSE).await;
        self.is_far_above(mark)
    }

    /// So far above the mark that whoever asks for memory sleeps (1.25 % and more).
    fn is_far_above(&self, mark: u64) -> io::Result<bool> {
        Ok(number_in(self.group.join("memory.current"))? > mark + mark / 64)
    }

    /// Asks for `bytes` more than `before`, and moves the mark as they come. False: too little has come.
    async fn more(&self, before: u64, bytes: u64) -> io::Result<bool> {
        self.events.push(Event::MemoryWanted(bytes));
        let deadline = Instant::now() + PATIENCE;
        let mut marked = before;
        loop {
            let now = total()?;
            if now > marked {
                marked = now;
                self.mark(now)?;
            }
            if now >= before + bytes || Instant::now() >= deadline {
                return Ok(now > before);
            }
            sleep(LOOK).await;
        }
    }

    /// Puts the mark where it is in a machine of `total` bytes, and gives it.
    fn mark(&self, total: u64) -> io::Result<u64> {
        // The kernel rather kills than goes below this, and takes memory back until there is half as much again.
        let free = (number_in("/proc/sys/vm/min_free_kbytes")? << 10) / 2 * 3;
        let mark = mark(total) - free.min(total / 8);
        self.set_mark(Some(mark))?;
        Ok(mark)
    }

    fn set_mark(&self, mark: Option<u64>) -> io::Result<()> {
        let mark = mark.map_or("max".to_owned(), |mark| mark.to_string());
        fs::write(self.group.join("memory.high"), mark)
    }
}

/// Where the mark is in a machine of `total` bytes.
fn mark(total: u64) -> u64 {
    total - total / RESERVE_PART - RESERVE.min(total / 4)
}

/// How much a machine of `total` bytes asks for: half of what it has.
fn step(total: u64) -> u64 {
    (total / 2 / BLOCK * BLOCK).max(LEAST)
}

/// The number that a file consists of.
fn number_in(file: impl AsRef<Path>) -> io::Result<u64> {
    fs::read_to_string(file)?.trim().parse().map_err(io::Error::other)
}

/// What there is now, bytes.
fn total() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    total_in(&text).ok_or_else(|| io::Error::other("/proc/meminfo has no MemTotal"))
}

fn total_in(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
