//! The end of the guest: orderly, and when the agent fails.

use crate::apart::apart;
use crate::disks;
use nix::mount::{MntFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use std::time::Duration;

/// How long the answer to the request may take to leave the guest.
const ANSWER: Duration = Duration::from_millis(20);
/// How long writing back may take: a share that does not answer must not keep the guest alive.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);

/// Powers the guest off a moment later, when the answer to the request has left. Only PID 1 does that.
pub fn off_soon() {
    tokio::spawn(async {
        tokio::time::sleep(ANSWER).await;
        let patience = match disks::are_there() {
            true => disks::WRITE_BACK,
            false => SYNC_PATIENCE,
        };
        if tokio::time::timeout(patience, write_back()).await.is_err() {
            crate::kmsg::emergency("writing back took too long and was given up");
        }
        off();
    });
}

async fn write_back() {
    // sync(2) can block for ever, and only a thread can be left behind in it.
    let sync = || {
        nix::unistd::sync();
        // Lazily, for the killed processes may not all be gone.
        let _absent = umount2(bulkhead_agent_protocol::SHARE_MOUNT, MntFlags::MNT_DETACH);
    };
    // While those that were killed go, there may be no room for a thread.
    while apart(sync).await.is_err() {
        tokio::time::sleep(ANSWER).await;
    }
}

/// Powers the guest off now.
pub fn off() {
    end(RebootMode::RB_POWER_OFF);
}

/// Ends a guest that cannot go on. The monitor takes a reset for a failure, and reports the console's last lines.
pub fn fail() {
    end(RebootMode::RB_AUTOBOOT);
}

fn end(mode: RebootMode) {
    if std::process::id() == 1
        && let Err(error) = reboot(mode)
    {
        crate::kmsg::emergency(&format!("cannot end the guest: {error}"));
    }
}

/// Makes a panic say why on the console and end the guest: without PID 1 nothing in it can be reached or reaped.
pub fn end_guest_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        crate::kmsg::emergency(&panic.to_string());
        fail();
        std::process::abort();
    }));
}

/// Makes a panic of the helper visible, and its end. Its standard error is the container's, and its copies are PID 1 of their namespaces.
pub fn end_helper_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        crate::kmsg::notice(&format!("container helper: {panic}"));
        std::process::abort();
    }));
}
