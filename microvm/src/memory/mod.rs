//! Guest-physical memory: where everything lies, what the guest uses as RAM, and pages that it may only read.

pub mod guest;
pub mod layout;
pub mod ram;
pub mod read_only;

pub use guest::GuestMemory;
pub use layout::{Hotplug, Layout};

/// Size of a page, in bytes.
pub const PAGE_SIZE: u64 = 4096;
