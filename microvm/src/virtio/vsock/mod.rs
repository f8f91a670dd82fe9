//! virtio-vsock (virtio 1.2, 5.10): stream connections that the host opens into the guest.
//!
//! Distrusts the guest. The guest can never open a connection towards the host: its requests are answered by a reset.
//!
//! What the peers say, for one connection:
//!
//! 1. the process asks [`VsockHandle::connect`] with one end of a socketpair; the worker sends REQUEST from a fresh local port;
//! 2. the guest answers RESPONSE (open) or RST (refused); no answer within [`CONNECT_TIMEOUT`] is a failure;
//! 3. both send RW packets with payload as far as the other's credit goes, and tell their own credit in every packet;
//! 4. either says SHUTDOWN with the directions that it is finished with. Here that follows the stream: its end is SEND, its
//!    refusal to take more is RECEIVE. The guest's SEND ends the stream's input after everything before it was written;
//! 5. when both directions are finished, the side that did not say so last answers RST. A guest that does not within
//!    [`CLOSE_TIMEOUT`] gets one. RST at any other time ends the connection at once.
//!
//! What may go wrong: a guest that overruns its credit, sends lengths that its buffers do not have, packets out of order or of
//! unknown kinds: that connection is reset. A guest that gives no receive buffers: nothing is sent, and after
//! 256 unsent resets nothing is taken from it either. A stream that takes no data: the guest runs out of credit.

use std::time::Duration;

mod backlog;
mod connection;
mod credit;
mod device;
mod handle;
mod packet;
mod rx;
mod stream;
mod table;
mod transfer;
mod worker;

pub use device::VsockDevice;
pub use handle::{ConnectError, Done, MAX_CONNECTIONS, VsockHandle};

/// How long a guest whose driver is ready may take to answer a request.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a guest may take to confirm that a connection is closed.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod guest_test;
#[cfg(test)]
mod hostile_test;
#[cfg(test)]
mod vsock_test;
