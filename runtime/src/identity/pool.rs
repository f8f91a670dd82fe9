//! Which ranges are taken. A range is a file that its pod's shim and monitor hold locked (flock) together: it is free again when both
//! are gone, however they ended. All pods of a host have theirs in one folder, whatever config file they were started with.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::ErrorKind as IoErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;

use super::RANGE;
use super::subordinate::IdRange;
use crate::error::{Error, Result};
use crate::pod::Undo;

/// How often something that others change at the same time is tried.
const ATTEMPTS: u32 = 20;
/// Between two looks whether a monitor has ended.
const PAUSE: Duration = Duration::from_millis(50);

/// Takes the first free range. Gives its first id and the monitor's hold on it; ours lasts until `undo` runs, which must be when the
/// monitor has ended.
pub(super) fn take(folder: &Path, ranges: &[IdRange], undo: &mut Undo) -> Result<(u32, OwnedFd)> {
    let known = known(folder);
    let mut count = 0;
    for base in ranges.iter().flat_map(|range| range.parts(RANGE)) {
        count += 1;
        // Ranges of another layout, from before the administrator changed it.
        let mut across = known
            .iter()
            .filter(|other| **other != base && other.abs_diff(base) < RANGE);
        if across.any(|other| is_held(folder, *other)) {
            continue;
        }
        if let Some((ours, theirs)) = try_take(folder, base)? {
            let folder = folder.to_owned();
            undo.push(format!("host ids from {base}"), move || {
                drop(ours);
                give_back(&folder, base)
            });
            return Ok((base, theirs.into()));
        }
    }
    Err(Error::precondition(format!(
        "all {count} ranges of {RANGE} host ids are in use by pods: give more to the user \"bulkhead\" in /etc/subuid and /etc/subgid"
    )))
}

/// First ids of the ranges that somebody holds, or that nobody has tidied up after.
fn known(folder: &Path) -> Vec<u32> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn is_held(folder: &Path, base: u32) -> bool {
    File::open(file_of(folder, base)).is_ok_and(|file| file.try_lock().is_err())
}

/// A killed monitor may take a moment to end; should it take longer, the file stays until the next pod that takes the range.
fn give_back(folder: &Path, base: u32) -> Result<()> {
    for _ in 0..ATTEMPTS {
        release(folder, base)?;
        if !file_of(folder, base).exists() {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    tracing::warn!("host ids from {base}: the pod's monitor still has them");
    Ok(())
}

/// Removes what a pod left of its range. A range that somebody holds, and one that is not there, stay as they are.
pub(crate) fn release(folder: &Path, base: u32) -> Result<()> {
    let path = file_of(folder, base);
    let failed = |e| Error::io("cannot give back a range of host ids by", &path, e);
    match lock(&path, false) {
        Ok(None) => Ok(()),
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(Some(_alone)) => {
            // Nobody else removes or takes it while the lock is held.
            std::fs::remove_file(&path).map_err(failed)?;
            // Others may have theirs in it.
            let _ = std::fs::remove_dir(folder);
            Ok(())
        }
    }
}

fn file_of(folder: &Path, base: u32) -> PathBuf {
    folder.join(base.to_string())
}

/// Our hold and the monitor's: two open files, so that the monitor cannot let go of ours.
fn try_take(folder: &Path, base: u32) -> Result<Option<(File, File)>> {
    let path = file_of(folder, base);
    let failed = |e| Error::io("cannot take a range of host ids by", &path, e);
    for _ in 0..ATTEMPTS {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(folder).map_err(failed)?;
        match hold(&path) {
            Err(error) if error.kind() == IoErrorKind::NotFound => {}
            result => return result.map_err(failed),
        }
    }
    Err(failed(IoErrorKind::NotFound.into()))
}

fn hold(path: &Path) -> std::io::Result<Option<(File, File)>> {
    let Some(ours) = lock(path, true)? else {
        return Ok(None);
    };
    let theirs = File::open(path)?;
    // From one kind of lock to the other there is a moment without (flock(2)): whoever is faster then has it.
    let shared = locked(ours.try_lock_shared())? && locked(theirs.try_lock_shared())?;
    Ok((shared && is_at(&ours, path)? && is_at(&theirs, path)?).then_some((ours, theirs)))
}

/// The file, which nobody else holds; `None` when somebody does.
fn lock(path: &Path, create: bool) -> std::io::Result<Option<File>> {
    let mut options = File::options();
    if create {
        // Without write access, which the monitor is not to inherit.
        options.custom_flags(OFlag::O_CREAT.bits());
    }
    let file = options.read(true).mode(0o600).open(path)?;
    // Its last owner may have removed it between the calls: then the lock keeps nobody away.
    Ok((locked(file.try_lock())? && is_at(&file, path)?).then_some(file))
}

fn locked(result: Result<(), TryLockError>) -> std::io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    Ok(file.metadata()?.ino() == std::fs::metadata(path)?.ino())
}

#[cfg(test)]
#[path = "pool_test.rs"]
mod pool_test;
