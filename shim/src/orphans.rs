//! Zombies that nobody waits for.
//!
//! The shim is a child subreaper, because the vmm's outer process ends and leaves the inner one to it. The runtime waits for the
//! children it knows, each by its pidfd; taking "any child" would steal their statuses. So only a zombie that has stood
//! uncollected for a while is taken here.

use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long whoever started a process has to collect it.
const GRACE: Duration = Duration::from_secs(5);

/// Runs for as long as the shim does.
pub async fn collect() -> std::io::Result<()> {
    let mut deaths: Signal = signal(SignalKind::child())?;
    loop {
        // Several deaths may come as one signal: look until there is nothing left to see.
        while let Some(zombie) = first_zombie() {
            tokio::time::sleep(GRACE).await;
            if first_zombie() == Some(zombie) && waitpid(zombie, Some(WaitPidFlag::WNOHANG)).is_ok() {
                tracing::debug!(pid = zombie.as_raw(), "collected an orphan");
            }
        }
        deaths.recv().await;
    }
}

/// A dead child that is still to be collected; it stays so.
fn first_zombie() -> Option<Pid> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::All, flags) {
        Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => Some(pid),
        _ => None,
    }
}
