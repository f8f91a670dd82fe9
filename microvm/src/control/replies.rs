//! Replies in the order of the requests, although some are known later than others; and those that come out of turn.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use bulkhead_vmm_control::Reply;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Replies that have not been sent. The main thread owns it.
#[derive(Debug)]
pub struct Replies {
    queue: VecDeque<Arc<OnceLock<Reply>>>,
    /// Holds up none of the others.
    aside: Option<Arc<OnceLock<Reply>>>,
    bell: Arc<EventFd>,
}

/// A reply that somebody owes.
#[derive(Debug)]
pub struct Promise {
    slot: Arc<OnceLock<Reply>>,
    bell: Arc<EventFd>,
}

impl Replies {
    /// Nothing owed.
    pub fn new() -> Result<Replies, Errno> {
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Replies {
            queue: VecDeque::new(),
            aside: None,
            bell: Arc::new(bell),
        })
    }

    /// Readable when a promise was kept.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// A reply that is known now.
    pub fn push(&mut self, reply: Reply) {
        self.queue.push_back(Arc::new(OnceLock::from(reply)));
    }

    /// A reply that will be known later.
    pub fn promise(&mut self) -> Promise {
        let slot = Arc::new(OnceLock::new());
        self.queue.push_back(slot.clone());
        self.promise_in(slot)
    }

    /// A reply that comes out of turn, if ever; one at a time.
    pub fn promise_aside(&mut self) -> Promise {
        let slot = Arc::new(OnceLock::new());
        self.aside = Some(slot.clone());
        self.promise_in(slot)
    }

    fn promise_in(&self, slot: Arc<OnceLock<Reply>>) -> Promise {
        Promise {
            slot,
            bell: self.bell.clone(),
        }
    }

    /// The next reply to send, if it is known.
    pub fn next(&mut self) -> Option<Reply> {
        if let Some(reply) = self.aside.as_ref().and_then(|slot| slot.get()).cloned() {
            self.aside = None;
            return Some(reply);
        }
        let reply = self.queue.front()?.get()?.clone();
        self.queue.pop_front();
        Some(reply)
    }

    /// The bell was heard.
    pub fn clear_bell(&self) {
        // Nothing to read means that nobody rang.
        let _ = self.bell.read();
    }
}

impl Promise {
    /// Any thread.
    pub fn keep(self, reply: Reply) {
        self.settle(reply);
    }

    fn settle(&self, reply: Reply) {
        if self.slot.set(reply).is_ok() {
            // A full counter is readable too.
            let _ = self.bell.write(1);
        }
    }
}

impl Drop for Promise {
    /// A promise that nobody kept must not hold up the replies behind it.
    fn drop(&mut self) {
        self.settle(Reply::Failed {
            message: "the request was dropped because the machine is ending".to_owned(),
        });
    }
}

#[cfg(test)]
#[path = "replies_test.rs"]
mod replies_test;
