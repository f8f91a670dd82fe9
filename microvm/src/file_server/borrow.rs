//! The host's files behind the pass-through file system's numbers.

use std::fs::File;
use std::io;

use virtiofsd::filesystem::{Context, FileSystem, ZeroCopyWriter};
use virtiofsd::oslib::ReadvFlags;
use virtiofsd::passthrough::PassthroughFs;

/// Nobody: what is done for no process of the guest, or does not go by its ids.
pub fn nobody() -> Context {
    Context {
        uid: 0.into(),
        gid: 0.into(),
        pid: 0,
    }
}

/// Calls `work` with the open file behind a handle. The pass-through file system names it to nobody but a read's target.
pub fn with_file<T>(
    files: &PassthroughFs,
    node: u64,
    handle: u64,
    work: impl FnOnce(&File) -> io::Result<T>,
) -> io::Result<T> {
    let mut target = Target {
        work: Some(work),
        done: None,
    };
    files.read(nobody(), node, handle, &mut target, 0, 0, None, 0)?;
    target.done.unwrap_or_else(|| Err(io::ErrorKind::Unsupported.into()))
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
