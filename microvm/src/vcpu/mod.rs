//! Virtual CPUs: what they look like (CPUID, MSRs), the state they start in, and the loop that runs them.
//!
//! Distrusts the guest: every exit is a request of its own making.

pub mod counters;
pub mod cpuid;
pub mod gate;
pub mod registers;
mod run;

pub use run::{Vcpu, VcpuError, run};
