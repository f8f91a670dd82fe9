//! The pod's share: a tmpfs in the shim's private mount namespace whose folders are the mount points of root filesystems and
//! volumes. The vmm's mount namespace receives what is mounted here, and its file server serves it to the guest.
//!
//! Everything here blocks. Sources and options come from containerd and are trusted as far as runc trusts them; the names
//! below the share are ours.

mod apart;
mod disk_root;
mod mount;
mod options;
mod overlay;
mod tree;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use bulkhead_agent_protocol::VOLUMES;
use nix::mount::{MsFlags, mount as mount_fs};

pub(crate) use disk_root::{DiskRoot, on_disk};
pub(crate) use mount::{bind, bind_open, detach, try_map_bind};
pub(crate) use tree::{Access, Manner, Tried, read_only};

use crate::error::{Error, Result};
use crate::identity::FileMap;
use crate::ids::ContainerId;
use crate::pod::{RootfsMount, Undo};

/// Most mount points (two inodes each) that a pod can have at a time.
const SHARE_OPTIONS: &str = "mode=0755,size=1m,nr_inodes=16384";

/// Mounts the share at `path`, which exists, with a folder for volumes. Later mounts below it travel to namespaces that were copied from
/// ours.
pub(crate) fn make_share(path: &Path, undo: &mut Undo) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_fs(Some("bulkhead"), path, Some("tmpfs"), flags, Some(SHARE_OPTIONS))
        .map_err(|e| Error::io("cannot mount the pod's share at", path, e))?;
    let at = path.to_owned();
    undo.push(format!("share {}", path.display()), move || detach(&at));
    mount_fs(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>)
        .map_err(|e| Error::io("cannot make the pod's share receivable at", path, e))?;
    make_folder(&path.join(VOLUMES), undo)
}

/// Folders of one container below the share.
#[derive(Debug, Clone)]
pub(crate) struct ContainerFolders {
    /// Mount point of the root filesystem.
    pub(crate) rootfs: PathBuf,
}

/// Makes a container's folders, that of the root filesystem named `rootfs`. They must not exist.
pub(crate) fn make_folders(share: &Path, id: &ContainerId, rootfs: &str, undo: &mut Undo) -> Result<ContainerFolders> {
    let top = share.join(id.as_str());
    let folders = ContainerFolders {
        rootfs: top.join(rootfs),
    };
    for folder in [&top, &folders.rootfs] {
        make_folder(folder, undo)?;
    }
    Ok(folders)
}

/// A new folder, removed (only when empty) on the way back. The monitor, which does not own it, can pass through it.
pub(crate) fn make_folder(path: &Path, undo: &mut Undo) -> Result<()> {
    let failed = |e| Error::io("cannot create the folder", path, e);
    std::fs::create_dir(path).map_err(failed)?;
    // Whatever our own umask is.
    let passable = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(failed);
    let at = path.to_owned();
    undo.push(format!("folder {}", path.display()), move || {
        std::fs::remove_dir(&at).map_err(|e| Error::io("cannot remove the folder", &at, e))
    });
    passable
}

/// Whether a root filesystem lies ready on the host, where others may write it too: nothing is to be mounted, or only bound.
pub(crate) fn lies_ready(mounts: &[RootfsMount]) -> bool {
    let binds = |word: &str| word == "bind" || word == "rbind";
    mounts.is_empty()
        || mounts
            .iter()
            .any(|entry| binds(&entry.fstype) || entry.options.iter().any(|option| binds(option)))
}

/// Mounts a container's root filesystem at `target`: containerd's mounts, or the bundle's `root.path` when there are none.
pub(crate) fn prepare(
    mounts: &[RootfsMount],
    bundle: &Path,
    root_path: Option<&str>,
    target: &Path,
    map: Option<&FileMap>,
    undo: &mut Undo,
) -> Result<()> {
    if mounts.is_empty() {
        let root = root_path.ok_or_else(|| {
            Error::invalid(format!(
                "bundle {}: neither rootfs mounts nor root.path are given",
                bundle.display()
            ))
        })?;
        let source = bundle.join(root);
        let metadata =
            std::fs::metadata(&source).map_err(|e| Error::io("cannot use the root filesystem", &source, e))?;
        if !metadata.is_dir() {
            return Err(Error::invalid(format!(
                "root filesystem {} is no folder",
                source.display()
            )));
        }
        return bind(&source, target, &ready_root(map), undo);
    }
    for entry in mounts {
        mount::mount_entry(entry, target, map, undo).map_err(|e| {
            e.context(format!(
                "cannot mount the root filesystem ({} {:?})",
                entry.fstype, entry.source
            ))
        })?;
    }
    Ok(())
}

/// Fails with what of a root filesystem cannot be mapped. What else is wrong with it is not looked at.
pub(crate) fn try_map(mounts: &[RootfsMount], bundle: &Path, root_path: Option<&str>, map: &FileMap) -> Result<()> {
    if on_disk(mounts)?.is_some() {
        return Ok(());
    }
    match root_path {
        Some(root) if mounts.is_empty() => try_map_bind(&bundle.join(root), &ready_root(Some(map))),
        _ => mounts.iter().try_for_each(|entry| mount::try_map_entry(entry, map)),
    }
}

/// A root filesystem that lies ready comes with what is mounted in it.
fn ready_root(map: Option<&FileMap>) -> Manner<'_> {
    Manner {
        recursive: true,
        access: Access::Write,
        map,
    }
}

#[cfg(test)]
#[path = "rootfs_test.rs"]
mod rootfs_test;
