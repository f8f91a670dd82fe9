//! Mounts of a spec as runc would make them, where libcontainer would not: its own look at a place follows no link to what is not there
//! yet, and it ignores options of a bind mount that it does not know.
//!
//! Called in the helper, before the container is made: nobody changes its root file system yet.

use oci_spec::runtime::{Mount, Spec};
use safe_path::scoped_resolve;
use std::io;
use std::path::{Component, Path, PathBuf};

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

/// Puts each mount's place into the spec as what it is in the root file system, and refuses what runc refuses.
pub fn prepare(spec: &mut Spec, rootfs: &Path) -> Result<(), String> {
    let mut places: Vec<PathBuf> = Vec::new();
    for mount in spec.mounts_mut().iter_mut().flatten() {
        check_options(mount)?;
        let destination = mount.destination().clone();
        let place = place_of(&destination, rootfs, &places).map_err(|error| {
            format!(
                "error mounting to rootfs at {:?}: {error}",
                destination.display().to_string()
            )
        })?;
        check_proc(mount, &place)?;
        if place != destination {
            mount.set_destination(place.clone());
        }
        places.push(place);
    }
    Ok(())
}

/// Where a mount comes to lie. What is below an earlier mount is for libcontainer to find in that.
fn place_of(destination: &Path, rootfs: &Path, earlier: &[PathBuf]) -> io::Result<PathBuf> {
    let root = Path::new("/");
    let mut place = root.to_owned();
    for part in destination.components() {
        match part {
            Component::Normal(name) => {
                place.push(name);
                let mut mounts = earlier.iter().filter(|mount| *mount != root);
                if !mounts.any(|mount| place.starts_with(mount)) {
                    place = root.join(scoped_resolve(rootfs, &place)?);
                }
            }
            Component::ParentDir => {
                place.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(place)
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
        let place = place.display().to_string();
        Err(format!(
            "error mounting {typ:?} to rootfs at {place:?}: {place:?} cannot be mounted because it is {why}"
        ))
    };
    match below.as_os_str().is_empty() {
        // The host's, whole, is as good as one of its own.
        true if is_bind(mount) => Ok(()),
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
            mount.destination().display().to_string()
        )),
    }
}

/// Whether libcontainer takes a mount for a bind mount.
pub fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind") || options.into_iter().any(|option| option == "bind" || option == "rbind")
}

#[cfg(test)]
#[path = "mounts_test.rs"]
mod tests;
