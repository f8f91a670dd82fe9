//! Block devices of the host that containers get: each is plugged into the pod's machine once, for as long as a container has it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bulkhead_agent_protocol::agent::Disk;
use bulkhead_agent_protocol::disk_path;
use bulkhead_vmm_control::DiskSpec;
use serde_json::Value;
use tokio::sync::Mutex;

use super::calls::Pod;
use crate::error::{Error, Result};
use crate::spec::{BlockDevice, WantedDisk, wanted_disks};

/// A block device that a container asks for, opened.
pub(super) struct OpenDisk {
    wanted: WantedDisk,
    file: OwnedFd,
}

/// Opens what a specification asks for. Blocks.
pub(super) fn open(spec: &Value) -> Result<Vec<OpenDisk>> {
    let open = |wanted: WantedDisk| {
        let file = open_device(wanted.device, wanted.read_only)?;
        Ok(OpenDisk { wanted, file })
    };
    wanted_disks(spec).into_iter().map(open).collect()
}

/// What is plugged into a machine.
#[derive(Default)]
pub(super) struct Plugged(Mutex<BTreeMap<BlockDevice, Plug>>);

struct Plug {
    slot: u8,
    read_only: bool,
    /// Containers that have it.
    users: usize,
}

impl Pod {
    /// Plugs what is not plugged yet, and puts the guest's paths into the mounts of `spec`. On failure none is taken.
    pub(super) async fn take_disks(&self, disks: Vec<OpenDisk>, spec: &mut Value) -> Result<Vec<Disk>> {
        let mut taken = Vec::new();
        for disk in disks {
            let mounts = disk.wanted.mounts.clone();
            match self.take_disk(disk).await {
                Ok(disk) => {
                    for mount in mounts {
                        if let Some(source) = spec.pointer_mut(&format!("/mounts/{mount}/source")) {
                            *source = disk_path(disk.slot).into();
                        }
                    }
                    taken.push(disk);
                }
                Err(error) => {
                    self.give_back_disks(&taken).await;
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    async fn take_disk(&self, disk: OpenDisk) -> Result<Disk> {
        let WantedDisk { device, read_only, .. } = disk.wanted;
        let mut plugged = self.disks.0.lock().await;
        let slot = match plugged.get_mut(&device) {
            Some(plug) if plug.read_only && !read_only => {
                return Err(Error::precondition(format!(
                    "block device {device} cannot be written: another container of the pod has it read-only"
                )));
            }
            Some(plug) => {
                plug.users += 1;
                plug.slot
            }
            None => {
                let id = device.to_string();
                let attached = self.vmm.attach_disk(DiskSpec { id, read_only }, disk.file);
                let slot = self.vmm.unless_ended(attached).await?;
                plugged.insert(
                    device,
                    Plug {
                        slot,
                        read_only,
                        users: 1,
                    },
                );
                slot
            }
        };
        Ok(Disk {
            slot: slot.into(),
            major: device.major,
            minor: device.minor,
            ..Default::default()
        })
    }

    /// A container has them no more. What cannot be unplugged stays until the pod's end, with a word in the log.
    pub(super) async fn give_back_disks(&self, disks: &[Disk]) {
        let mut plugged = self.disks.0.lock().await;
        for disk in disks {
            let device = BlockDevice {
                major: disk.major,
                minor: disk.minor,
            };
            let Some(plug) = plugged.get_mut(&device) else { continue };
            plug.users = plug.users.saturating_sub(1);
            if plug.users > 0 || self.vmm.end().is_some() {
                continue;
            }
            let unplug = async {
                self.agent.let_go_disk(plug.slot).await?;
                self.vmm.detach_disk(device.to_string()).await
            };
            match self.vmm.unless_ended(unplug).await {
                Ok(()) => drop(plugged.remove(&device)),
                Err(error) => tracing::warn!("pod {}: block device {device}: {error}", self.id),
            }
        }
    }
}

/// Opens a device of the host by the kernel's own name for it, whatever names it has besides. Blocks.
fn open_device(device: BlockDevice, read_only: bool) -> Result<OwnedFd> {
    let what = format!("cannot open block device {device} of the host");
    let uevent = PathBuf::from(format!("/sys/dev/block/{device}/uevent"));
    let text = std::fs::read_to_string(&uevent).map_err(|e| Error::io(&what, &uevent, e))?;
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let node = Path::new("/dev").join(name.ok_or_else(|| Error::internal(format!("{what}: it has no name")))?);
    let opened = File::options().read(true).write(!read_only).open(&node);
    let file = opened.map_err(|e| Error::io(&what, &node, e))?;
    let status = file.metadata().map_err(|e| Error::io(&what, &node, e))?;
    if !status.file_type().is_block_device() || BlockDevice::of(status.rdev()) != device {
        return Err(Error::internal(format!("{what}: {} is another device", node.display())));
    }
    Ok(file.into())
}
