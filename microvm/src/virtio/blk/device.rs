//! The register side of the device and its worker.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::SECTOR;
use super::disk::Disk;
use super::request::{self, MAX_RANGE_SECTORS, MAX_RANGES};
use crate::jail::ThreadKind;
use crate::virtio::buffers::copy_config;
use crate::virtio::device::{ActivateError, Activation, GuestMemory, VirtioDevice};
use crate::virtio::ring::{self, Chain, Ring};
use crate::virtio::worker::QueueWorker;

const QUEUE_SIZES: [u16; 1] = [128];

/// Data descriptors of one request: the queue less header and status.
const SEGMENTS: u32 = QUEUE_SIZES[0] as u32 - 2;

/// The device.
#[derive(Debug)]
pub struct BlkDevice {
    disk: Disk,
    config: [u8; 60],
    worker: Option<QueueWorker>,
}

impl BlkDevice {
    /// Not active.
    pub fn new(disk: Disk) -> BlkDevice {
        let config = config(disk.bounds().capacity);
        BlkDevice {
            disk,
            config,
            worker: None,
        }
    }
}

/// struct virtio_blk_config (virtio 1.2, 5.2.4).
fn config(capacity: u64) -> [u8; 60] {
    let mut bytes = [0u8; 60];
    let mut put = |offset: usize, value: &[u8]| {
        for (to, from) in bytes.iter_mut().skip(offset).zip(value) {
            *to = *from;
        }
    };
    put(0, &(capacity / SECTOR).to_le_bytes());
    put(12, &SEGMENTS.to_le_bytes());
    put(34, &1u16.to_le_bytes()); // queues
    put(36, &MAX_RANGE_SECTORS.to_le_bytes()); // discard
    put(40, &(MAX_RANGES as u32).to_le_bytes());
    put(44, &1u32.to_le_bytes()); // alignment in sectors
    put(48, &MAX_RANGE_SECTORS.to_le_bytes()); // write zeroes
    put(52, &(MAX_RANGES as u32).to_le_bytes());
    put(56, &[1]); // may unmap
    bytes
}

impl VirtioDevice for BlkDevice {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        let common = ring::FEATURES | 1 << VIRTIO_BLK_F_SEG_MAX;
        if self.disk.bounds().read_only {
            common | 1 << VIRTIO_BLK_F_RO
        } else {
            common | 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let failed = |reason: String| ActivateError { device: "blk", reason };
        let (memory, ring) = Ring::only("blk", activation)?;
        let disk = self.disk.try_clone().map_err(|error| failed(error.to_string()))?;
        let serve = move |memory: &GuestMemory, _queue: u16, chain: Chain<'_>| serve(&disk, memory, chain);
        let worker = QueueWorker::start("blk", ThreadKind::Block, memory, vec![ring], serve)?;
        self.worker = Some(worker);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

/// Performs one chain; returns the number of bytes written to guest memory.
fn serve(disk: &Disk, memory: &GuestMemory, chain: Chain<'_>) -> u32 {
    let Some(parsed) = request::parse(memory, chain, disk.bounds()) else {
        return 0;
    };
    let (status, filled) = match &parsed.request {
        Ok(request) => disk.perform(request),
        Err(status) => (*status, 0),
    };
    filled.saturating_add(parsed.status.copy_from(&[status as u8]) as u32)
}

#[cfg(test)]
#[path = "device_test.rs"]
mod device_test;
