//! A pod: one microVM, the containers in it, and what the host lent them.
//!
//! [`Pod::boot`] starts the microVM and gives the pod together with its events. From then on every call names a process by
//! container and exec id (`None`: the container's init). All calls may run at the same time; each is bounded in time.

mod api;
mod types;

pub use api::Pod;
pub use types::{
    ContainerSpec, Exit, PidInfo, PodEvent, PodResources, PodSpec, ProcessState, RootfsMount, Stats, Status, StdioPaths,
};
