//! What callers hand in and get back.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::SystemTime;

use oci_spec::runtime::LinuxBlockIo;
use serde_json::Value;
use tokio::sync::watch;

use crate::identity::GuestIds;
use crate::ids::ContainerId;

/// What a pod is made of, before any container is known. [`PodSpec::from_spec`] reads it from a spec.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// containerd's namespace.
    pub namespace: String,
    /// The sandbox's id, which is the first container's where there is no sandbox API.
    pub id: ContainerId,
    /// Host name inside; `None`: the guest's own default.
    pub hostname: Option<String>,
    /// Network namespace the pod lives in; `None`: a new one with nothing in it.
    pub network_namespace: Option<PathBuf>,
    /// Host cgroup of the microVM as the OCI spec writes it (`/a/b`, or `slice:prefix:name` for systemd); `None`: none.
    pub cgroup_path: Option<String>,
    /// Limits of the whole pod, which decide its size and the host cgroup.
    pub resources: PodResources,
    /// The spec's `process.oomScoreAdj` of the pod's workload; a sandbox's own is not one.
    pub oom_score_adj: Option<i32>,
    /// User and group ids that its processes have; those above 65535 need one of the pod's host ids each.
    pub ids: GuestIds,
    /// Annotations, of which some set options of the pod (see the config reference).
    pub annotations: HashMap<String, String>,
}

/// Limits as the client wrote them; `None`: no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodResources {
    /// Memory limit in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU time in microseconds for each period.
    pub cpu_quota_us: Option<u64>,
    /// Length of that period in microseconds; `None`: 100 ms.
    pub cpu_period_us: Option<u64>,
    /// Relative weight as cgroup v1 shares (2 to 262144).
    pub cpu_shares: Option<u64>,
    /// Host CPUs that the vmm may run on, as a list ("0-3,6").
    pub cpuset_cpus: Option<String>,
    /// Host memory nodes, as a list.
    pub cpuset_mems: Option<String>,
    /// Weights and rates for the host's block devices (OCI: linux.resources.blockIO).
    pub block_io: Option<LinuxBlockIo>,
    /// Further files of cgroup v2, of its controllers `cpuset` and `io`, and what to write into them (OCI: linux.resources.unified).
    pub unified: Vec<(String, String)>,
}

/// Where a process's standard streams go: containerd's fifos, or a `file://` URI. `None`: nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StdioPaths {
    /// The process has a terminal; `stderr` is then unused.
    pub terminal: bool,
    /// Read from here.
    pub stdin: Option<PathBuf>,
    /// Written to.
    pub stdout: Option<PathBuf>,
    /// Written to.
    pub stderr: Option<PathBuf>,
}

/// One of the mounts that make a root filesystem, as containerd's snapshotter describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootfsMount {
    /// "overlay", "bind", "ext4", ...
    pub fstype: String,
    /// Device or folder.
    pub source: String,
    /// Folder below the root filesystem; empty: the root itself.
    pub target: String,
    /// As in fstab, one each.
    pub options: Vec<String>,
}

/// A container to create.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// Unique in the pod.
    pub id: ContainerId,
    /// Folder with config.json.
    pub bundle: PathBuf,
    /// Content of that file, by [`load_spec`](super::load_spec).
    pub spec: Value,
    /// Mounts of the root filesystem; empty: the bundle's `root.path` is ready.
    pub rootfs: Vec<RootfsMount>,
    /// Streams of the init process.
    pub stdio: StdioPaths,
    /// Becomes true when nobody wants the container any more: then its creation waits no longer for file systems of the host.
    pub given_up: watch::Receiver<bool>,
}

impl ContainerSpec {
    pub(super) fn given_up(&self) -> (ContainerId, watch::Receiver<bool>) {
        (self.id.clone(), self.given_up.clone())
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// 0-255; 128 + N for a death by signal N; 137 too when the microVM ended under it.
    pub status: u32,
    /// Host's clock.
    pub at: SystemTime,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Created (an exec: registered), not started.
    Created,
    /// Started and not ended.
    Running,
    /// Frozen with its container.
    Paused,
    /// Ended.
    Stopped,
}

/// Answer of [`Pod::state`](super::Pod::state).
#[derive(Debug, Clone)]
pub struct ProcessState {
    /// Where it is in its life.
    pub status: Status,
    /// Host-unique number; 0 for an exec that has not been started.
    pub pid: u32,
    /// Set when `status` is [`Status::Stopped`].
    pub exit: Option<Exit>,
    /// As given when it was created.
    pub stdio: StdioPaths,
    /// The container's bundle.
    pub bundle: PathBuf,
}

/// One process of a container as [`Pod::pids`](super::Pod::pids) lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidInfo {
    /// Host-unique number, of processes that no client created one beyond the host's pids.
    pub pid: u32,
    /// Number in the guest.
    pub guest_pid: u32,
    /// Set when it is an exec.
    pub exec_id: Option<String>,
}

/// What happens to a pod without being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodEvent {
    /// A process ended. It can come before the call that started the process has returned.
    Exited {
        /// Its container.
        container: String,
        /// `None`: the container's init.
        exec_id: Option<String>,
        /// Its number, as create and start returned it.
        pid: u32,
        /// As in [`Exit`].
        status: u32,
        /// As in [`Exit`].
        at: SystemTime,
    },
    /// The guest's out-of-memory killer ended a process of the container.
    OutOfMemory {
        /// The container.
        container: String,
    },
    /// The microVM ended without being asked to. Sent after the `Exited` of every process that was alive; the last event.
    Stopped {
        /// What is known of the cause, for the log.
        reason: String,
    },
}
