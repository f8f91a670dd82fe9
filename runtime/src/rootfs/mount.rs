//! The mounts themselves.

use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::options::MountOptions;
use crate::error::{Error, Result};
use crate::pod::{RootfsMount, Undo};

/// mount(2) takes one page of data, the final zero included.
const MAX_DATA: usize = 4095;

/// What happens below a bind mount when the host mounts something in its source later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// Nothing.
    Private,
    /// It shows up.
    Slave,
}

/// Mounts one of containerd's entries at its place below `target`.
pub(super) fn mount_entry(entry: &RootfsMount, target: &Path, undo: &mut Undo) -> Result<()> {
    let target = inside(target, &entry.target)?;
    let options = MountOptions::parse(&entry.options)?;
    if entry.fstype == "bind" || entry.fstype == "rbind" || options.flags.contains(MsFlags::MS_BIND) {
        let recursive = entry.fstype == "rbind" || options.flags.contains(MsFlags::MS_REC);
        let read_only = options.flags.contains(MsFlags::MS_RDONLY);
        return bind(
            Path::new(&entry.source),
            &target,
            recursive,
            read_only,
            Propagation::Private,
            undo,
        );
    }
    let data = options.data.join(",");
    let result = if entry.fstype == "overlay" && data.len() > MAX_DATA {
        mount_long_overlay(entry, &target, &options)
    } else {
        call(&entry.source, &target, &entry.fstype, options.flags, &data)
    };
    result.map_err(|e| match e {
        Errno::ENODEV => Error::invalid(format!("this host's kernel has no file system {:?}", entry.fstype)),
        Errno::ENOTBLK => Error::invalid(format!("{:?} is no block device", entry.source)),
        e => Error::io("cannot mount at", &target, e),
    })?;
    push_detach(&target, undo);
    Ok(())
}

/// Binds `source` (a folder or anything else) at `target`, which must exist as the same sort of thing.
pub(crate) fn bind(
    source: &Path,
    target: &Path,
    recursive: bool,
    read_only: bool,
    propagation: Propagation,
    undo: &mut Undo,
) -> Result<()> {
    let recurse = if recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND | recurse,
        None::<&str>,
    )
    .map_err(|e| Error::io("cannot bind", source, e))?;
    push_detach(target, undo);
    let kind = match propagation {
        Propagation::Private => MsFlags::MS_PRIVATE,
        Propagation::Slave => MsFlags::MS_SLAVE,
    };
    mount(None::<&str>, target, None::<&str>, kind | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| Error::io("cannot set the propagation of", target, e))?;
    if read_only {
        make_read_only(target).map_err(|e| Error::io("cannot make read-only", target, e))?;
    }
    Ok(())
}

/// Takes everything away that is mounted at `target`. Nothing mounted there is no error.
pub(crate) fn detach(target: &Path) -> Result<()> {
    // Several mounts can lie on top of each other; the bound is far above what anyone stacks.
    for _ in 0..64 {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(e) => return Err(Error::io("cannot unmount", target, e)),
        }
    }
    Err(Error::internal(format!(
        "cannot unmount {}: too many mounts on top of each other",
        target.display()
    )))
}

fn push_detach(target: &Path, undo: &mut Undo) {
    let at = target.to_owned();
    undo.push(format!("mount {}", target.display()), move || detach(&at));
}

/// A remount of a bind replaces all its flags, so those that it has are given again.
fn make_read_only(target: &Path) -> Result<(), Errno> {
    const KEPT: [(FsFlags, MsFlags); 6] = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let has = statvfs(target)?.flags();
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    for (_, flag) in KEPT.iter().filter(|(fs, _)| has.contains(*fs)) {
        flags |= *flag;
    }
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
}

fn call(source: &str, target: &Path, fstype: &str, flags: MsFlags, data: &str) -> Result<(), Errno> {
    mount(
        Some(source),
        target,
        Some(fstype),
        flags,
        Some(data).filter(|d| !d.is_empty()),
    )
}

/// Many layers do not fit into the page of data: their common folder becomes the working directory of a thread that mounts
/// with relative paths.
fn mount_long_overlay(entry: &RootfsMount, target: &Path, options: &MountOptions) -> Result<(), Errno> {
    let (folder, data) = shorten(&options.data).ok_or(Errno::E2BIG)?;
    let (source, target, flags) = (entry.source.clone(), target.to_owned(), options.flags);
    let thread = std::thread::Builder::new().name("overlay".into()).spawn(move || {
        unshare(CloneFlags::CLONE_FS)?;
        nix::unistd::chdir(&folder)?;
        call(&source, &target, "overlay", flags, &data)
    });
    thread
        .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))?
        .join()
        .map_err(|_| Errno::ECANCELED)?
}

/// The layers' common folder and the options relative to it; `None` if that does not make them fit.
pub(super) fn shorten(data: &[String]) -> Option<(PathBuf, String)> {
    let lower = data.iter().find_map(|o| o.strip_prefix("lowerdir="))?;
    if lower.contains('\\') {
        return None;
    }
    let layers: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let mut folder = layers.first()?.parent()?.to_owned();
    for layer in &layers {
        if !layer.is_absolute() {
            return None;
        }
        while !layer.starts_with(&folder) || *layer == folder {
            folder = folder.parent()?.to_owned();
        }
    }
    let relative: Option<Vec<&str>> = layers.iter().map(|l| l.strip_prefix(&folder).ok()?.to_str()).collect();
    let lower = format!("lowerdir={}", relative?.join(":"));
    let options: Vec<&str> = data
        .iter()
        .map(|o| {
            if o.starts_with("lowerdir=") {
                lower.as_str()
            } else {
                o.as_str()
            }
        })
        .collect();
    let data = options.join(",");
    (data.len() <= MAX_DATA).then_some((folder, data))
}

/// A folder below the root filesystem that a mount names as its target.
fn inside(root: &Path, target: &str) -> Result<PathBuf> {
    let relative = Path::new(target.trim_start_matches('/'));
    if relative
        .components()
        .any(|c| !matches!(c, Component::Normal(_) | Component::CurDir))
    {
        return Err(Error::invalid(format!(
            "mount target {target:?} leaves the root filesystem"
        )));
    }
    Ok(root.join(relative))
}
