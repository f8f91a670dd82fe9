//! What goes on beside the calls for as long as a pod lives.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::calls::Pod;
use super::types::PodEvent;
use crate::agent_client::GuestEvent;
use crate::error::{Result, blocking};
use crate::volumes::Receiver;
use crate::{clock, mount_table};

/// A container's out-of-memory kills are told once in this time.
const OOM_PAUSE: Duration = Duration::from_secs(1);
/// Between two times that a guest is given memory.
const GROWTH_PAUSE: Duration = Duration::from_millis(2);
/// The same when there was none to give.
const REFUSAL_PAUSE: Duration = Duration::from_millis(500);
/// Between two times that a guest is made to forget files.
const CROWD_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at what the host has mounted.
const MOUNTS_PAUSE: Duration = Duration::from_millis(20);
/// For how long a guest may believe what a name in a volume is (the monitor's file server says one second), and some more.
const NAMES_ARE_BELIEVED: Duration = Duration::from_millis(1500);
/// After the agent's first answer, until a pod is one that stays.
const SETTLING: Duration = Duration::from_secs(30);
/// How often each step of that is tried.
const SETTLING_TRIES: u32 = 4;

/// Begins all of it, once.
pub(super) fn begin(pod: &Arc<Pod>) {
    pod.spawn(watch_end(pod.clone()));
    pod.spawn(watch_guest(pod.clone()));
    pod.spawn(watch_crowd(pod.clone()));
    pod.spawn(watch_mounts(pod.clone()));
    pod.spawn(settle(pod.clone()));
    pod.spawn(clock::follow(pod.agent.clone(), pod.id.to_string()));
}

/// Tells everybody when the machine ends without having been asked to.
async fn watch_end(pod: Arc<Pod>) {
    let end = pod.vmm.ended().await;
    pod.finish_all();
    if !pod.stopping.load(Ordering::SeqCst) {
        tracing::error!("pod {}: the microVM ended: {}", pod.id, end.reason);
        // Without a receiver nobody is interested.
        let _ = pod.events.send(PodEvent::Stopped { reason: end.reason });
    }
}

async fn watch_guest(pod: Arc<Pod>) {
    pod.let_grow().await;
    let mut told: HashMap<String, Instant> = HashMap::new();
    loop {
        let event = match pod.agent.next_event().await {
            Ok(event) => event,
            Err(error) => {
                if !pod.is_ending() {
                    tracing::error!("pod {}: its guest cannot be reached any more: {error}", pod.id);
                    pod.vmm.hang_up().await;
                }
                return;
            }
        };
        let container = match event {
            GuestEvent::OutOfMemory(container) => container,
            GuestEvent::MemoryWanted(bytes) => {
                // A guest that asks for nothing but memory is not listened to at its own speed.
                let pause = match pod.grow(bytes).await {
                    true => GROWTH_PAUSE,
                    false => REFUSAL_PAUSE,
                };
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        told.retain(|_, at| at.elapsed() < OOM_PAUSE);
        // The guest's word for which of its containers it was, checked against those that there are.
        if pod.container(&container).is_ok() && !told.contains_key(&container) {
            told.insert(container.clone(), Instant::now());
            let _ = pod.events.send(PodEvent::OutOfMemory { container });
        } else {
            // A guest that repeats itself, which it can do without end, is not listened to at its own speed.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What makes a pod small that stays, and no start waits for: the devices by which memory goes back to the host, and what its kernel has
/// in common with others.
async fn settle(pod: Arc<Pod>) {
    tokio::time::sleep(SETTLING).await;
    if pod.is_ending() {
        return;
    }
    if let Err(error) = tried_again(|| pod.is_ending(), || pod.plug_late_devices()).await {
        tracing::warn!("pod {}: free memory of the guest stays with it: {error}", pod.id);
    }
    if let Err(error) = tried_again(|| pod.is_ending(), || pod.share_kernel_text()).await {
        tracing::warn!("pod {}: its kernel shares less memory with others: {error}", pod.id);
    }
}

/// The result of the first try that succeeds, or of the last one: a guest that is held up by a quota, or a busy host, may take longer than
/// a try waits. A pod that ends has no more tries, and its error is none.
async fn tried_again<F>(is_ending: impl Fn() -> bool, attempt: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    for left in (0..SETTLING_TRIES).rev() {
        match attempt().await {
            Err(_) if is_ending() => break,
            Err(_) if left > 0 => tokio::time::sleep(SETTLING).await,
            done => return done,
        }
    }
    Ok(())
}

/// Makes the guest forget files whenever it remembers so many that the monitor has room for few more.
async fn watch_crowd(pod: Arc<Pod>) {
    while pod.vmm.crowded().await.is_ok() {
        tracing::debug!(
            "pod {}: the guest remembers many files and is asked to forget some",
            pod.id
        );
        if let Err(error) = pod.agent.forget_files().await {
            tracing::warn!("pod {}: the guest does not forget files: {error}", pod.id);
        }
        // A guest that has as many again at once is not asked at its own speed.
        tokio::time::sleep(CROWD_PAUSE).await;
    }
}

/// Keeps the volumes that receive mounts like their sources on the host.
async fn watch_mounts(pod: Arc<Pod>) {
    pod.volumes.receiving().await;
    let table = match mount_table::Watch::new() {
        Ok(table) => table,
        Err(error) => {
            tracing::warn!("pod {}: what the host mounts does not show: {error}", pod.id);
            return;
        }
    };
    loop {
        for receiver in pod.volumes.behind() {
            pod.spawn(catch_up(pod.clone(), receiver));
        }
        // Many come one shortly after the other.
        tokio::time::sleep(MOUNTS_PAUSE).await;
        tokio::select! {
            () = table.changed() => {}
            () = pod.volumes.receiving() => {}
        }
    }
}

/// Makes one volume like its source: one on a file system that does not answer keeps no other waiting.
async fn catch_up(pod: Arc<Pod>, receiver: Arc<Receiver>) {
    match blocking("looking for mounts", move || receiver.catch_up()).await {
        Ok(held) if held.is_empty() => {}
        Ok(held) => let_go(&pod, held).await,
        Err(error) => tracing::warn!("pod {}: what the host mounts does not show: {error}", pod.id),
    }
}

/// Has the guest let go of what the host has unmounted, so that the monitor can close it.
async fn let_go(pod: &Pod, names: Vec<PathBuf>) {
    tokio::time::sleep(NAMES_ARE_BELIEVED).await;
    if let Err(error) = pod.agent.look_again(names).await
        && !pod.is_ending()
    {
        tracing::warn!("pod {}: what the host has unmounted stays open: {error}", pod.id);
    }
}

impl Pod {
    /// Whether it was told to stop, or its machine is gone.
    fn is_ending(&self) -> bool {
        self.stopping.load(Ordering::SeqCst) || self.vmm.end().is_some()
    }
}

#[cfg(test)]
#[path = "watch_test.rs"]
mod watch_test;
