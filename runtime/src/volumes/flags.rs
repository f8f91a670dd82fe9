//! What a bind mount keeps of the mount that its source lies in: `noexec`, `nosuid` and `nodev`.
//!
//! The guest's mounts know nothing of the host's, so these options are written into the spec. As under runc since 1.2 (`mountToRootfs` in
//! libcontainer/rootfs_linux.go): a bind whose options name no flag at all has those of its source, and one that names any, be it `rw`
//! alone, has what it names and nothing else. In a user namespace the kernel locks the flags of mounts that come from outside
//! (mount_namespaces(7)): there they are kept in any case, and a bind that wants them away fails.

use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::spec::last_option;

/// A flag of a mount, the option that asks for it, and the one that asks for its absence.
const KEPT: [(FsFlags, &str, &str); 3] = [
    (FsFlags::ST_NOEXEC, "noexec", "exec"),
    (FsFlags::ST_NOSUID, "nosuid", "suid"),
    (FsFlags::ST_NODEV, "nodev", "dev"),
];

/// All options that name a flag, in either sense (OCI runtime specification, "Linux mount options"). Propagation and the recursive options
/// are none, and `bind`, `rbind`, `remount` and `defaults` say nothing of the result.
const NAMING: &[&str] = &[
    "async",
    "atime",
    "dev",
    "diratime",
    "dirsync",
    "exec",
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
    "relatime",
    "ro",
    "rw",
    "silent",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
];

/// Adds to a bind mount's options what it keeps of the flags of `source`. `locked`: the container has a user namespace of its own.
pub(super) fn keep(mount: &mut Value, source: &Path, locked: bool) -> Result<()> {
    if !locked && last_option(mount, NAMING).is_some() {
        return Ok(());
    }
    let has = statvfs(source).map_err(|e| Error::io("cannot look at the mount of", source, e))?;
    add(mount, has.flags())
}

fn add(mount: &mut Value, has: FsFlags) -> Result<()> {
    let mut missing = Vec::new();
    for (_, option, opposite) in KEPT.iter().filter(|(flag, ..)| has.contains(*flag)) {
        match last_option(mount, &[option, opposite]) {
            None => missing.push(Value::from(*option)),
            Some(asked) if asked == *option => {}
            Some(asked) => {
                return Err(Error::invalid(format!(
                    "{asked:?} of a source that is mounted {option}, in a user namespace: operation not permitted"
                )));
            }
        }
    }
    match mount.get_mut("options") {
        Some(Value::Array(options)) => options.extend(missing),
        _ if missing.is_empty() => {}
        _ => {
            if let Some(mount) = mount.as_object_mut() {
                mount.insert("options".into(), Value::Array(missing));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "flags_test.rs"]
mod flags_test;
