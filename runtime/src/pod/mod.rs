//! A pod: one microVM, the containers in it, and what the host lent them.
//!
//! [`Pod::boot`] starts the microVM and gives the pod together with its events. From then on every call names a process by
//! container and exec id (`None`: the container's init). All calls may run at the same time; each is bounded in time, except
//! [`Pod::wait`], and a creation whose files are on a file system of the host that does not answer: that lasts until it is given up.
//!
//! Locks: the std mutexes guard maps and are never held across an await; a process's `operation` (tokio) lets one start or
//! deletion of it run at a time.

mod boot;
mod calls;
mod container;
mod demand;
mod disks;
mod hooks;
mod kernel_text;
mod machine;
mod numbers;
mod process;
mod resize;
mod sizing;
mod spec_input;
mod sysctls;
mod types;
mod undo;
mod watch;

pub use calls::Pod;
pub use hooks::run_poststop;
pub use types::{
    ContainerSpec, Exit, PidInfo, PodEvent, PodResources, PodSpec, ProcessState, RootfsMount, Status, StdioPaths,
};

pub use crate::identity::GuestIds;
pub use crate::spec::load as load_spec;
pub use crate::volumes::POD_SHM;
pub(crate) use undo::Undo;
