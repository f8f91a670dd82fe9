//! Root filesystems on a block device or in an image file of their own, as the devmapper and blockfile snapshotters give them: the guest
//! gets the disk and mounts it itself. The host's kernel never reads a file system that a guest has written.

use std::fs::Metadata;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use nix::mount::MsFlags;

use super::options::MountOptions;
use crate::error::{Error, Result};
use crate::pod::RootfsMount;

/// File systems on disks that the guest's kernel knows.
const KNOWN: [&str; 4] = ["ext4", "xfs", "erofs", "squashfs"];

/// A root filesystem that the guest mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskRoot {
    /// Block device or image file.
    pub(crate) source: PathBuf,
    /// One of those that the guest's kernel knows.
    pub(crate) file_system: String,
    /// What the guest is to mount it with.
    pub(crate) options: MountOptions,
}

impl DiskRoot {
    /// Nobody writes to the disk.
    pub(crate) fn is_read_only(&self) -> bool {
        self.options.flags.contains(MsFlags::MS_RDONLY) || ["erofs", "squashfs"].contains(&self.file_system.as_str())
    }
}

/// The disk that is the whole root filesystem; `None`: it is something else. Looks at the source; blocks.
pub(crate) fn on_disk(mounts: &[RootfsMount]) -> Result<Option<DiskRoot>> {
    let [only] = mounts else { return Ok(None) };
    let options = MountOptions::parse(&only.options)?;
    let status = std::fs::metadata(&only.source);
    let is_device = |status: &Metadata| status.file_type().is_block_device();
    if !only.target.is_empty() || !(options.image_file || status.as_ref().is_ok_and(is_device)) {
        return Ok(None);
    }
    let source = PathBuf::from(&only.source);
    let status = status.map_err(|e| Error::io("cannot use the root filesystem", &source, e))?;
    if !is_device(&status) && !status.is_file() {
        return Err(Error::invalid(format!(
            "root filesystem {} is neither an image file nor a block device",
            source.display()
        )));
    }
    if !KNOWN.contains(&only.fstype.as_str()) {
        return Err(Error::invalid(format!(
            "root filesystem {}: the guest's kernel has no file system {:?}; it knows {}",
            source.display(),
            only.fstype,
            KNOWN.join(", ")
        )));
    }
    if options.shift.is_some() {
        return Err(Error::invalid(format!(
            "root filesystem {}: the owners of files on a disk cannot be shown as others",
            source.display()
        )));
    }
    let mut root = DiskRoot {
        source,
        file_system: only.fstype.clone(),
        options,
    };
    if root.is_read_only() {
        // What its journal holds cannot be put in place.
        let journal = match only.fstype.as_str() {
            "ext4" => Some("noload"),
            "xfs" => Some("norecovery"),
            _ => None,
        };
        root.options.data.extend(journal.map(str::to_owned));
    }
    Ok(Some(root))
}

#[cfg(test)]
#[path = "disk_root_test.rs"]
mod disk_root_test;
