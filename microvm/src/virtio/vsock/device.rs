//! The vsock device as the transport sees it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::handle::{Mailbox, VsockHandle};
use super::worker::Worker;
use crate::jail::{ThreadKind, spawn_worker};
use crate::virtio::buffers::copy_config;
use crate::virtio::device::{ActivateError, Activation, VirtioDevice};
use crate::virtio::ring::{self, Ring};

/// Socket device (virtio 1.2, 5.10.1).
const DEVICE_TYPE: u32 = 19;

/// Receive, transmit, event (5.10.2). The guest's kernel fills the receive queue with buffers of 16 KiB, so its size is also
/// guest memory, though of a buffer that holds nothing only the first page. The event queue is never used; Linux offers eight buffers in it.
const QUEUE_SIZES: [u16; 3] = [64, 64, 8];

const RX: u16 = 0;
const TX: u16 = 1;

/// Connections from the host into the guest.
pub struct VsockDevice {
    guest_cid: u64,
    mailbox: Arc<Mailbox>,
    running: Option<Running>,
}

/// The worker while the driver is ready.
struct Running {
    stop: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl VsockDevice {
    /// A device for the guest with this context id (3 or more), and the handle through which the process connects to it.
    pub fn new(guest_cid: u64) -> io::Result<(VsockDevice, VsockHandle)> {
        let mailbox = Arc::new(Mailbox::new()?);
        let handle = VsockHandle::new(Arc::clone(&mailbox));
        Ok((
            VsockDevice {
                guest_cid,
                mailbox,
                running: None,
            },
            handle,
        ))
    }

    fn start(&self, activation: Activation) -> Result<Running, String> {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
        } = activation;
        let mut queues = queues.into_iter();
        let mut ring = |index: u16| {
            let active = queues
                .next()
                .flatten()
                .ok_or_else(|| format!("the driver left queue {index} disabled"))?;
            Ok::<Ring, String>(Ring::new(active, index, features, Arc::clone(&interrupt)))
        };
        let (rx, tx) = (ring(RX)?, ring(TX)?);
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(|e| e.to_string())?;
        let stop = Arc::new(stop);
        let (mailbox, guest_cid, stopped) = (Arc::clone(&self.mailbox), self.guest_cid, Arc::clone(&stop));
        self.mailbox.open();
        let thread = spawn_worker("vsock", ThreadKind::Vsock, move || {
            match Worker::new(&memory, guest_cid, rx, tx, Arc::clone(&mailbox), stopped.as_fd()) {
                Ok(worker) => worker.run(),
                Err(error) => tracing::error!(%error, "cannot set up the vsock worker; vsock is dead"),
            }
            mailbox.close();
        })
        .map_err(|e| {
            self.mailbox.close();
            e.to_string()
        })?;
        Ok(Running { stop, thread })
    }
}

impl VirtioDevice for VsockDevice {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        ring::FEATURES
    }

    /// `struct virtio_vsock_config` (5.10.4): the guest's context id.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let running = self.start(activation).map_err(|reason| ActivateError {
            device: "vsock",
            reason,
        })?;
        self.running = Some(running);
        Ok(())
    }

    /// Every connection is closed. The worker touches no guest memory after this.
    fn reset(&mut self) {
        let Some(Running { stop, thread }) = self.running.take() else {
            return;
        };
        // An eventfd that is full is readable too.
        let _ = stop.write(1);
        if thread.join().is_err() {
            tracing::error!("the vsock worker panicked");
        }
    }
}

impl Drop for VsockDevice {
    fn drop(&mut self) {
        self.reset();
    }
}
