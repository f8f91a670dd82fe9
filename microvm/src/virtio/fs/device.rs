//! The file-system device as the transport sees it.

use std::sync::Arc;

use thiserror::Error;

use super::pool::Pool;
use crate::file_server::{FileServer, ServerMemory};
use crate::virtio::buffers::copy_config;
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::ring::{self, Ring};

/// File-system device (virtio 1.2, 5.11.1).
const DEVICE_TYPE: u32 = 26;

/// The high-priority queue, which carries FORGET, and one request queue. Linux limits a request to the queue's size less four
/// pages, so this one lets it reach the server's bound of 1 MiB.
const QUEUE_SIZES: [u16; 2] = [64, 512];

/// Bytes of the tag in config space.
const TAG_SIZE: usize = 36;

/// Why there is no such device.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FsDeviceError {
    /// The tag does not fit.
    #[error("file-system tag {0:?} must have 1 to {TAG_SIZE} bytes")]
    Tag(String),
}

/// A share of the host that the guest mounts by its tag.
pub struct FsDevice {
    config: [u8; TAG_SIZE + 4],
    server: Arc<FileServer>,
    running: Option<Pool>,
}

impl FsDevice {
    /// A device that offers `server` under `tag`.
    pub fn new(tag: &str, server: FileServer) -> Result<FsDevice, FsDeviceError> {
        let mut config = [0; TAG_SIZE + 4];
        let (name, request_queues) = config.split_at_mut(TAG_SIZE);
        match name.get_mut(..tag.len()) {
            Some(name) if !tag.is_empty() => name.copy_from_slice(tag.as_bytes()),
            _ => return Err(FsDeviceError::Tag(tag.to_owned())),
        }
        request_queues.copy_from_slice(&1u32.to_le_bytes());
        Ok(FsDevice {
            config,
            server: Arc::new(server),
            running: None,
        })
    }

    fn start(&self, activation: Activation) -> Result<Pool, String> {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
        } = activation;
        let mut rings = Vec::with_capacity(QUEUE_SIZES.len());
        for (index, active) in (0..).zip(queues) {
            let active = active.ok_or_else(|| format!("the driver left queue {index} disabled"))?;
            rings.push(Ring::new(active, index, features, Arc::clone(&interrupt)));
        }
        let memory = ServerMemory::new(memory).map_err(|e| format!("guest memory cannot be shared: {e}"))?;
        Pool::start(Arc::clone(&self.server), memory, rings).map_err(|e| e.to_string())
    }
}

impl VirtioDevice for FsDevice {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        ring::FEATURES
    }

    /// `struct virtio_fs_config` (5.11.4): the tag, then the number of request queues.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        self.running = Some(
            self.start(activation)
                .map_err(|reason| ActivateError { device: "fs", reason })?,
        );
        Ok(())
    }

    /// Waits for requests that are being served: a host file system that never answers keeps this waiting.
    fn reset(&mut self) {
        if let Some(pool) = self.running.take() {
            pool.stop();
            self.server.forget_all();
        }
    }
}

impl Drop for FsDevice {
    fn drop(&mut self) {
        self.reset();
    }
}
