//! Every inode that the guest remembers ([`Crowd`](super::Crowd) bounds those) and every file that it opens is a descriptor here: how many
//! there may be.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::unistd::close;

/// What the rest of the process may need: 4,096 vsock connections, 2,048 owners of locks, 3,072 for files without a name; eventfds, KVM,
/// disks.
const OWN_USE: rlim_t = 16_384;

/// The limit that is asked for.
const WANTED: rlim_t = 1 << 17;

/// Size in entries to which the descriptor table grows at once.
const EARLY_TABLE: i32 = 4096;

/// Sets the limit of open files and grows the descriptor table. Call it while the process has one thread and
/// its privileges: growing the table of several threads stops them for tens of milliseconds.
pub fn reserve_descriptors() -> Result<(), Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if setrlimit(Resource::RLIMIT_NOFILE, WANTED, WANTED).is_err() && soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft > EARLY_TABLE as rlim_t {
        let highest = fcntl(std::io::stderr(), FcntlArg::F_DUPFD_CLOEXEC(EARLY_TABLE - 1))?;
        close(highest)?;
    }
    Ok(())
}

/// How many descriptors requests of the guest may hold.
pub(super) fn for_the_guest() -> Result<u64, Errno> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(soft.saturating_sub(OWN_USE).max(soft / 2))
}
