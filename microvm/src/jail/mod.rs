//! What keeps the process small: namespaces, capabilities, and a seccomp policy for each kind of thread.
//!
//! The boundary is the process: its root is the share, its ids and namespaces are its own. The policies of the threads are depth,
//! because threads share an address space.

mod capabilities;
mod namespaces;
mod policy;
mod syscalls;
mod worker;

pub use namespaces::{Entered, JailError, enter};
pub use policy::{Policies, PolicyError};
pub use worker::{SpawnError, Spawner, ThreadKind, spawn_worker};
