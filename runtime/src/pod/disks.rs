//! Block devices and image files of the host that containers get: each is plugged into the pod's machine once, for as long as a container
//! has it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use bulkhead_agent_protocol::agent::{Disk, RootDisk};
use bulkhead_agent_protocol::disk_path;
use bulkhead_vmm_control::DiskSpec;
use nix::fcntl::OFlag;
use serde_json::Value;
use tokio::sync::Mutex;

use super::calls::Pod;
use crate::error::{Error, Result, blocking};
use crate::rootfs::DiskRoot;
use crate::spec::{BlockDevice, wanted_disks};

/// What a disk of the guest is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Backing {
    Device(BlockDevice),
    /// An image file, by the numbers of its file system and itself.
    Image {
        device: u64,
        inode: u64,
    },
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backing::Device(device) => device.fmt(f),
            Backing::Image { device, inode } => write!(f, "{device:x}-{inode}"),
        }
    }
}

/// A disk that a container asks for, opened.
pub(super) struct OpenDisk {
    backing: Backing,
    read_only: bool,
    file: File,
    user: User,
}

impl OpenDisk {
    /// Whether the guest mounts it.
    fn is_mounted(&self) -> bool {
        match &self.user {
            User::Spec(mounts) => !mounts.is_empty(),
            User::Root(_) => true,
        }
    }

    /// The file once more, or opened again: nobody else has a file system on it mounted meanwhile, unless none of them writes. It lasts as
    /// long as that is open.
    async fn claimed(&self) -> Result<File> {
        let (backing, read_only, is_mounted) = (self.backing, self.read_only, self.is_mounted());
        let failed = |e| Error::internal(format!("disk {backing}: cannot copy its descriptor")).caused_by(e);
        let file = self.file.try_clone().map_err(failed)?;
        if !is_mounted {
            return Ok(file);
        }
        // A file system of the host may take its time.
        blocking("claiming a disk", move || {
            claim(backing, read_only, file).map_err(|e| {
                Error::precondition(format!(
                    "disk {backing}: it is mounted or used elsewhere on this host: unmount it there first"
                ))
                .caused_by(e)
            })
        })
        .await
    }
}

fn claim(backing: Backing, read_only: bool, file: File) -> std::io::Result<File> {
    match backing {
        // Readers of a device that somebody writes see what they see.
        Backing::Device(_) if read_only => {}
        Backing::Device(_) => {
            let again = format!("/proc/self/fd/{}", file.as_raw_fd());
            let mut options = File::options();
            let options = options.read(true).write(true).custom_flags(OFlag::O_EXCL.bits());
            return options.open(again);
        }
        // Belongs to the open file, which the monitor gets.
        Backing::Image { .. } if read_only => file.try_lock_shared()?,
        Backing::Image { .. } => file.try_lock()?,
    }
    Ok(file)
}

/// What a container does with a disk.
enum User {
    /// It is a node in the spec, or these mounts have it as their source.
    Spec(Vec<usize>),
    Root(DiskRoot),
}

/// Opens what a specification asks for, and the disk of a root filesystem. Blocks.
pub(super) fn open(spec: &Value, root: Option<DiskRoot>) -> Result<Vec<OpenDisk>> {
    let mut disks = Vec::new();
    for wanted in wanted_disks(spec) {
        disks.push(OpenDisk {
            backing: Backing::Device(wanted.device),
            read_only: wanted.read_only,
            file: open_device(wanted.device, wanted.read_only)?,
            user: User::Spec(wanted.mounts),
        });
    }
    disks.extend(root.map(open_root).transpose()?);
    Ok(disks)
}

fn open_root(root: DiskRoot) -> Result<OpenDisk> {
    let failed = |e: std::io::Error| Error::io("cannot open the disk of the root filesystem", &root.source, e);
    let read_only = root.is_read_only();
    let mut options = File::options();
    let file = options
        .read(true)
        .write(!read_only)
        .open(&root.source)
        .map_err(failed)?;
    let status = file.metadata().map_err(failed)?;
    let backing = match status.file_type().is_block_device() {
        true => Backing::Device(BlockDevice::of(status.rdev())),
        false => Backing::Image {
            device: status.dev(),
            inode: status.ino(),
        },
    };
    Ok(OpenDisk {
        backing,
        read_only,
        file,
        user: User::Root(root),
    })
}

/// Disks that a container has.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken {
    disks: Vec<(Backing, Disk)>,
    root: Option<RootDisk>,
    /// The guest's name of that one, and the host's.
    pub(super) root_names: Option<(String, String)>,
}

impl Taken {
    /// As the agent is told.
    pub(super) fn told(&self) -> (Vec<Disk>, Option<RootDisk>) {
        let disks = self.disks.iter().map(|(_, disk)| disk.clone());
        (disks.collect(), self.root.clone())
    }
}

/// What is plugged into a machine.
#[derive(Default)]
pub(super) struct Plugged {
    disks: Mutex<BTreeMap<Backing, Plug>>,
    /// How many of them can be written: the lock is held for as long as a guest takes to find or lose a disk.
    written: AtomicUsize,
}

impl Plugged {
    /// Whether the guest has a disk that it may have written to.
    pub(super) fn are_written(&self) -> bool {
        self.written.load(Ordering::SeqCst) > 0
    }
}

struct Plug {
    slot: u8,
    read_only: bool,
    /// Containers that have it.
    users: usize,
}

impl Pod {
    /// Plugs what is not plugged yet, and puts the guest's paths into the mounts of `spec`. On failure none is taken.
    pub(super) async fn take_disks(&self, disks: Vec<OpenDisk>, spec: &mut Value) -> Result<Taken> {
        let mut taken = Taken::default();
        for disk in disks {
            let slot = match self.take_disk(&disk).await {
                Ok(slot) => slot,
                Err(error) => {
                    self.give_back_disks(&taken).await;
                    return Err(error);
                }
            };
            let OpenDisk { backing, user, .. } = disk;
            let (major, minor) = match backing {
                Backing::Device(device) => (device.major, device.minor),
                Backing::Image { .. } => (0, 0),
            };
            let disk = Disk {
                slot: slot.into(),
                major,
                minor,
                ..Default::default()
            };
            taken.disks.push((backing, disk));
            match user {
                User::Spec(mounts) => {
                    for mount in mounts {
                        if let Some(source) = spec.pointer_mut(&format!("/mounts/{mount}/source")) {
                            *source = disk_path(slot.into()).into();
                        }
                    }
                }
                User::Root(root) => {
                    taken.root_names = Some((disk_path(slot.into()), root.source.display().to_string()));
                    taken.root = Some(RootDisk {
                        slot: slot.into(),
                        file_system: root.file_system,
                        flags: root.options.flags.bits(),
                        data: root.options.data.join(","),
                        ..Default::default()
                    });
                }
            }
        }
        Ok(taken)
    }

    /// Gives its slot.
    async fn take_disk(&self, disk: &OpenDisk) -> Result<u8> {
        let OpenDisk { backing, read_only, .. } = *disk;
        let mut plugged = self.disks.disks.lock().await;
        if plugged.get(&backing).is_some_and(|plug| plug.users == 0) {
            self.unplug(&mut plugged, backing).await?;
        }
        match plugged.get_mut(&backing) {
            Some(plug) if plug.read_only && !read_only => Err(Error::precondition(format!(
                "disk {backing} cannot be written: the pod has it read-only already"
            ))),
            Some(plug) => {
                plug.users += 1;
                Ok(plug.slot)
            }
            None => {
                let file = disk.claimed().await?.into();
                let id = backing.to_string();
                let attached = self.vmm.attach_disk(DiskSpec { id, read_only }, file);
                let slot = self.vmm.unless_ended(attached).await?;
                let plug = Plug {
                    slot,
                    read_only,
                    users: 1,
                };
                plugged.insert(backing, plug);
                if !read_only {
                    self.disks.written.fetch_add(1, Ordering::SeqCst);
                }
                // Here, where nothing is being unplugged: the guest would find that again.
                if let Err(error) = self.vmm.unless_ended(self.agent.rescan_bus()).await {
                    plugged.entry(backing).and_modify(|plug| plug.users = 0);
                    return Err(error);
                }
                Ok(slot)
            }
        }
    }

    async fn unplug(&self, plugged: &mut BTreeMap<Backing, Plug>, backing: Backing) -> Result<()> {
        let Some(plug) = plugged.get(&backing) else {
            return Ok(());
        };
        let unplug = async {
            self.agent.let_go_disk(plug.slot).await?;
            self.vmm.detach_disk(backing.to_string()).await
        };
        self.vmm.unless_ended(unplug).await?;
        if !plug.read_only {
            self.disks.written.fetch_sub(1, Ordering::SeqCst);
        }
        plugged.remove(&backing);
        Ok(())
    }

    /// Has the guest look for devices that were plugged, while no disk is being unplugged, which it would find again.
    pub(super) async fn look_for_devices(&self) -> Result<()> {
        let _plugged = self.disks.disks.lock().await;
        self.vmm.unless_ended(self.agent.rescan_bus()).await
    }

    /// A container has them no more. What cannot be unplugged stays until the pod's end, with a word in the log.
    pub(super) async fn give_back_disks(&self, taken: &Taken) {
        let mut plugged = self.disks.disks.lock().await;
        for (backing, _) in &taken.disks {
            let Some(plug) = plugged.get_mut(backing) else { continue };
            plug.users = plug.users.saturating_sub(1);
            if plug.users > 0 || self.vmm.end().is_some() {
                continue;
            }
            if let Err(error) = self.unplug(&mut plugged, *backing).await {
                tracing::warn!("pod {}: disk {backing}: {error}", self.id);
            }
        }
    }
}

/// Opens a device of the host by the kernel's own name for it, whatever names it has besides. Blocks.
fn open_device(device: BlockDevice, read_only: bool) -> Result<File> {
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
    Ok(file)
}
