//! A container's session keyring: the containers of a pod share a kernel, and would share the keyring @s otherwise.

use super::program;
use crate::sys;
use nix::errno::Errno;

/// What a new keyring permits (KEY_POS_ALL, KEY_USR_VIEW, KEY_USR_READ and KEY_USR_LINK of linux/key.h), and that its owner finds it by
/// name (KEY_USR_SEARCH).
const PERMISSIONS: u32 = 0x3f00_0000 | 0x0001_0000 | 0x0002_0000 | 0x0010_0000 | 0x0008_0000;

/// Puts the calling process, and whatever it starts, into the session keyring of container `id`. It must be root outside of the container's
/// user namespace each time: keyrings are found by name in one user namespace. A kernel without keyrings has none to share.
pub fn join(id: &str) -> Result<(), String> {
    match sys::join_session_keyring(&format!("_ses.{id}"), PERMISSIONS) {
        Ok(()) | Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(format!("unable to join session keyring: {}", program::text(errno))),
    }
}
