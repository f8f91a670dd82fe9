//! What keeps the process small: namespaces, capabilities, and a seccomp policy for each kind of thread.

mod worker;

pub use worker::{SpawnError, ThreadKind, spawn_worker};
