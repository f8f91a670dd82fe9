//! A thread that serves the virtqueues of a device, chain by chain, until it is told to stop.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::device::{ActivateError, GuestMemory};
use super::ring::{Chain, Ring};
use crate::jail::{ThreadKind, spawn_worker};

/// A running worker. Dropping it stops it and waits.
#[derive(Debug)]
pub struct QueueWorker {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl QueueWorker {
    /// Starts a thread of this kind, named as its device, that passes every chain of `rings` to `handle`, with the number of its queue;
    /// `handle` returns the number of bytes it wrote.
    pub fn start<H>(
        device: &'static str,
        kind: ThreadKind,
        memory: GuestMemory,
        rings: Vec<Ring>,
        handle: H,
    ) -> Result<QueueWorker, ActivateError>
    where
        H: for<'m> FnMut(&'m GuestMemory, u16, Chain<'m>) -> u32 + Send + 'static,
    {
        let failed = |reason| ActivateError { device, reason };
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = EventFd::from_value_and_flags(0, flags)
            .map_err(|error| failed(format!("cannot make an event: {error}")))?;
        let stop = Arc::new(stop);
        let stopped = stop.clone();
        let body = move || serve(&memory, rings, handle, &stopped);
        let thread = spawn_worker(device, kind, body).map_err(|error| failed(error.to_string()))?;
        Ok(QueueWorker {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for QueueWorker {
    fn drop(&mut self) {
        // A full counter is readable too.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a queue's worker panicked");
        }
    }
}

fn serve<H>(memory: &GuestMemory, mut rings: Vec<Ring>, mut handle: H, stop: &EventFd)
where
    H: for<'m> FnMut(&'m GuestMemory, u16, Chain<'m>) -> u32,
{
    loop {
        for ring in &mut rings {
            drain(memory, ring, &mut handle, stop);
        }
        let kicks = rings.iter().map(Ring::kick);
        let mut events: Vec<PollFd<'_>> = std::iter::once(stop.as_fd())
            .chain(kicks)
            .map(|event| PollFd::new(event, PollFlags::POLLIN))
            .collect();
        match poll(&mut events, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!("a queue's worker cannot wait: {error}");
                return;
            }
        }
        if is_stopped(stop) {
            return;
        }
        rings.iter().for_each(Ring::clear_kick);
    }
}

/// Serves until the ring is empty and the driver has been asked to kick. The stop is heard between two chains: a driver that
/// keeps the ring full must not hold up its own reset.
fn drain<H>(memory: &GuestMemory, ring: &mut Ring, handle: &mut H, stop: &EventFd)
where
    H: for<'m> FnMut(&'m GuestMemory, u16, Chain<'m>) -> u32,
{
    loop {
        ring.spare_kicks(memory);
        while let Some(chain) = ring.pop(memory) {
            let head = chain.head_index();
            let written = handle(memory, ring.index(), chain);
            ring.give_back(memory, head, written);
            ring.notify(memory);
            if is_stopped(stop) {
                return;
            }
        }
        if !ring.ask_for_kick(memory) {
            return;
        }
    }
}

fn is_stopped(stop: &EventFd) -> bool {
    let mut event = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut event, PollTimeout::ZERO), Ok(ready) if ready > 0)
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod worker_test;
