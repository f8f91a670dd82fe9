//! Which ranges are taken. A range is a file that its pod's shim and monitor hold locked (flock) together: it is free again when both
//! are gone, however they ended. All pods of a host have theirs in one folder, whatever config file they were started with.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::ErrorKind as IoErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::RANGE;
use super::subordinate::IdRange;
use crate::error::{Error, Result};
use crate::pod::Undo;

/// How often a folder that vanishes with its last file at the wrong moment is made again.
const ATTEMPTS: u32 = 10;

/// Takes the first free range. Gives its first id and what must stay open for it to stay taken.
pub(super) fn take(folder: &Path, ranges: &[IdRange], undo: &mut Undo) -> Result<(u32, OwnedFd)> {
    let mut count = 0;
    for base in ranges.iter().flat_map(|range| range.parts(RANGE)) {
        count += 1;
        if let Some(file) = try_take(folder, base)? {
            let lock = OwnedFd::from(file);
            let folder = folder.to_owned();
            undo.push(format!("host ids from {base}"), move || remove(&folder, base));
            return Ok((base, lock));
        }
    }
    Err(Error::precondition(format!(
        "all {count} ranges of {RANGE} host ids are in use by pods: give more to the user \"bulkhead\" in /etc/subuid and /etc/subgid"
    )))
}

/// Removes what a pod left of its range. A range that somebody holds, and one that is not there, stay as they are.
pub(crate) fn release(folder: &Path, base: u32) -> Result<()> {
    match lock(&file_of(folder, base), false) {
        Ok(Some(_lock)) => remove(folder, base),
        Ok(None) => Ok(()),
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("cannot lock", &file_of(folder, base), error)),
    }
}

fn file_of(folder: &Path, base: u32) -> PathBuf {
    folder.join(base.to_string())
}

fn try_take(folder: &Path, base: u32) -> Result<Option<File>> {
    let path = file_of(folder, base);
    let failed = |e| Error::io("cannot take a range of host ids by", &path, e);
    for _ in 0..ATTEMPTS {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(folder).map_err(failed)?;
        match lock(&path, true) {
            Err(error) if error.kind() == IoErrorKind::NotFound => {}
            result => return result.map_err(failed),
        }
    }
    Err(failed(IoErrorKind::NotFound.into()))
}

/// The locked file; `None` when somebody else has it.
fn lock(path: &Path, create: bool) -> std::io::Result<Option<File>> {
    let mut options = File::options();
    let file = options.write(true).create(create).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Its last owner may have removed it between the two calls: then this lock keeps nobody away.
    let (held, named) = (file.metadata()?, std::fs::metadata(path)?);
    Ok((held.ino() == named.ino()).then_some(file))
}

/// Removes the file, whose lock is held, and the folder when it was the last.
fn remove(folder: &Path, base: u32) -> Result<()> {
    let path = file_of(folder, base);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != IoErrorKind::NotFound => Err(Error::io("cannot remove", &path, e)),
        _ => {
            // Others may have theirs in it.
            let _ = std::fs::remove_dir(folder);
            Ok(())
        }
    }
}

#[cfg(test)]
#[path = "pool_test.rs"]
mod pool_test;
