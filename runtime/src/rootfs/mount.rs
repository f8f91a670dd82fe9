//! The mounts themselves.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use super::apart;
use super::options::MountOptions;
use super::overlay::{LayerMaps, Layers};
use super::tree::{self, Access, Manner};
use crate::error::{Error, Result};
use crate::identity::{self, FileMap};
use crate::pod::{RootfsMount, Undo};

/// mount(2) takes one page of data, the final zero included.
const MAX_DATA: usize = 4095;

/// The answers of file systems that do not know maps, of mounts that have one, and of old kernels.
const UNMAPPABLE: [Errno; 4] = [Errno::EINVAL, Errno::EPERM, Errno::ENOSYS, Errno::EOPNOTSUPP];

/// Mounts one of containerd's entries at its place below `target`.
pub(super) fn mount_entry(entry: &RootfsMount, target: &Path, map: Option<&FileMap>, undo: &mut Undo) -> Result<()> {
    let root = target;
    let place = inside(root, &entry.target)?;
    let options = MountOptions::parse(&entry.options)?;
    if options.image_file {
        return Err(Error::invalid(format!(
            "{:?} is an image file, and can only be used where it is the whole root filesystem: use the overlayfs snapshotter",
            entry.source
        )));
    }
    let shifted = options.shift.as_ref().map(|shift| shift.then(map)).transpose()?;
    let shown = shifted.as_ref().or(map);
    if let Some(manner) = bind_manner(entry, &options, shown) {
        let tree = bound(Path::new(&entry.source), &manner)?;
        return put(&tree, &place, root, undo);
    }
    // What is written belongs to whom the pod says: only what is below it is shifted, as containerd does.
    let maps = LayerMaps {
        lower: shown,
        upper: map,
    };
    let tree = mount_tree(entry, &place, root, &options, maps).map_err(|e| match e {
        Errno::ENODEV => Error::invalid(format!("this host's kernel has no file system {:?}", entry.fstype)),
        Errno::ENOTBLK => Error::invalid(format!("{:?} is no block device", entry.source)),
        e => Error::io("cannot mount at", root, e),
    })?;
    match tree {
        Some(tree) => put(&tree, &place, root, undo),
        None => {
            push_detach(root, undo);
            Ok(())
        }
    }
}

/// Puts a mount at a place of a root filesystem. What is mounted below its top goes with that.
fn put(tree: &OwnedFd, place: &OwnedFd, root: &Path, undo: &mut Undo) -> Result<()> {
    tree::attach_at(tree, place.as_fd()).map_err(|e| Error::io("cannot mount at", root, e))?;
    push_detach(root, undo);
    Ok(())
}

/// Mounts a file system at `place`, or gives it to be put there: what is mapped is so from the first moment that it is seen.
/// `scratch` as for [`apart::mount`].
fn mount_tree(
    entry: &RootfsMount,
    place: &OwnedFd,
    scratch: &Path,
    options: &MountOptions,
    maps: LayerMaps<'_>,
) -> Result<Option<OwnedFd>, Errno> {
    let data = options.data.join(",");
    let mapped = maps.lower.is_some();
    if entry.fstype == "overlay" && (mapped || data.len() > MAX_DATA) {
        let layers = Layers::of(&options.data).ok_or(if mapped { Errno::EINVAL } else { Errno::E2BIG })?;
        return layers.mount(&entry.source, options.flags, scratch, maps).map(Some);
    }
    let mount_at = |target: &Path| {
        mount(
            Some(entry.source.as_str()),
            target,
            Some(entry.fstype.as_str()),
            options.flags | MsFlags::MS_NODEV,
            Some(data.as_str()).filter(|data| !data.is_empty()),
        )
    };
    let Some(map) = maps.lower else {
        let place = format!("/proc/self/fd/{}", place.as_raw_fd());
        return mount_at(place.as_ref()).map(|()| None);
    };
    let mapped = apart::mount(scratch, || {
        apart::make_folder("m")?;
        mount_at("m".as_ref())?;
        tree::copy("m".as_ref(), &Manner::alone(Some(map)))
    });
    mapped.map(Some)
}

/// How an entry is bound; `None`: it is no bind mount.
fn bind_manner<'a>(entry: &RootfsMount, options: &MountOptions, map: Option<&'a FileMap>) -> Option<Manner<'a>> {
    if entry.fstype != "bind" && entry.fstype != "rbind" && !options.flags.contains(MsFlags::MS_BIND) {
        return None;
    }
    Some(Manner {
        recursive: entry.fstype == "rbind" || options.flags.contains(MsFlags::MS_REC),
        access: if options.flags.contains(MsFlags::MS_RDONLY) {
            Access::Read
        } else {
            Access::Write
        },
        map,
    })
}

/// Binds `source` (a folder or anything else) at `target`, which must exist as the same sort of thing.
pub(crate) fn bind(source: &Path, target: &Path, manner: &Manner<'_>, undo: &mut Undo) -> Result<()> {
    let tree = bound(source, manner)?;
    tree::attach(&tree, target).map_err(|e| Error::io("cannot bind at", target, e))?;
    push_detach(target, undo);
    Ok(())
}

/// Binds the mount whose top is open as `source` at an open file or folder; gives the copy. What knows no maps comes without one.
pub(crate) fn bind_open(source: &OwnedFd, place: &OwnedFd, manner: &Manner<'_>) -> Result<OwnedFd, Errno> {
    let unmapped = Manner { map: None, ..*manner };
    let tree = match tree::copy_of(source.as_fd(), manner) {
        Err(e) if UNMAPPABLE.contains(&e) => tree::copy_of(source.as_fd(), &unmapped)?,
        tree => tree?,
    };
    tree::attach_at(&tree, place.as_fd())?;
    Ok(tree)
}

fn bound(source: &Path, manner: &Manner<'_>) -> Result<OwnedFd> {
    tree::copy(source, manner).map_err(|e| match e {
        e if UNMAPPABLE.contains(&e) && let Some(map) = manner.map => {
            let source = source.display();
            let annotation = identity::ANNOTATION;
            Error::invalid(match map.is_pods() {
                true => format!(
                    "the owners of {source} cannot be mapped to the pod's host ids: annotate the pod with {annotation}: \"never\""
                ),
                false => format!("the owners of {source} cannot be shown as others: its file system, or one mounted in it, knows no maps"),
            })
            .caused_by(e)
        }
        e => Error::io("cannot bind", source, e),
    })
}

/// Fails with what of an entry cannot be mapped. What else is wrong with it is not looked at.
pub(super) fn try_map_entry(entry: &RootfsMount, map: &FileMap) -> Result<()> {
    let Ok(options) = MountOptions::parse(&entry.options) else {
        return Ok(());
    };
    if let Some(manner) = bind_manner(entry, &options, Some(map)) {
        return try_map_bind(Path::new(&entry.source), &manner);
    }
    if entry.fstype != "overlay" {
        return Ok(());
    }
    let Some(layers) = Layers::of(&options.data) else {
        let data = options.data.join(",");
        return Err(Error::invalid(format!(
            "overlay with the options {data:?} cannot be mapped"
        )));
    };
    let manner = Manner::alone(Some(map));
    layers
        .folders()
        .into_iter()
        .try_for_each(|folder| try_map_bind(folder, &manner))
}

/// Fails when `source` is there and cannot be mapped.
pub(crate) fn try_map_bind(source: &Path, manner: &Manner<'_>) -> Result<()> {
    match tree::try_copy(source, manner) {
        Err(e) if UNMAPPABLE.contains(&e) => Err(Error::io("cannot map", source, e)),
        _ => Ok(()),
    }
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

/// The file or folder of the root filesystem that a mount names as its target; empty: the top. Links, which an image can have anywhere,
/// lead nowhere else.
fn inside(root: &Path, target: &str) -> Result<OwnedFd> {
    let relative = Path::new(target.trim_start_matches('/'));
    if relative
        .components()
        .any(|c| !matches!(c, Component::Normal(_) | Component::CurDir))
    {
        return Err(Error::invalid(format!(
            "mount target {target:?} leaves the root filesystem"
        )));
    }
    let failed = |e: Errno| Error::io(&format!("cannot find the mount target {target:?} in"), root, e);
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let top = open(root, flags | OFlag::O_DIRECTORY, Mode::empty()).map_err(failed)?;
    if relative.as_os_str().is_empty() {
        return Ok(top);
    }
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(&top, relative, how).map_err(failed)
}

#[cfg(test)]
#[path = "mount_test.rs"]
mod mount_test;
