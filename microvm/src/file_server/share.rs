//! The file system behind the server: virtiofsd's pass-through file system with the differences that a pod's share needs.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use rustix::fs::{FallocateFlags, SeekFrom, XattrFlags};
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions, SetattrValid,
    SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse;
use virtiofsd::oslib::WritevFlags;
use virtiofsd::passthrough::PassthroughFs;

use super::cache::{self, Places};
use super::crowd::Crowd;
use super::locks::Locks;
use super::open_files::{OpenFiles, nobody};
use super::owners::Owners;
use super::{names, procfs};

/// Offsets end well below 2^63, so that those of a long request do too; the pass-through file system panics beyond.
const MAX_OFFSET: u64 = i64::MAX as u64 - (1 << 24);

/// The share.
#[derive(Clone)]
pub struct Share {
    pub files: OpenFiles,
    pub locks: Arc<Locks>,
    pub places: Arc<Places>,
    pub crowd: Arc<Crowd>,
    pub owners: Arc<Owners>,
}

impl Share {
    /// What the guest is told of a name that was found or made.
    fn found(&self, parent: u64, name: &CStr, entry: Entry) -> Entry {
        self.owners.entry(self.places.found(parent, name, entry))
    }

    /// Whether a name can be this process's own: the number of a process, or a link to one, in a procfs.
    fn can_be_own(&self, parent: u64, name: &CStr) -> io::Result<bool> {
        let ask = || match self.files.with_folder(parent, procfs::contains) {
            // Everybody may list a procfs.
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(false),
            answer => answer,
        };
        Ok(procfs::can_be_process(name) && self.places.in_procfs(parent, ask)?)
    }

    fn is_own(&self, parent: u64, name: &CStr) -> io::Result<bool> {
        let own = |folder: &_| procfs::is_own(folder, name);
        Ok(self.can_be_own(parent, name)? && self.files.with_folder(parent, own)?)
    }

    /// CREATE of a name that exists already. virtiofsd would keep a lookup of what it cannot open, which nobody counts or forgets.
    #[rustfmt::skip]
    fn open_existing(
        &self, ctx: Context, parent: u64, name: &CStr, kill_priv: bool, flags: u32,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        let entry = self.lookup(ctx, parent, name)?;
        // It is gone again.
        if entry.inode == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        let opened = self.open(ctx, entry.inode, kill_priv, flags);
        if opened.is_err() {
            self.forget(nobody(), entry.inode, 1);
        }
        let (handle, options) = opened?;
        Ok((entry, handle, options))
    }

    /// A file may have been made and looked up before there was no descriptor left to open it: virtiofsd forgets neither. The guest was told
    /// of no lookup, so the one that finds it here goes with that.
    fn forget_unopened(&self, ctx: Context, parent: u64, name: &CStr) {
        if let Ok(entry) = self.files.named.lookup(ctx, parent, name) {
            self.files.named.forget(nobody(), entry.inode, 2);
        }
    }

    fn clear(&self) {
        self.locks.clear();
        self.files.unnamed.clear();
        self.places.clear();
    }
}

fn check_offset(offset: u64) -> io::Result<()> {
    if offset > MAX_OFFSET {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    } else {
        Ok(())
    }
}

fn another_file_system() -> io::Error {
    io::Error::from_raw_os_error(libc::EXDEV)
}

/// Requests that the pass-through file system answers as they are; of a file without a name it knows nothing (EBADF).
macro_rules! pass {
    ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> $result {
            self.files.named.$name($($argument),*)
        })*
    };
}

impl FileSystem for Share {
    type Inode = u64;
    type Handle = u64;
    type DirIter = <PassthroughFs as FileSystem>::DirIter;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.clear();
        Ok(self.files.named.init(capable)? | FsOptions::POSIX_LOCKS | FsOptions::FLOCK_LOCKS)
    }

    fn destroy(&self) {
        self.clear();
        self.files.named.destroy();
    }

    fn flush(&self, ctx: Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()> {
        self.locks.closed(inode, lock_owner);
        if self.files.unnamed.handle(handle).is_some() {
            return Ok(());
        }
        self.files.named.flush(ctx, inode, handle, lock_owner)
    }

    #[rustfmt::skip]
    fn release(
        &self, ctx: Context, inode: u64, flags: u32, handle: u64, flush: bool, flock_release: bool, lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.locks.released(inode, handle);
        if self.files.unnamed.release(handle) {
            return Ok(());
        }
        self.files.named.release(ctx, inode, flags, handle, flush, flock_release, lock_owner)
    }

    /// What the guest knows is found again also when there is no room for more.
    fn lookup(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        names::check(name)?;
        let mut waited = Ok(());
        loop {
            let entry = match self.files.named.lookup(ctx, parent, name) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    return self.places.absent(parent, name).ok_or(error);
                }
                found => found?,
            };
            let own = self.is_own(parent, name);
            if matches!(own, Ok(false)) && (!self.crowd.is_full() || self.places.knows(entry.inode)) {
                return Ok(self.found(parent, name, entry));
            }
            self.files.named.forget(nobody(), entry.inode, 1);
            if own? {
                return Ok(cache::nothing(Duration::ZERO));
            }
            waited?;
            waited = self.crowd.wait_for_change();
        }
    }

    #[rustfmt::skip]
    fn symlink(&self, ctx: Context, target: &CStr, parent: u64, name: &CStr, extensions: Extensions) -> io::Result<Entry> {
        names::check(name)?;
        let (ctx, extensions) = (self.owners.caller(ctx)?, self.owners.extensions(extensions)?);
        self.crowd.wait_for_room()?;
        let made = self.files.named.symlink(ctx, target, parent, name, extensions)?;
        Ok(self.found(parent, name, made))
    }

    #[rustfmt::skip]
    fn mknod(
        &self, ctx: Context, parent: u64, name: &CStr, mode: u32, rdev: u32, umask: u32, extensions: Extensions,
    ) -> io::Result<Entry> {
        names::check(name)?;
        let (ctx, extensions) = (self.owners.caller(ctx)?, self.owners.extensions(extensions)?);
        self.crowd.wait_for_room()?;
        let made = self.files.named.mknod(ctx, parent, name, mode, rdev, umask, extensions)?;
        Ok(self.found(parent, name, made))
    }

    #[rustfmt::skip]
    fn mkdir(
        &self, ctx: Context, parent: u64, name: &CStr, mode: u32, umask: u32, extensions: Extensions,
    ) -> io::Result<Entry> {
        names::check(name)?;
        let (ctx, extensions) = (self.owners.caller(ctx)?, self.owners.extensions(extensions)?);
        self.crowd.wait_for_room()?;
        let made = self.files.named.mkdir(ctx, parent, name, mode, umask, extensions)?;
        Ok(self.found(parent, name, made))
    }

    #[rustfmt::skip]
    fn create(
        &self, ctx: Context, parent: u64, name: &CStr, mode: u32, kill_priv: bool, flags: u32, umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        names::check(name)?;
        // What is there already would be opened.
        if self.can_be_own(parent, name)? {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        let (maker, extensions) = (self.owners.caller(ctx)?, self.owners.extensions(extensions)?);
        self.crowd.wait_for_room()?;
        let exclusive = flags | libc::O_EXCL as u32;
        match self.files.named.create(maker, parent, name, mode, kill_priv, exclusive, umask, extensions) {
            Ok((made, handle, options)) => {
                let made = self.found(parent, name, made);
                let options = self.places.opened(made.inode, options);
                Ok((made, handle, options))
            }
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) && exclusive != flags => {
                self.open_existing(ctx, parent, name, kill_priv, flags)
            }
            Err(error) => {
                if error.raw_os_error() == Some(libc::ENFILE) {
                    self.forget_unopened(ctx, parent, name);
                }
                Err(error)
            }
        }
    }

    /// The size of a file in /proc or /sys says nothing: the guest must not stop reading at it.
    fn open(&self, ctx: Context, inode: u64, kill_priv: bool, flags: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        if let Some(file) = self.files.unnamed.node(inode) {
            let handle = self.files.unnamed.open(&file, flags, kill_priv)?;
            return Ok((Some(handle), OpenOptions::KEEP_CACHE));
        }
        let (handle, mut options) = self.files.named.open(ctx, inode, kill_priv, flags)?;
        let is_made_up = || -> io::Result<bool> {
            let (attributes, _) = self.files.named.getattr(ctx, inode, handle)?;
            let regular = attributes.mode & libc::S_IFMT == libc::S_IFREG;
            // Neither has the file blocks, nor the whole file system.
            Ok(regular && attributes.blocks == 0 && self.files.named.statfs(ctx, inode)?.f_blocks == 0)
        };
        // The file is open, whatever cannot be learned about it.
        if is_made_up().unwrap_or(false) {
            options.insert(OpenOptions::DIRECT_IO);
            options.remove(OpenOptions::KEEP_CACHE);
        }
        Ok((handle, self.places.opened(inode, options)))
    }

    #[rustfmt::skip]
    fn read<W: ZeroCopyWriter>(
        &self, ctx: Context, inode: u64, handle: u64, w: W, size: u32, offset: u64, lock_owner: Option<u64>, flags: u32,
    ) -> io::Result<usize> {
        check_offset(offset)?;
        if let Some(file) = self.files.unnamed.handle(handle) {
            let mut w = w;
            return w.read_from_file_at(&file, size as usize, offset, None);
        }
        self.files.named.read(ctx, inode, handle, w, size, offset, lock_owner, flags)
    }

    #[rustfmt::skip]
    fn write<R: ZeroCopyReader>(
        &self, ctx: Context, inode: u64, handle: u64, r: R, size: u32, offset: u64, lock_owner: Option<u64>,
        delayed: bool, kill_priv: bool, flags: u32,
    ) -> io::Result<usize> {
        check_offset(offset)?;
        if let Some(file) = self.files.unnamed.handle(handle) {
            if kill_priv {
                self.files.unnamed.take_set_ids(&file)?;
            }
            let mut r = r;
            let append = flags & libc::O_APPEND as u32 != 0 && !delayed;
            return r.write_to_file_at(&file, size as usize, offset, append.then_some(WritevFlags::RWF_APPEND));
        }
        self.files.named.write(ctx, inode, handle, r, size, offset, lock_owner, delayed, kill_priv, flags)
    }

    fn forget(&self, ctx: Context, inode: u64, count: u64) {
        if !self.files.unnamed.forget(inode, count) {
            self.places.forget(inode, count);
            self.files.named.forget(ctx, inode, count);
        }
    }

    fn batch_forget(&self, ctx: Context, requests: Vec<(u64, u64)>) {
        for (inode, count) in requests {
            self.forget(ctx, inode, count);
        }
    }

    fn getattr(&self, ctx: Context, inode: u64, handle: Option<u64>) -> io::Result<(fuse::Attr, Duration)> {
        let (attributes, valid) = match self.files.unnamed.node(inode) {
            Some(file) => self.files.unnamed.attributes(&file)?,
            None => {
                let (attributes, _) = self.files.named.getattr(ctx, inode, handle)?;
                (attributes, self.places.attributes_valid(inode))
            }
        };
        Ok((self.owners.told(attributes), valid))
    }

    #[rustfmt::skip]
    fn setattr(
        &self, ctx: Context, inode: u64, attr: fuse::SetattrIn, handle: Option<u64>, valid: SetattrValid,
    ) -> io::Result<(fuse::Attr, Duration)> {
        let attr = self.owners.to_set(attr)?;
        let (attributes, valid) = match self.files.unnamed.node(inode) {
            Some(file) => self.files.unnamed.set_attributes(&file, &attr, valid)?,
            None => {
                let (attributes, _) = self.files.named.setattr(ctx, inode, attr, handle, valid)?;
                (attributes, self.places.attributes_valid(inode))
            }
        };
        Ok((self.owners.told(attributes), valid))
    }

    fn link(&self, ctx: Context, inode: u64, newparent: u64, newname: &CStr) -> io::Result<Entry> {
        names::check(newname)?;
        let Some(file) = self.files.unnamed.node(inode) else {
            let made = self.files.named.link(ctx, inode, newparent, newname)?;
            return Ok(self.found(newparent, newname, made));
        };
        // Under its name the guest has another number for it.
        self.crowd.wait_for_room()?;
        let unnamed = &self.files.unnamed;
        self.files
            .with_folder(newparent, |folder| unnamed.link(&file, folder, newname))?;
        let named = self.files.named.lookup(ctx, newparent, newname)?;
        Ok(self.owners.entry(self.places.linked(named)))
    }

    fn fsync(&self, ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        match self.files.unnamed.handle(handle) {
            Some(file) if datasync => file.sync_data(),
            Some(file) => file.sync_all(),
            None => self.files.named.fsync(ctx, inode, datasync, handle),
        }
    }

    fn fallocate(&self, ctx: Context, inode: u64, handle: u64, mode: u32, offset: u64, length: u64) -> io::Result<()> {
        match self.files.unnamed.handle(handle) {
            Some(file) => {
                let mode = FallocateFlags::from_bits_retain(mode);
                Ok(rustix::fs::fallocate(&file, mode, offset, length)?)
            }
            None => self.files.named.fallocate(ctx, inode, handle, mode, offset, length),
        }
    }

    fn statfs(&self, ctx: Context, inode: u64) -> io::Result<libc::statvfs64> {
        self.files.named.statfs(ctx, self.files.unnamed.parent(inode))
    }

    fn setxattr(
        &self,
        ctx: Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra: SetxattrFlags,
    ) -> io::Result<()> {
        let value = self.owners.value_to_set(name, value)?;
        match self.files.unnamed.node(inode) {
            Some(file) => Ok(rustix::fs::fsetxattr(
                &file,
                name,
                &value,
                XattrFlags::from_bits_retain(flags),
            )?),
            None => self.files.named.setxattr(ctx, inode, name, &value, flags, extra),
        }
    }

    fn getxattr(&self, ctx: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        let reply = match self.files.unnamed.node(inode) {
            Some(file) => self.files.unnamed.attribute(&file, name, size),
            None => self.files.named.getxattr(ctx, inode, name, size),
        };
        self.owners.value_told(name, reply)
    }

    fn listxattr(&self, ctx: Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        match self.files.unnamed.node(inode) {
            Some(file) => self.files.unnamed.attribute_names(&file, size),
            None => self.files.named.listxattr(ctx, inode, size),
        }
    }

    fn removexattr(&self, ctx: Context, inode: u64, name: &CStr) -> io::Result<()> {
        match self.files.unnamed.node(inode) {
            Some(file) => Ok(rustix::fs::fremovexattr(&file, name)?),
            None => self.files.named.removexattr(ctx, inode, name),
        }
    }

    fn lseek(&self, ctx: Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        let Some(file) = self.files.unnamed.handle(handle) else {
            return self.files.named.lseek(ctx, inode, handle, offset, whence);
        };
        let to = match (i32::try_from(whence), i64::try_from(offset)) {
            (Ok(libc::SEEK_DATA), Ok(_)) => SeekFrom::Data(offset),
            (Ok(libc::SEEK_HOLE), Ok(_)) => SeekFrom::Hole(offset),
            (Ok(libc::SEEK_END), Ok(offset)) => SeekFrom::End(offset),
            _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        Ok(rustix::fs::seek(&file, to)?)
    }

    fn access(&self, ctx: Context, inode: u64, mask: u32) -> io::Result<()> {
        self.files.named.access(self.owners.caller(ctx)?, inode, mask)
    }

    fn unlink(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        names::check(name)?;
        self.files.named.unlink(ctx, parent, name)
    }

    fn rmdir(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        names::check(name)?;
        self.files.named.rmdir(ctx, parent, name)
    }

    #[rustfmt::skip]
    fn rename(
        &self, ctx: Context, olddir: u64, oldname: &CStr, newdir: u64, newname: &CStr, flags: u32,
    ) -> io::Result<()> {
        names::check(oldname)?;
        names::check(newname)?;
        self.files.named.rename(ctx, olddir, oldname, newdir, newname, flags)
    }

    /// The guest copies between a file without a name and others itself.
    #[rustfmt::skip]
    fn copyfilerange(
        &self, ctx: Context, inode_in: u64, handle_in: u64, offset_in: u64, inode_out: u64, handle_out: u64, offset_out: u64,
        len: u64, flags: u64,
    ) -> io::Result<usize> {
        if self.files.unnamed.handle(handle_in).is_some() || self.files.unnamed.handle(handle_out).is_some() {
            return Err(another_file_system());
        }
        self.files.named.copyfilerange(ctx, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, len, flags)
    }

    pass! {
        fn readlink(ctx: Context, inode: u64) -> io::Result<Vec<u8>>;
        fn opendir(ctx: Context, inode: u64, flags: u32) -> io::Result<(Option<u64>, OpenOptions)>;
        fn readdir(ctx: Context, inode: u64, handle: u64, size: u32, offset: u64) -> io::Result<Self::DirIter>;
        fn fsyncdir(ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()>;
        fn releasedir(ctx: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()>;
        fn syncfs(ctx: Context, inode: u64) -> io::Result<()>;
    }
}
