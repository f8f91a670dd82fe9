//! Memory device (virtio 1.2, 5.15): memory that the guest takes and gives back while it runs.
//!
//! The device says how much the guest shall have of one region (`requested_size`) and interrupts it. The driver reads that, chooses
//! blocks, and asks to have them plugged or unplugged, one request at a time, until it has as much or can do no more. A driver that
//! finds blocks plugged when it starts, because another one was there before, asks to have all unplugged.
//!
//! What may go wrong: a request is cut short, or means blocks that are not there, are plugged already, or are more than the guest
//! shall have. It is refused, and nothing changes. A guest that touches memory without asking finds none, but for the chunks of which
//! it has a block. All that it can ever occupy is the most that it was told to have, rounded up to chunks.
//!
//! A request is parsed (`request`), decided (`state`) and performed (`pool`).

mod device;
mod pool;
mod request;
mod state;

pub use device::MemDevice;
pub use pool::{Memslots, Pool};
pub use state::BLOCK;
