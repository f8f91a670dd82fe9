//! Entropy device (virtio 1.2, 5.4): fills buffers from the host's random pool.

use nix::errno::Errno;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::buffers::{Buffers, Direction};
use super::device::{ActivateError, Activation, GuestMemory, VirtioDevice};
use super::ring::{self, Chain, Ring};
use super::worker::QueueWorker;
use crate::jail::ThreadKind;

const QUEUE_SIZES: [u16; 1] = [64];

/// Most bytes for one request: what the host's pool gives without being interrupted.
const MAX_BYTES: usize = 256;

/// The device.
#[derive(Debug, Default)]
pub struct RngDevice {
    worker: Option<QueueWorker>,
}

impl RngDevice {
    /// Not active.
    pub fn new() -> RngDevice {
        RngDevice::default()
    }
}

impl VirtioDevice for RngDevice {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        ring::FEATURES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let (memory, ring) = Ring::only("rng", activation)?;
        let worker = QueueWorker::start("rng", ThreadKind::Block, memory, vec![ring], fill)?;
        self.worker = Some(worker);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

/// Fills one chain; returns how many bytes it got. A chain that cannot be written gets none.
fn fill(memory: &GuestMemory, _queue: u16, chain: Chain<'_>) -> u32 {
    let Ok(buffers) = Buffers::collect(memory, chain, Direction::Writable) else {
        return 0;
    };
    let mut bytes = [0u8; MAX_BYTES];
    let wanted = bytes.get_mut(..buffers.len().min(MAX_BYTES)).unwrap_or_default();
    match random(wanted) {
        Ok(()) => buffers.copy_from(wanted) as u32,
        Err(error) => {
            tracing::warn!("rng: cannot read random bytes: {error}");
            0
        }
    }
}

/// Fills `bytes`, at most 256, with random bytes: a call of that size is never cut short.
#[allow(unsafe_code)]
pub fn random(bytes: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: pointer and length are of one live, writable slice.
    let done = unsafe { nix::libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if Errno::result(done)? as usize == bytes.len() {
        Ok(())
    } else {
        Err(Errno::EIO)
    }
}

#[cfg(test)]
#[path = "rng_test.rs"]
mod rng_test;
