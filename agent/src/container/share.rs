//! Taking a container's part of the pod's share out of the guest, so that the host can let go of its files.
//!
//! Each of the host's mounts below the share is a file system of its own here, which the kernel mounted when it was first
//! entered (FUSE_ATTR_SUBMOUNT). As long as the guest remembers an inode, the monitor holds the host's file open.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apart::apart;
use bulkhead_agent_protocol::SHARE_MOUNT;
use nix::mount::{MntFlags, umount2};
use oci_spec::runtime::{Root, Spec};

/// How long it may take: a host file system that does not answer keeps what was written and not sent yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// What drop_caches takes (kernel, admin-guide/sysctl/vm), one of them at a time: no further line in the log; unused directory entries and
/// inodes. An inode of the share takes its cached contents along.
const QUIETLY: &str = "4";
const ENTRIES: &str = "2";

/// Makes the kernel forget the entries and inodes that nobody uses. Goes through all that is cached; blocks.
pub fn forget_unused() -> std::io::Result<()> {
    let file = "/proc/sys/vm/drop_caches";
    std::fs::write(file, QUIETLY)?;
    std::fs::write(file, ENTRIES)
}

/// Has the kernel ask what names below the share are now. What they were before, and mounts on it in all namespaces, it lets go.
pub fn look_again(paths: &[Vec<u8>]) {
    for path in paths {
        // Nothing there is an answer, too.
        let _ = std::fs::symlink_metadata(Path::new(SHARE_MOUNT).join(OsStr::from_bytes(path)));
    }
}

/// Whether a container whose specification this is uses anything below `folder`: its root file system, or what is bound into it.
pub fn is_used(folder: &Path, spec: &Spec) -> bool {
    let root = spec.root().as_ref().map(Root::path);
    let sources = spec
        .mounts()
        .iter()
        .flatten()
        .filter_map(|mount| mount.source().as_ref());
    root.into_iter().chain(sources).any(|path| path.starts_with(folder))
}

/// Unmounts everything below `folder` and has the kernel forget the entries of the mount points, and those of files, which are no mounts,
/// if the container `used` any.
pub async fn forget(folder: PathBuf, used: bool) {
    let forgotten = apart(move || {
        let mounts = mounts_below(&std::fs::read_to_string("/proc/self/mounts")?, &folder);
        for mount in &mounts {
            umount2(mount, MntFlags::MNT_DETACH)?;
        }
        if used || !mounts.is_empty() {
            forget_unused()?;
        }
        std::io::Result::Ok(())
    });
    match tokio::time::timeout(PATIENCE, forgotten).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => crate::kmsg::notice(&format!("cannot let go of a container's files: {error}")),
        Ok(Err(_)) | Err(_) => crate::kmsg::notice("letting go of a container's files takes long"),
    }
}

/// Mount points in the order in which they can be unmounted. Names below the share need no escapes in /proc/self/mounts.
fn mounts_below(table: &str, folder: &Path) -> Vec<PathBuf> {
    let points = table.lines().rev().filter_map(|line| line.split(' ').nth(1));
    points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(folder))
        .collect()
}

#[cfg(test)]
#[path = "share_test.rs"]
mod tests;
