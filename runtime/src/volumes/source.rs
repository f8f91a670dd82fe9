//! What is at the source of a volume.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::mount_table;

/// A file or folder of the host, as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Without links.
    pub(super) path: PathBuf,
    pub(super) device: u64,
    pub(super) inode: u64,
    /// The mount that it is in.
    pub(super) mount: u64,
}

impl Source {
    pub(super) fn of(path: &Path) -> io::Result<Source> {
        Source::opened(path, OFlag::O_PATH).map(|(_, source)| source)
    }

    fn opened(path: &Path, flags: OFlag) -> io::Result<(File, Source)> {
        let file = File::options().read(true).custom_flags(flags.bits()).open(path)?;
        let metadata = file.metadata()?;
        let source = Source {
            path: std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?,
            device: metadata.dev(),
            inode: metadata.ino(),
            mount: mount_table::id_of(&file)?,
        };
        Ok((file, source))
    }

    /// The same once more, as a place to look for what is below it; fails when its path leads to something else now.
    pub(super) fn open(&self) -> io::Result<File> {
        let (file, found) = Source::opened(&self.path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        if found == *self {
            Ok(file)
        } else {
            Err(io::Error::other("another one is there now"))
        }
    }
}
