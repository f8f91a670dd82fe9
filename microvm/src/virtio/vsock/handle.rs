//! The rest of the process asks for connections through a [`VsockHandle`], from any thread and also before the guest is up.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::sys::eventfd::{EfdFlags, EventFd};
use thiserror::Error;

use crate::sync::lock;

/// Most connections at a time, waiting ones included.
pub const MAX_CONNECTIONS: usize = 4096;

/// Why a connection did not come about.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConnectError {
    /// Nothing in the guest listens on the port.
    #[error("the guest refused the connection to port {0}")]
    Refused(u32),
    /// The guest did not answer.
    #[error("the guest did not answer the connection to port {0} in time")]
    TimedOut(u32),
    /// The guest reset the device, meanwhile or before.
    #[error("the guest gave its vsock device up before the connection to port {0} was made")]
    DeviceReset(u32),
    /// The bound of [`MAX_CONNECTIONS`] is reached.
    #[error("too many vsock connections (at most {MAX_CONNECTIONS})")]
    TooMany,
}

/// Called once with the outcome, from the device's worker or from within `connect`; must not wait.
pub type Done = Box<dyn FnOnce(Result<(), ConnectError>) + Send>;

/// A connection that somebody wants.
pub struct ConnectOrder {
    /// Port in the guest.
    pub port: u32,
    /// The host's end.
    pub stream: OwnedFd,
    /// Who wants to know.
    pub done: Done,
}

/// Orders that the worker has not seen yet. Outlives the worker, so that orders wait for a guest that is not up; not for one
/// that has given its device up.
pub struct Mailbox {
    orders: Mutex<Orders>,
    bell: EventFd,
    /// Turns of the worker's loop, by which tests see whether it rests.
    #[cfg(test)]
    pub(super) turns: std::sync::atomic::AtomicU64,
}

#[derive(Default)]
struct Orders {
    waiting: VecDeque<ConnectOrder>,
    closed: bool,
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> io::Result<Mailbox> {
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Mailbox {
            orders: Mutex::default(),
            bell,
            #[cfg(test)]
            turns: std::sync::atomic::AtomicU64::new(0),
        })
    }

    /// Readable when orders came in.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Takes every order out and silences the bell.
    pub fn take(&self) -> VecDeque<ConnectOrder> {
        // Nothing to read means that nobody rang.
        let _ = self.bell.read();
        std::mem::take(&mut self.orders().waiting)
    }

    /// A worker begins.
    pub fn open(&self) {
        self.orders().closed = false;
    }

    /// The worker has ended: what it has not seen fails, and so does what comes until the driver is ready again.
    pub fn close(&self) {
        let waiting = {
            let mut orders = self.orders();
            orders.closed = true;
            std::mem::take(&mut orders.waiting)
        };
        for ConnectOrder { port, done, .. } in waiting {
            done(Err(ConnectError::DeviceReset(port)));
        }
    }

    fn put(&self, order: ConnectOrder) {
        let refusal = {
            let mut orders = self.orders();
            if orders.closed {
                ConnectError::DeviceReset(order.port)
            } else if orders.waiting.len() >= MAX_CONNECTIONS {
                ConnectError::TooMany
            } else {
                orders.waiting.push_back(order);
                drop(orders);
                // A full counter is readable too, so a failure changes nothing.
                let _ = self.bell.write(1);
                return;
            }
        };
        (order.done)(Err(refusal));
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        lock(&self.orders)
    }
}

/// Asks for connections to the guest. Clones ask the same device.
#[derive(Clone)]
pub struct VsockHandle {
    mailbox: Arc<Mailbox>,
}

impl VsockHandle {
    /// For the device that owns `mailbox`.
    pub(super) fn new(mailbox: Arc<Mailbox>) -> VsockHandle {
        VsockHandle { mailbox }
    }

    /// Turns that the worker's loop has made.
    #[cfg(test)]
    pub(super) fn turns(&self) -> u64 {
        self.mailbox.turns.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Connects `stream`, a connected SOCK_STREAM socket, to the guest's `port`, and relays until both directions are finished.
    ///
    /// Never waits. `done` hears the outcome once. An order that comes before the driver is ready for the first time waits for
    /// it, without a limit: who boots the guest bounds its boot. From then on the guest has [`super::CONNECT_TIMEOUT`] to answer.
    pub fn connect(&self, port: u32, stream: OwnedFd, done: Done) {
        self.mailbox.put(ConnectOrder { port, stream, done });
    }
}
