//! The kernel's table of the mounts that this process sees, /proc/PID/mountinfo (proc(5)).
//!
//! Fields are bytes: a mount point can have any name.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use tokio::io::Interest;

use crate::error::{Error, Result};
use crate::watched::{Watched, watch};

const TABLE: &str = "/proc/self/mountinfo";

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Mount {
    pub(crate) id: u64,
    /// What it is mounted on. The root's is outside, or its own.
    pub(crate) parent: u64,
    /// Device number of the file system, and which folder of it is mounted.
    pub(crate) root: (Vec<u8>, Vec<u8>),
    pub(crate) point: PathBuf,
    /// All of it.
    pub(crate) line: Vec<u8>,
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
        let (id, parent) = (number()?, number()?);
        let root = (fields.next()?.to_owned(), fields.next()?.to_owned());
        Some(Mount {
            id,
            parent,
            root,
            point: OsString::from_vec(unescape(fields.next()?)).into(),
            line: line.to_owned(),
        })
    }

    /// Whether it is the same, with other options maybe, or in a folder that was renamed.
    pub(crate) fn is(&self, other: &Mount) -> bool {
        (self.id, self.parent, &self.root) == (other.id, other.parent, &other.root)
    }
}

/// All mounts.
pub(crate) fn read() -> Result<Vec<Mount>> {
    let table = std::fs::read(TABLE).map_err(|e| Error::io("cannot read", TABLE.as_ref(), e))?;
    Ok(parse(&table))
}

/// The mounts of a table.
pub(crate) fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect()
}

/// Mount points at or below `path`, innermost first.
pub(crate) fn points_below(table: Vec<Mount>, path: &Path) -> Vec<PathBuf> {
    let points = table.into_iter().rev().map(|mount| mount.point);
    points.filter(|point| point.starts_with(path)).collect()
}

/// The id of the mount that an open file is in.
pub(crate) fn id_of(file: impl AsFd) -> io::Result<u64> {
    let number = file.as_fd().as_raw_fd();
    let information = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{number}"))?;
    let id = information.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel does not tell the mount of a file"))
}

/// Space, tab, newline, `#` and backslash stand there as three octal digits after a backslash.
fn unescape(mut field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    loop {
        match field {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..] => {
                text.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                field = rest;
            }
            [byte, rest @ ..] => {
                text.push(*byte);
                field = rest;
            }
            [] => return text,
        }
    }
}

/// Tells of changes of the table.
pub(crate) struct Watch(Watched<File>);

impl Watch {
    /// Of what changes from now on.
    pub(crate) fn new() -> Result<Watch> {
        let watched = File::open(TABLE).and_then(|file| watch(file, Interest::PRIORITY));
        watched
            .map(Watch)
            .map_err(|e| Error::io("cannot watch", TABLE.as_ref(), e))
    }

    /// Waits until something has changed since it was asked last.
    pub(crate) async fn changed(&self) {
        // Fails when the program ends.
        if let Ok(mut ready) = self.0.ready(Interest::PRIORITY).await {
            ready.clear_ready();
        }
    }
}

#[cfg(test)]
#[path = "mount_table_test.rs"]
mod mount_table_test;
