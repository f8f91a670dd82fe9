//! The file system behind the server: virtiofsd's pass-through file system with the differences that a pod's share needs.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions, SetattrValid,
    SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse;
use virtiofsd::passthrough::PassthroughFs;

use super::locks::Locks;

/// Number of the share's root.
const ROOT: u64 = fuse::ROOT_ID;

/// Offsets end well below 2^63, so that those of a long request do too; the pass-through file system panics beyond.
const MAX_OFFSET: u64 = i64::MAX as u64 - (1 << 24);

/// The share.
pub struct Share {
    files: Arc<PassthroughFs>,
    locks: Arc<Locks>,
}

impl Share {
    /// Adds the differences to `files`.
    pub fn new(files: Arc<PassthroughFs>, locks: Arc<Locks>) -> Share {
        Share { files, locks }
    }
}

fn check_offset(offset: u64) -> io::Result<()> {
    if offset > MAX_OFFSET {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    } else {
        Ok(())
    }
}

/// Requests that the pass-through file system answers as they are.
macro_rules! pass {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> $result {
            self.files.$name($($argument),*)
        })*
    };
}

impl FileSystem for Share {
    type Inode = u64;
    type Handle = u64;
    type DirIter = <PassthroughFs as FileSystem>::DirIter;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.locks.clear();
        Ok(self.files.init(capable)? | FsOptions::POSIX_LOCKS | FsOptions::FLOCK_LOCKS)
    }

    fn destroy(&self) {
        self.locks.clear();
        self.files.destroy();
    }

    fn flush(&self, ctx: Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()> {
        self.locks.closed(inode, lock_owner);
        self.files.flush(ctx, inode, handle, lock_owner)
    }

    #[rustfmt::skip]
    fn release(
        &self, ctx: Context, inode: u64, flags: u32, handle: u64, flush: bool, flock_release: bool, lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.locks.released(inode, handle);
        self.files.release(ctx, inode, flags, handle, flush, flock_release, lock_owner)
    }

    /// Names directly below the root are containers, which the host makes and removes: the guest must ask for them every time,
    /// or it would see a removed container's files in one that has its name.
    fn lookup(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let mut entry = self.files.lookup(ctx, parent, name)?;
        if parent == ROOT {
            entry.entry_timeout = Duration::ZERO;
        }
        Ok(entry)
    }

    /// The size of a file in /proc or /sys says nothing: the guest must not stop reading at it.
    fn open(&self, ctx: Context, inode: u64, kill_priv: bool, flags: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        let (handle, mut options) = self.files.open(ctx, inode, kill_priv, flags)?;
        let is_made_up = || -> io::Result<bool> {
            let (attributes, _) = self.files.getattr(ctx, inode, handle)?;
            let regular = attributes.mode & libc::S_IFMT == libc::S_IFREG;
            // Neither has the file blocks, nor the whole file system.
            Ok(regular && attributes.blocks == 0 && self.files.statfs(ctx, inode)?.f_blocks == 0)
        };
        // The file is open, whatever cannot be learned about it.
        if is_made_up().unwrap_or(false) {
            options.insert(OpenOptions::DIRECT_IO);
            options.remove(OpenOptions::KEEP_CACHE);
        }
        Ok((handle, options))
    }

    #[rustfmt::skip]
    fn read<W: ZeroCopyWriter>(
        &self, ctx: Context, inode: u64, handle: u64, w: W, size: u32, offset: u64, lock_owner: Option<u64>, flags: u32,
    ) -> io::Result<usize> {
        check_offset(offset)?;
        self.files.read(ctx, inode, handle, w, size, offset, lock_owner, flags)
    }

    #[rustfmt::skip]
    fn write<R: ZeroCopyReader>(
        &self, ctx: Context, inode: u64, handle: u64, r: R, size: u32, offset: u64, lock_owner: Option<u64>,
        delayed: bool, kill_priv: bool, flags: u32,
    ) -> io::Result<usize> {
        check_offset(offset)?;
        self.files.write(ctx, inode, handle, r, size, offset, lock_owner, delayed, kill_priv, flags)
    }

    pass! {
        fn forget(ctx: Context, inode: u64, count: u64) -> ();
        fn batch_forget(ctx: Context, requests: Vec<(u64, u64)>) -> ();
        fn getattr(ctx: Context, inode: u64, handle: Option<u64>) -> io::Result<(fuse::Attr, Duration)>;
        fn setattr(ctx: Context, inode: u64, attr: fuse::SetattrIn, handle: Option<u64>, valid: SetattrValid)
            -> io::Result<(fuse::Attr, Duration)>;
        fn readlink(ctx: Context, inode: u64) -> io::Result<Vec<u8>>;
        fn symlink(ctx: Context, target: &CStr, parent: u64, name: &CStr, extensions: Extensions) -> io::Result<Entry>;
        fn mknod(ctx: Context, inode: u64, name: &CStr, mode: u32, rdev: u32, umask: u32, extensions: Extensions)
            -> io::Result<Entry>;
        fn mkdir(ctx: Context, parent: u64, name: &CStr, mode: u32, umask: u32, extensions: Extensions)
            -> io::Result<Entry>;
        fn unlink(ctx: Context, parent: u64, name: &CStr) -> io::Result<()>;
        fn rmdir(ctx: Context, parent: u64, name: &CStr) -> io::Result<()>;
        fn rename(ctx: Context, olddir: u64, oldname: &CStr, newdir: u64, newname: &CStr, flags: u32) -> io::Result<()>;
        fn link(ctx: Context, inode: u64, newparent: u64, newname: &CStr) -> io::Result<Entry>;
        fn create(ctx: Context, parent: u64, name: &CStr, mode: u32, kill_priv: bool, flags: u32, umask: u32,
            extensions: Extensions) -> io::Result<(Entry, Option<u64>, OpenOptions)>;
        fn fsync(ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()>;
        fn fallocate(ctx: Context, inode: u64, handle: u64, mode: u32, offset: u64, length: u64) -> io::Result<()>;
        fn statfs(ctx: Context, inode: u64) -> io::Result<libc::statvfs64>;
        fn setxattr(ctx: Context, inode: u64, name: &CStr, value: &[u8], flags: u32, extra: SetxattrFlags)
            -> io::Result<()>;
        fn getxattr(ctx: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply>;
        fn listxattr(ctx: Context, inode: u64, size: u32) -> io::Result<ListxattrReply>;
        fn removexattr(ctx: Context, inode: u64, name: &CStr) -> io::Result<()>;
        fn opendir(ctx: Context, inode: u64, flags: u32) -> io::Result<(Option<u64>, OpenOptions)>;
        fn readdir(ctx: Context, inode: u64, handle: u64, size: u32, offset: u64) -> io::Result<Self::DirIter>;
        fn fsyncdir(ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()>;
        fn releasedir(ctx: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()>;
        fn access(ctx: Context, inode: u64, mask: u32) -> io::Result<()>;
        fn lseek(ctx: Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64>;
        fn copyfilerange(ctx: Context, inode_in: u64, handle_in: u64, offset_in: u64, inode_out: u64, handle_out: u64,
            offset_out: u64, len: u64, flags: u64) -> io::Result<usize>;
        fn syncfs(ctx: Context, inode: u64) -> io::Result<()>;
    }
}
