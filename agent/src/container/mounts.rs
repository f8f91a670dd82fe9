//! Mounts of a spec as runc would make them, where libcontainer would not: its own look at a place follows no link to what is not there
//! yet, it ignores options of a bind mount that it does not know, it drops some of the others, and nothing can be run any more from a
//! path that it makes read-only.
//!
//! [`prepare`] and [`mount_here`] are called in the helper before the container is made, so that nobody changes its root file system yet,
//! and [`Unfinished::finish`] before its program runs.

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use safe_path::scoped_resolve;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use super::user_namespace::Outside;
use super::{cgroup, copy_up, program};
use crate::sys;

/// The only files below /proc that may be replaced: those by which lxcfs and its like show a container its limits.
const OVER_PROC: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// Options that a bind mount may have: runc's (OCI runtime specification, "Linux mount options").
const BIND_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// What is left to do when libcontainer has made the mounts, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unfinished(Vec<(PathBuf, Change)>);

/// What is left to do at one place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Propagation(MsFlags),
    /// The mount is; until then there are devices to be made in /dev, places of further mounts in a tmpfs, and the working directory
    /// anywhere.
    ReadOnly,
    /// Whatever lies there is, and may not lie there.
    ReadOnlyPath,
    /// No symbolic links are followed on it. Last: no further place is found through such a mount.
    NoLinks,
}

/// The folders that mounts with the option [`COPY_UP`] begin with, by the mount's number in the spec.
pub type Originals = HashMap<usize, OwnedFd>;

/// Puts each mount's place into the spec as what it is in the root file system, and refuses what runc refuses.
pub fn prepare(spec: &mut Spec, rootfs: &Path) -> Result<(Unfinished, Originals), String> {
    let mut earlier: Vec<Earlier> = Vec::new();
    let mut unfinished = Vec::new();
    let mut originals = Originals::new();
    for (number, mount) in spec.mounts_mut().iter_mut().flatten().enumerate() {
        check_options(mount)?;
        let destination = mount.destination().clone();
        let failed = |error| format!("error mounting to rootfs at {destination:?}: {error}");
        let place = place_of(&destination, rootfs, &earlier).map_err(failed)?;
        check_proc(mount, &place)?;
        // What comes to lie under this mount cannot be reached any more.
        unfinished.retain(|(below, _): &(PathBuf, Change)| !below.starts_with(&place));
        unfinished.extend(changes(mount).into_iter().map(|change| (place.clone(), change)));
        let tmpfs = is_tmpfs(mount);
        let original = match tmpfs {
            true => take_over(mount, &place, rootfs, &earlier).map_err(failed)?,
            false => None,
        };
        if mount.source().is_none() && !is_bind(mount) {
            // libcontainer asks for one where the kernel does not.
            mount.set_source(Some(PathBuf::new()));
        }
        if let Some(options) = mount.options_mut() {
            // libcontainer takes these for the file system's.
            options.retain(|option| ![NO_LINKS, LINKS, COPY_UP].contains(&option.as_str()));
            options.retain(|option| !WITHOUT_EFFECT.contains(&option.as_str()));
            options.retain(|option| !tmpfs || ![READ_ONLY, WRITABLE].contains(&option.as_str()));
        }
        if place != destination {
            mount.set_destination(place.clone());
        }
        match original {
            None => earlier.push(Earlier {
                place,
                source: mount.source().clone().filter(|_| is_bind(mount)),
            }),
            Some(folder) => {
                originals.insert(number, folder);
                cover(place, &mut earlier);
            }
        }
    }
    if let Some(root) = spec.root_mut()
        && root.readonly() == Some(true)
    {
        unfinished.push((PathBuf::from("/"), Change::ReadOnly));
        root.set_readonly(Some(false));
    }
    if let Some(linux) = spec.linux_mut() {
        let paths = linux.readonly_paths().iter().flatten().map(PathBuf::from);
        unfinished.extend(paths.map(|path| (path, Change::ReadOnlyPath)));
        linux.set_readonly_paths(None);
    }
    unfinished.sort_by(|(_, one), (_, other)| one.cmp(other));
    Ok((Unfinished(unfinished), originals))
}

/// Mounts that show a namespace which is not the container's own are bound from one that is mounted outside of it, in the calling
/// process's mount namespace. In a user namespace of its own a container may not mount them, such as the network's, which is the whole
/// pod's. And whoever mounts the guest's cgroups anew sets their options for the whole guest (Documentation/admin-guide/cgroup-v2.rst).
pub fn lend_file_systems(spec: &mut Spec, directory: &Path) -> Result<(), String> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone());
    let has = |kind| namespaces.iter().flatten().any(|namespace| namespace.typ() == kind);
    let outside = |file_system: &str| match file_system {
        "cgroup" | "cgroup2" => !has(LinuxNamespaceType::Cgroup),
        "sysfs" => has(LinuxNamespaceType::User) && !has(LinuxNamespaceType::Network),
        "mqueue" => has(LinuxNamespaceType::User) && !has(LinuxNamespaceType::Ipc),
        "proc" => has(LinuxNamespaceType::User) && !has(LinuxNamespaceType::Pid),
        _ => false,
    };
    for own in spec.mounts_mut().iter_mut().flatten() {
        let file_system = own.typ().clone().unwrap_or_default();
        if is_bind(own) || !outside(&file_system) {
            continue;
        }
        let place = match file_system.as_str() {
            "cgroup" | "cgroup2" => PathBuf::from(cgroup::ROOT),
            _ => mounted_outside(&file_system, directory)
                .map_err(|error| format!("cannot mount a file system {file_system:?} for the container: {error}"))?,
        };
        let mut options = own.options().clone().unwrap_or_default();
        options.push("bind".to_owned());
        own.set_typ(Some("bind".to_owned()));
        own.set_source(Some(place));
        own.set_options(Some(options));
    }
    Ok(())
}

fn mounted_outside(file_system: &str, directory: &Path) -> io::Result<PathBuf> {
    let place = directory.join(file_system);
    std::fs::create_dir_all(&place)?;
    let name = Some(file_system);
    mount(name, &place, name, MsFlags::empty(), None::<&str>)?;
    Ok(place)
}

/// Mounts of `disks`, those that begin with one of the `originals`, and every tmpfs with options that libcontainer drops and nobody can
/// set later, are made here, below `directory`, in the calling process's mount namespace, and bound from there. For disks there is another
/// reason: a container's init is in the container's cgroup, whose device filter knows only what processes may open, and libcontainer
/// mounts for writing first. `copy` brings the contents of an original into its mount.
pub fn mount_here(
    spec: &mut Spec,
    disks: &[PathBuf],
    originals: &Originals,
    directory: &Path,
    copy: impl Fn(&OwnedFd, &Path) -> io::Result<()>,
) -> Result<(), String> {
    let outside = Outside::of(spec);
    for (number, own) in spec.mounts_mut().iter_mut().flatten().enumerate() {
        let of_disk = !is_bind(own) && own.source().as_ref().is_some_and(|source| disks.contains(source));
        // Others would show the helper's namespaces instead of the container's.
        let writes_at_once = is_tmpfs(own) && (has(own, "sync") || has(own, "dirsync"));
        let original = originals.get(&number);
        if !of_disk && !writes_at_once && original.is_none() {
            continue;
        }
        let source = own.source().clone().unwrap_or_default();
        let place = directory.join(format!("mount{number}"));
        let kind = own.typ().clone().unwrap_or_default();
        let options = own.options().clone().unwrap_or_default();
        let (mut of_file_system, mut of_mount) = split(&options);
        let make = || -> io::Result<()> {
            if is_tmpfs(own) {
                of_file_system = owned(of_file_system, &outside)?;
            }
            std::fs::create_dir_all(&place)?;
            sys::mount_file_system(&source, &kind, &of_file_system, &place)?;
            original.map_or(Ok(()), |folder| copy(folder, &place))
        };
        make().map_err(|error| {
            format!(
                "error mounting {source:?} to rootfs at {:?}: {error}",
                own.destination()
            )
        })?;
        of_mount.push("bind".to_owned());
        own.set_typ(Some("bind".to_owned()))
            .set_source(Some(place))
            .set_options(Some(of_mount));
    }
    Ok(())
}

/// Options for the file system itself, and those for where it is mounted.
fn split(options: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut of_file_system, mut of_mount) = (Vec::new(), Vec::new());
    for option in options {
        match option.as_str() {
            READ_ONLY | WRITABLE => {
                of_file_system.push(option.clone());
                of_mount.push(option.clone());
            }
            "async" | "dirsync" | "lazytime" | "nolazytime" | "sync" => of_file_system.push(option.clone()),
            known if BIND_OPTIONS.contains(&known) => of_mount.push(option.clone()),
            _ => of_file_system.push(option.clone()),
        }
    }
    (of_file_system, of_mount)
}

/// The options of a tmpfs that is made outside of its container's user namespace, whose ids they name; root is who owns it by default.
fn owned(options: Vec<String>, outside: &Outside) -> io::Result<Vec<String>> {
    let defaults = ["uid=0", "gid=0"].map(str::to_owned);
    let translated = |option: String| {
        let id = match option.split_once('=') {
            Some(("uid", id)) => id.parse().ok().map(|id| ("uid", outside.user(id))),
            Some(("gid", id)) => id.parse().ok().map(|id| ("gid", outside.group(id))),
            _ => None,
        };
        match id {
            // What is no number is the kernel's to refuse.
            None => Ok(option),
            Some((key, Some(id))) => Ok(format!("{key}={id}")),
            Some((_, None)) => Err(Errno::EINVAL.into()),
        }
    };
    defaults.into_iter().chain(options).map(translated).collect()
}

/// A mount of the spec that others may lie in.
struct Earlier {
    place: PathBuf,
    /// What is bound there.
    source: Option<PathBuf>,
}

/// The option of a mount that no symbolic links are followed on.
const NO_LINKS: &str = "nosymfollow";

/// The opposite.
const LINKS: &str = "symfollow";

/// The option of a tmpfs that begins with what it hides.
const COPY_UP: &str = "tmpcopyup";

/// Flags of mount(2) that change nothing for a container, and that no file system knows by these names.
const WITHOUT_EFFECT: [&str; 4] = ["iversion", "loud", "noiversion", "silent"];

const READ_ONLY: &str = "ro";
const WRITABLE: &str = "rw";

/// What libcontainer drops of a mount's options.
fn changes(mount: &Mount) -> Vec<Change> {
    let options = || mount.options().iter().flatten().map(String::as_str);
    let last_is = |yes: &str, no: &str| options().rfind(|option| [yes, no].contains(option)) == Some(yes);
    let bind = is_bind(mount);
    let last = mount.destination() == Path::new("/dev") || is_tmpfs(mount);
    let read_only = last && last_is(READ_ONLY, WRITABLE);
    let mut changes: Vec<Change> = options()
        .filter_map(|option| propagation(option, bind).map(Change::Propagation))
        .collect();
    changes.extend(read_only.then_some(Change::ReadOnly));
    changes.extend(last_is(NO_LINKS, LINKS).then_some(Change::NoLinks));
    changes
}

/// `below`: whether a mount brings others along, which the recursive options are for.
fn propagation(option: &str, below: bool) -> Option<MsFlags> {
    let (option, below) = match option.strip_prefix('r') {
        Some(option) if below => (option, MsFlags::MS_REC),
        Some(option) => (option, MsFlags::empty()),
        None => (option, MsFlags::empty()),
    };
    let kind = match option {
        "private" => MsFlags::MS_PRIVATE,
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some(kind | below)
}

impl Unfinished {
    /// Does it, in the mount namespace of the container's init, which the calling process does not leave again.
    pub fn finish(&self, init: Pid) -> Result<(), String> {
        if self.0.is_empty() {
            return Ok(());
        }
        let enter = || -> io::Result<()> {
            let namespace = File::open(format!("/proc/{init}/ns/mnt"))?;
            Ok(setns(namespace, CloneFlags::CLONE_NEWNS)?)
        };
        enter().map_err(|error| format!("cannot enter the container's mount namespace: {error}"))?;
        for (place, change) in &self.0 {
            change.apply(place).map_err(|errno| {
                let why = program::text(errno);
                format!("cannot change the mount at {:?}: {why}", place.display().to_string())
            })?;
        }
        Ok(())
    }
}

impl Change {
    fn apply(&self, place: &Path) -> nix::Result<()> {
        let change = |flags| mount(None::<&str>, place, None::<&str>, flags, None::<&str>);
        let add = |flag| change(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags_at(place)? | flag);
        match self {
            Change::Propagation(kind) => change(*kind),
            Change::ReadOnly => add(MsFlags::MS_RDONLY),
            Change::ReadOnlyPath => {
                let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
                match mount(Some(place), place, None::<&str>, bind, None::<&str>) {
                    Err(Errno::ENOENT) => Ok(()),
                    result => result.and_then(|()| add(MsFlags::MS_RDONLY)),
                }
            }
            Change::NoLinks => add(NO_SYMLINKS),
        }
    }
}

/// MS_NOSYMFOLLOW (mount(2)).
const NO_SYMLINKS: MsFlags = MsFlags::from_bits_retain(256);

/// The flags of the mount that a path lies in. How it keeps access times is left out: a remount that does not name them leaves them.
fn flags_at(path: &Path) -> nix::Result<MsFlags> {
    let has = statvfs(path)?.flags();
    let known = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
    ];
    let flags = known.into_iter().filter(|(flag, _)| has.contains(*flag));
    Ok(flags.map(|(_, flag)| flag).collect())
}

/// Where a mount comes to lie. What is below an earlier mount is not looked up: libcontainer finds it there.
fn place_of(destination: &Path, rootfs: &Path, earlier: &[Earlier]) -> io::Result<PathBuf> {
    let root = Path::new("/");
    let mut place = root.to_owned();
    for part in destination.components() {
        match part {
            Component::Normal(name) => {
                place.push(name);
                if lies_in(&place, earlier).is_none() {
                    place = root.join(scoped_resolve(rootfs, &place)?);
                }
            }
            Component::ParentDir => {
                place.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if let Some((mount, rest)) = lies_in(&place, earlier)
        && let Some(source) = &mount.source
        && leads_through_links(source, &rest)?
    {
        return Err(io::Error::other(format!(
            "the way leads through a symbolic link in the volume at {:?}",
            mount.place
        )));
    }
    Ok(place)
}

/// The mount that can be seen at a place, and the way in it; `None` if that is the root file system.
fn lies_in<'a>(place: &Path, earlier: &'a [Earlier]) -> Option<(&'a Earlier, PathBuf)> {
    let mut mounts = earlier.iter().rev().filter(|mount| mount.place != Path::new("/"));
    mounts.find_map(|mount| Some((mount, place.strip_prefix(&mount.place).ok()?.to_owned())))
}

/// Gives a tmpfs the mode of the folder that it comes to lie over, unless its options name one. The folder is given back if the tmpfs is to
/// begin with what is in it. None is known in an earlier mount that is no bind mount.
fn take_over(mount: &mut Mount, place: &Path, rootfs: &Path, earlier: &[Earlier]) -> io::Result<Option<OwnedFd>> {
    let copied = has(mount, COPY_UP);
    let mut options = mount.options().clone().unwrap_or_default();
    if !copied && options.iter().any(|option| option.starts_with("mode=")) {
        return Ok(None);
    }
    let folder = match lies_in(place, earlier) {
        None => copy_up::open_below(rootfs, place)?,
        Some((mount, way)) => match &mount.source {
            None => None,
            Some(source) => copy_up::open_below(source, &way)?,
        },
    };
    let Some(folder) = folder else { return Ok(None) };
    // First, as a later one counts.
    options.insert(0, format!("mode={:o}", fstat(&folder)?.st_mode & 0o7777));
    mount.set_options(Some(options));
    Ok(copied.then_some(folder))
}

/// What a mount that begins with what it hides changes about the earlier ones: those that it hides are not found any more, and what is
/// found in it instead is like in the root file system, or in the volume whose folder it hides.
fn cover(place: PathBuf, earlier: &mut Vec<Earlier>) {
    let volume = lies_in(&place, earlier).and_then(|(mount, way)| Some(mount.source.as_ref()?.join(way)));
    earlier.retain(|mount| !mount.place.starts_with(&place));
    if let Some(volume) = volume {
        earlier.push(Earlier {
            place,
            source: Some(volume),
        });
    }
}

/// Whoever wrote a volume could lead a mount to where none may lie.
fn leads_through_links(source: &Path, rest: &Path) -> io::Result<bool> {
    if rest.as_os_str().is_empty() {
        return Ok(false);
    }
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(File::open(source)?, rest, how).is_err_and(|errno| errno == nix::Error::ELOOP))
}

/// Nothing may hide what a container learns from its /proc.
fn check_proc(mount: &Mount, place: &Path) -> Result<(), String> {
    let Ok(below) = place.strip_prefix("/proc") else {
        return Ok(());
    };
    let typ = mount.typ().as_deref().unwrap_or_default();
    if typ == "proc" || typ == "sysfs" || OVER_PROC.iter().any(|name| below == Path::new(name)) {
        return Ok(());
    }
    let refused = |why: &str| {
        Err(format!(
            "error mounting {typ:?} to rootfs at {place:?}: {place:?} cannot be mounted because it is {why}"
        ))
    };
    match below.as_os_str().is_empty() {
        true => refused("not of type proc"),
        false => refused("inside /proc"),
    }
}

fn check_options(mount: &Mount) -> Result<(), String> {
    if !is_bind(mount) {
        return Ok(());
    }
    let mut options = mount.options().iter().flatten();
    match options.find(|option| !BIND_OPTIONS.contains(&option.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(format!(
            "error mounting to rootfs at {:?}: a bind mount has no option {unknown:?}",
            mount.destination()
        )),
    }
}

fn has(mount: &Mount, option: &str) -> bool {
    mount.options().iter().flatten().any(|has| has == option)
}

fn is_tmpfs(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("tmpfs") && !is_bind(mount)
}

/// Whether libcontainer takes a mount for a bind mount.
fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind") || options.into_iter().any(|option| option == "bind" || option == "rbind")
}

#[cfg(test)]
#[path = "mounts_test.rs"]
mod tests;
