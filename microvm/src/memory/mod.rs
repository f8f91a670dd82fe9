//! Guest-physical memory: where everything lies, the guest's RAM, and pages that the guest may only read.

pub mod layout;
pub mod ram;
pub mod read_only;

pub use layout::Layout;

/// Size of a page, in bytes.
pub const PAGE_SIZE: u64 = 4096;
