//! The calls of a pod.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::types::*;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ids::ContainerId;

/// A running pod.
pub struct Pod;

impl PodSpec {
    /// Reads what a pod needs from the config.json of its first container or sandbox. Blocks.
    pub fn from_bundle(_namespace: &str, _id: ContainerId, _bundle: &Path) -> Result<PodSpec> {
        Err(soon())
    }
}

impl Pod {
    /// Boots an empty pod and waits until its agent answers. On failure nothing is left.
    pub async fn boot(_spec: PodSpec, _config: &Config) -> Result<(Arc<Pod>, mpsc::UnboundedReceiver<PodEvent>)> {
        Err(soon())
    }

    /// Boots a pod and creates its first container while the microVM comes up; also gives the container's pid. Faster than
    /// [`Pod::boot`] and then [`Pod::create_container`]. On failure nothing is left.
    pub async fn boot_with(
        _spec: PodSpec,
        _first: ContainerSpec,
        _config: &Config,
    ) -> Result<(Arc<Pod>, mpsc::UnboundedReceiver<PodEvent>, u32)> {
        Err(soon())
    }

    /// Pid of the vmm, which is in the pod's network namespace.
    pub fn vmm_pid(&self) -> u32 {
        0
    }

    /// Creates a container with its init process; gives its pid: the vmm's for the first, a host-unique number for others.
    pub async fn create_container(&self, _spec: ContainerSpec) -> Result<u32> {
        Err(soon())
    }

    /// Registers a process to be started in a running container. `process_json`: an OCI "process".
    pub async fn add_exec(&self, _container: &str, _exec_id: &str, _process_json: &[u8], _stdio: StdioPaths) -> Result<()> {
        Err(soon())
    }

    /// Starts a container's init or a registered exec; gives its pid.
    pub async fn start(&self, _container: &str, _exec_id: Option<&str>) -> Result<u32> {
        Err(soon())
    }

    /// Where a process is in its life.
    pub async fn state(&self, _container: &str, _exec_id: Option<&str>) -> Result<ProcessState> {
        Err(soon())
    }

    /// Answers when the process has ended; at once if it already has.
    pub async fn wait(&self, _container: &str, _exec_id: Option<&str>) -> Result<Exit> {
        Err(soon())
    }

    /// Sends a signal to a process, or with `all` to every process of the container.
    pub async fn kill(&self, _container: &str, _exec_id: Option<&str>, _signal: u32, _all: bool) -> Result<()> {
        Err(soon())
    }

    /// Forgets an ended process; for an init removes the container. Gives its pid and how it ended.
    pub async fn delete(&self, _container: &str, _exec_id: Option<&str>) -> Result<(u32, Exit)> {
        Err(soon())
    }

    /// Sets the size of a process's terminal in characters.
    pub async fn resize_pty(&self, _container: &str, _exec_id: Option<&str>, _width: u32, _height: u32) -> Result<()> {
        Err(soon())
    }

    /// The client will write nothing more to the process's stdin.
    pub async fn close_io(&self, _container: &str, _exec_id: Option<&str>) -> Result<()> {
        Err(soon())
    }

    /// All processes of a container.
    pub async fn pids(&self, _container: &str) -> Result<Vec<PidInfo>> {
        Err(soon())
    }

    /// Counters of a container.
    pub async fn stats(&self, _container: &str) -> Result<Stats> {
        Err(soon())
    }

    /// Freezes every process of a container.
    pub async fn pause(&self, _container: &str) -> Result<()> {
        Err(soon())
    }

    /// Thaws them.
    pub async fn resume(&self, _container: &str) -> Result<()> {
        Err(soon())
    }

    /// Whether the pod has no container.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Why the microVM ended, once it has.
    pub fn stopped(&self) -> Option<String> {
        None
    }

    /// Powers the guest off, bounded in time, and removes everything the pod had on the host. Twice is fine.
    pub async fn shutdown(&self) -> Result<()> {
        Err(soon())
    }
}

fn soon() -> Error {
    Error::internal("not built yet")
}
