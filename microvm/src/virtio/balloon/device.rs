//! The register side of the device and its worker.

use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;

use super::pages::{self, Run};
use crate::jail::ThreadKind;
use crate::virtio::buffers::{Buffers, Direction};
use crate::virtio::device::{ActivateError, Activation, GuestMemory, VirtioDevice};
use crate::virtio::pace::Pace;
use crate::virtio::ring::{self, Chain, Ring};
use crate::virtio::worker::QueueWorker;

/// Inflate, deflate, reporting. Linux numbers only the queues that there are, so that the one for reporting, which has number 4 in the
/// specification, comes after the two that there always are. Linux reports 32 ranges at a time and refuses a smaller queue.
const QUEUE_SIZES: [u16; 3] = [16, 16, 64];

const INFLATE: u16 = 0;
const REPORTING: u16 = 2;

/// Feature: the driver reports free pages (virtio 1.2, 5.5.3).
const PAGE_REPORTING: u64 = 1 << 5;

/// The device.
#[derive(Debug)]
pub struct BalloonDevice {
    pace: Arc<Mutex<Pace>>,
    worker: Option<QueueWorker>,
}

impl BalloonDevice {
    /// Not active.
    pub fn new() -> BalloonDevice {
        BalloonDevice::default()
    }
}

impl Default for BalloonDevice {
    fn default() -> BalloonDevice {
        BalloonDevice {
            pace: Pace::shared(),
            worker: None,
        }
    }
}

impl VirtioDevice for BalloonDevice {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        ring::FEATURES | PAGE_REPORTING
    }

    /// Zeros: the balloon shall be empty, and what the driver says of its size is nobody's concern (5.5.4).
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
        } = activation;
        let rings: Vec<Ring> = (0..)
            .zip(queues)
            .filter_map(|(index, active)| Some(Ring::new(active?, index, features, interrupt.clone())))
            .collect();
        let pace = self.pace.clone();
        let serve = move |memory: &GuestMemory, queue: u16, chain: Chain<'_>| {
            Pace::spend(&pace, || serve(memory, queue, chain))
        };
        let worker = QueueWorker::start("balloon", ThreadKind::Memory, memory, rings, serve)?;
        self.worker = Some(worker);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

/// Performs one chain. Nothing is ever written to it.
fn serve(memory: &GuestMemory, queue: u16, chain: Chain<'_>) -> u32 {
    match queue {
        INFLATE => {
            if let Ok(buffer) = Buffers::collect(memory, chain, Direction::Readable) {
                give_back(memory, pages::inflated(&buffer));
            }
        }
        REPORTING => give_back(memory, pages::reported(chain)),
        // Pages come back by themselves when the guest uses them.
        _ => {}
    }
    0
}

fn give_back(memory: &GuestMemory, runs: impl IntoIterator<Item = Run>) {
    for Run { start, length } in runs {
        if let Err(error) = memory.discard(start, length) {
            tracing::debug!("balloon: {length:#x} bytes at {:#x}: {error}", start.0);
        }
    }
}

#[cfg(test)]
#[path = "device_test.rs"]
mod device_test;
