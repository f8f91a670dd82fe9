//! Capabilities, all of them only inside the process's own user namespace.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// What the file server needs to act as any user of the pod: owners, permissions, device nodes of type 0:0, set-id bits, and
/// security.capability.
const FILE_SERVER: [Capability; 9] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
];

/// Calling thread (and what it starts): keeps only what the file server needs.
pub fn keep_file_server() -> Result<(), CapsError> {
    let keep: CapsHashSet = FILE_SERVER.into_iter().collect();
    for capability in caps::all().difference(&keep) {
        // One that this kernel does not know cannot be held either.
        if caps::has_cap(None, CapSet::Bounding, *capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)
}

/// Calling thread: keeps none.
pub fn drop_all() -> Result<(), CapsError> {
    caps::clear(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Permitted)?;
    caps::clear(None, CapSet::Inheritable)
}
