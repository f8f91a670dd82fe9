//! One PCI bus with its configuration space as memory (ECAM).
//!
//! The guest reads configuration space from read-only pages, without exits: every function publishes its registers there
//! whenever they change. Absent functions read as zero, which Linux takes for absent. Writes exit and come here.
//!
//! Distrusts the guest: offsets, lengths and values are its choice.

mod bus;
mod config;
pub mod msix;

pub use bus::{BusError, PciBus, SLOTS};
pub use config::{BAR_0, ConfigSpace, Identity};

/// A function on the bus. The bus calls every method under the function's own lock, so calls never overlap.
pub trait PciFunction: Send {
    /// Its registers.
    fn config(&self) -> &ConfigSpace;

    /// The guest wrote to a register.
    fn write_config(&mut self, offset: usize, data: &[u8]);

    /// The guest reads from BAR 0.
    fn read_bar(&mut self, offset: u64, data: &mut [u8]);

    /// The guest writes to BAR 0.
    fn write_bar(&mut self, offset: u64, data: &[u8]);

    /// The function leaves the bus: stops everything it runs. Called once, last.
    fn shut_down(&mut self);
}
