//! The guest agent: PID 1 of a pod's microVM.
//!
//! It prepares the guest, then serves the host's requests (agent/protocol) and only those: it never opens a connection. It runs
//! on one thread; what must not happen in PID 1 (libcontainer, joining namespaces) happens in a one-shot helper process of
//! the same program.
//!
//! Distrusts: the containers. They share the guest's kernel with the agent and may end, fork, freeze or fill their pipes at any
//! moment; nothing they do may stop the agent from answering. The host is trusted: it owns the guest's memory anyway; what it
//! sends is checked only so that mistakes are answered clearly.

mod apart;
pub mod boot;
pub mod clock;
pub mod container;
pub mod cpus;
pub mod disks;
pub mod error;
pub mod events;
pub mod kmsg;
pub mod memory;
pub mod power;
pub mod reaper;
pub mod service;
pub mod stdio;
pub mod streams;
pub mod sys;
pub mod transport;
