//! The socket a pod's server listens on: where it lies, whether somebody answers, replacing what a dead server left.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, umask};

/// The path of a `unix://` address.
pub fn path_of(address: &str) -> Result<PathBuf> {
    match address.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => bail!("{address:?} is not the address of a unix socket"),
    }
}

/// True when a server has the socket open. Never blocks: a full queue of connections counts as alive.
pub fn is_alive(path: &Path) -> bool {
    let Ok(address) = UnixAddr::new(path) else {
        return false;
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let Ok(probe) = socket(AddressFamily::Unix, SockType::Stream, flags, None) else {
        return false;
    };
    matches!(
        connect(probe.as_raw_fd(), &address),
        Ok(()) | Err(Errno::EAGAIN | Errno::EINPROGRESS)
    )
}

/// Binds and listens. What a dead server left is replaced; `None`: a living one is there.
pub fn bind(path: &Path) -> Result<Option<UnixListener>> {
    let folder = path.parent().context("the shim's socket has no folder")?;
    // As containerd makes it: its shims' sockets are reached through it, not listed.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder);
    made.with_context(|| format!("cannot create {} for the shim's socket", folder.display()))?;
    let _turn = turn(folder).with_context(|| format!("cannot lock {}", folder.display()))?;
    if path.symlink_metadata().is_ok() {
        if is_alive(path) {
            return Ok(None);
        }
        std::fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {}", path.display()))?;
    }
    let old = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(old);
    let listener = listener.with_context(|| format!("cannot bind the shim's socket {}", path.display()))?;
    Ok(Some(listener))
}

/// Whoever holds it is the only one between a look at a socket of this folder and what comes of that.
fn turn(folder: &Path) -> std::io::Result<File> {
    let folder = File::open(folder)?;
    folder.lock()?;
    Ok(folder)
}

/// Removes the socket of a server that did not come up, unless another one has taken its place.
pub fn remove_dead(path: &Path) {
    let turn = path.parent().and_then(|folder| turn(folder).ok());
    if turn.is_some() && !is_alive(path) {
        remove(path);
    }
}

/// Removes the socket's name. Twice is fine.
pub fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

#[cfg(test)]
#[path = "socket_test.rs"]
mod socket_test;
