//! The host's files behind the numbers that the guest has for them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;
use virtiofsd::filesystem::{Context, FileSystem, ZeroCopyWriter};
use virtiofsd::oslib::ReadvFlags;
use virtiofsd::passthrough::PassthroughFs;

use super::unnamed::UnnamedFiles;

/// Nobody: what is done for no process of the guest, or does not go by its ids.
pub fn nobody() -> Context {
    Context {
        uid: 0.into(),
        gid: 0.into(),
        pid: 0,
    }
}

/// All that the guest has open.
#[derive(Clone)]
pub struct OpenFiles {
    /// What has a name.
    pub named: Arc<PassthroughFs>,
    /// What has none.
    pub unnamed: Arc<UnnamedFiles>,
}

impl OpenFiles {
    /// Calls `work` with the open file behind a handle. The pass-through file system names it to nobody but a read's target.
    pub fn with_handle<T>(&self, node: u64, handle: u64, work: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        if let Some(file) = self.unnamed.handle(handle) {
            return work(&file);
        }
        let mut target = Target {
            work: Some(work),
            done: None,
        };
        self.named.read(nobody(), node, handle, &mut target, 0, 0, None, 0)?;
        target.done.unwrap_or_else(|| Err(io::ErrorKind::Unsupported.into()))
    }

    /// Calls `work` with a folder, opened.
    pub fn with_folder<T>(&self, node: u64, work: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let flags = libc::O_RDONLY as u32;
        let (handle, _) = self.named.opendir(nobody(), node, flags)?;
        let handle = handle.ok_or(io::ErrorKind::Unsupported)?;
        let result = self.with_handle(node, handle, work);
        let closed = self.named.releasedir(nobody(), node, flags, handle);
        result.and_then(|value| closed.map(|()| value))
    }
}

/// Opens a file once more, as an open file description of its own. `descriptors` is a directory descriptor of this process's
/// /proc/self/fd.
pub fn reopen(descriptors: &OwnedFd, file: &File, flags: OFlag) -> io::Result<File> {
    let number = file.as_raw_fd().to_string();
    let again = openat(descriptors, number.as_str(), flags, Mode::empty())?;
    Ok(File::from(again))
}

struct Target<W, T> {
    work: Option<W>,
    done: Option<io::Result<T>>,
}

impl<T, W: FnOnce(&File) -> io::Result<T>> ZeroCopyWriter for Target<W, T> {
    fn read_from_file_at(&mut self, file: &File, _: usize, _: u64, _: Option<ReadvFlags>) -> io::Result<usize> {
        self.done = self.work.take().map(|work| work(file));
        Ok(0)
    }
}
