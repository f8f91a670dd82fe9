//! How the runtime commands `bulkhead-vmm`: one SOCK_SEQPACKET socketpair, one message a packet, file descriptors as SCM_RIGHTS.
//!
//! The vmm inherits its end as the descriptor named by `--control-fd`. It trusts the runtime; the runtime distrusts the vmm
//! (a guest may have taken it over): every message is bounded and checked, and no path or pid in it is acted upon.
//!
//! The order of a pod's life:
//!
//! 1. runtime sends [`Request::Boot`] with the descriptors that [`BootFd`] lists, in the order of `VmSpec::fds`.
//! 2. vmm, still single-threaded, forks into its pid namespace, and the outer process answers [`Reply::Jailed`] with the inner
//!    process's pid in the runtime's pid namespace, then exits.
//! 3. the inner process enters the rest of the jail (root = the share), builds the machine, answers [`Reply::Booted`]
//!    and runs the vCPUs.
//! 4. runtime sends [`Request::Connect`] and so on, each answered by one [`Reply`] in order.
//! 5. at any time the vmm may send [`Reply::Stopped`], its last message; then the socket closes.

mod channel;
mod message;

pub use channel::{Channel, ChannelError, MAX_FDS, MAX_PACKET};
pub use message::{
    BootFd, Counters, DiskSpec, FIRST_PLACE, IdExtent, JailSpec, MemoryState, OWN_ROOTFS, READY_ROOTFS, Reply, Request,
    StopReason, VmSpec,
};
