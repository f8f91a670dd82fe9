//! The process's main thread: boots what the runtime asks for, serves its requests, and reports the end.
//!
//! Trusts the runtime. What comes back from the guest (connections, stops) arrives from other threads as events.

mod boot_fds;
mod replies;
mod session;

pub use session::{SessionError, run};
