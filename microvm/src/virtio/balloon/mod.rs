//! Balloon device (virtio 1.2, 5.5), for free page reporting: the driver names memory that it does not use, some seconds after it was
//! freed, and the host takes the pages back. The guest uses them again without asking.
//!
//! The balloon itself is never asked to grow (`num_pages` stays 0). A driver that inflates it all the same gives pages back too.
//!
//! What may go wrong: pages that are no memory, more than any driver names at a time, half a page number. They are ignored, alone;
//! everything else of the buffer counts.

mod device;
mod pages;

pub use device::BalloonDevice;
