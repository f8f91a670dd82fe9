//! The agent's protocol: generated ttrpc messages, client and server, and the constants both sides share.
//!
//! Distrusts nobody itself: it holds no logic. The agent checks what the host sends for consistency only; the host treats
//! everything that arrives through these types as hostile.

mod generated {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )]
    include!(concat!(env!("OUT_DIR"), "/protocol.rs"));
}

pub use generated::{agent, agent_ttrpc};

/// vsock port of the ttrpc service.
pub const CONTROL_PORT: u32 = 1024;

/// vsock port of standard streams. The host opens one connection per stream and direction, writes the stream's id (u64, little
/// endian, never 0), and names the id in `Stdio`. stdin: host to guest, closed with shutdown(SHUT_WR); stdout and stderr: guest
/// to host, closed by the agent when the last writer in the container is gone.
pub const STREAM_PORT: u32 = 1025;

/// Where the guest mounts the pod's virtio-fs share (tag [`SHARE_TAG`]). The host puts container `C`'s root file
/// system at `SHARE_MOUNT/C/rootfs`, or `SHARE_MOUNT/C/ready-rootfs` where it lay ready, and the pod's n-th volume at
/// `SHARE_MOUNT/VOLUMES/n`.
pub const SHARE_MOUNT: &str = "/run/bulkhead/share";

/// Name of the volumes' folder in the share; no container's id.
pub const VOLUMES: &str = "@volumes";

/// virtio-fs tag of the pod's share.
pub const SHARE_TAG: &str = "share";

/// Largest ttrpc message, bytes (the protocol's own bound). Specs that do not fit are refused before they are sent.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Where the guest has nodes of the disks that were plugged.
pub const DISKS: &str = "/dev/bulkhead";

/// That of the disk in this PCI slot; mounts of a spec name it as their source.
pub fn disk_path(slot: u32) -> String {
    format!("{DISKS}/disk{slot}")
}
