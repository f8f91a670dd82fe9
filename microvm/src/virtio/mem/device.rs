//! The register side of the device and its worker.

use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_ids::VIRTIO_ID_MEM;

use super::pool::Pool;
use super::request::{self, RESPONSE_BYTES, Response};
use crate::jail::ThreadKind;
use crate::virtio::buffers::{Buffers, copy_config};
use crate::virtio::device::{ActivateError, Activation, GuestMemory, VirtioDevice};
use crate::virtio::pace::Pace;
use crate::virtio::ring::{self, Chain, Ring};
use crate::virtio::worker::QueueWorker;

/// Linux has one request under way.
const QUEUE_SIZES: [u16; 1] = [8];

/// Feature: the driver does not even read what is not plugged (virtio 1.2, 5.15.3), where there may be no memory at all.
const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// The device.
pub struct MemDevice {
    pool: Arc<Pool>,
    pace: Arc<Mutex<Pace>>,
    worker: Option<QueueWorker>,
}

impl MemDevice {
    /// Not active.
    pub fn new(pool: Arc<Pool>) -> MemDevice {
        MemDevice {
            pool,
            pace: Pace::shared(),
            worker: None,
        }
    }
}

impl VirtioDevice for MemDevice {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_MEM
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        ring::FEATURES | UNPLUGGED_INACCESSIBLE
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.pool.config(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let failed = |reason: String| ActivateError { device: "mem", reason };
        if activation.features & UNPLUGGED_INACCESSIBLE == 0 {
            return Err(failed("the driver would read unplugged memory".to_owned()));
        }
        let interrupt = activation.interrupt.clone();
        let (memory, ring) = Ring::only("mem", activation)?;
        let pool = self.pool.clone();
        let pace = self.pace.clone();
        let serve = move |memory: &GuestMemory, _queue: u16, chain: Chain<'_>| {
            Pace::spend(&pace, || serve(&pool, memory, chain))
        };
        let worker = QueueWorker::start("mem", ThreadKind::Memory, memory, vec![ring], serve)?;
        self.worker = Some(worker);
        self.pool.set_driver(Some(interrupt));
        Ok(())
    }

    /// What is plugged stays plugged (5.15.5.2).
    fn reset(&mut self) {
        self.pool.set_driver(None);
        self.worker = None;
    }
}

/// Performs one chain; returns the number of bytes written to guest memory. Without room for the answer nothing is done.
fn serve(pool: &Pool, memory: &GuestMemory, chain: Chain<'_>) -> u32 {
    let Some((readable, room)) = Buffers::split(memory, chain) else {
        return 0;
    };
    if room.len() < RESPONSE_BYTES {
        return 0;
    }
    let response = request::parse(&readable).map_or(Response::Error, |request| pool.perform(request));
    room.copy_from(&response.bytes()) as u32
}

#[cfg(test)]
#[path = "device_test.rs"]
mod device_test;
