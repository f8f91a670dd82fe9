//! Pods on one host: boots a microVM for each, creates containers in it through its agent, and removes everything afterwards.
//!
//! Used by the shim (one pod in a process) and by `bulkhead`, the operator's command. Trusts the caller and the host. Distrusts
//! the guest and, because a guest may have taken it over, the vmm: what either of them answers is bounded in size and time,
//! checked, and never used as a path, a pid or an id of the host. What clients wrote (specs, options, the config file) is
//! checked before it is used and refused with a message that names it.

pub mod check;
pub mod config;
pub mod error;
pub mod ids;
pub mod phase;
pub mod pod;
pub mod state;

mod agent_client;
mod cgroup;
mod clock;
mod cpus;
mod identity;
mod mount_table;
mod pidfd;
mod rootfs;
mod spec;
mod stdio;
mod vmm_client;
mod volumes;
mod watched;
