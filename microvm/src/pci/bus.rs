//! The slots, and which function an access means.

use std::sync::{Arc, Mutex, RwLock};

use thiserror::Error;

use super::PciFunction;
use crate::memory::read_only::PublishedPages;
use crate::sync::{lock, read, write};

/// Slots of the bus.
pub const SLOTS: usize = 32;

/// Configuration space of one function (ECAM), and of one slot with its eight functions, in bytes.
const FUNCTION_BYTES: u64 = 4096;
const SLOT_BYTES: u64 = 8 * FUNCTION_BYTES;

/// Slot 0 is where a host bridge would be.
const FIRST_SLOT: usize = 1;

/// What is wrong with a slot.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BusError {
    /// No room.
    #[error("all {} slots of the PCI bus are taken", SLOTS - FIRST_SLOT)]
    Full,
}

type Shared = Arc<Mutex<dyn PciFunction>>;

#[derive(Clone)]
struct Slot {
    function: Shared,
    /// Where BAR 0 answers now, so that a lookup needs no function's lock.
    bar: Option<(u64, u64)>,
}

/// The bus. Only function 0 of each slot is ever there.
pub struct PciBus {
    /// Guards which functions there are, never their content.
    slots: RwLock<[Option<Slot>; SLOTS]>,
    ecam: PublishedPages,
}

impl PciBus {
    /// An empty bus that shows its configuration space in `ecam`.
    pub fn new(ecam: PublishedPages) -> PciBus {
        PciBus {
            slots: RwLock::new([const { None }; SLOTS]),
            ecam,
        }
    }

    /// The pages to show the guest as configuration space.
    pub fn ecam(&self) -> &PublishedPages {
        &self.ecam
    }

    /// Main thread: puts the function that `make` builds for the first free slot there; returns the slot.
    pub fn add<F, E>(&self, make: impl FnOnce(u8) -> Result<F, E>) -> Result<u8, E>
    where
        F: PciFunction + 'static,
        E: From<BusError>,
    {
        let mut slots = write(&self.slots);
        let free = slots
            .iter_mut()
            .enumerate()
            .skip(FIRST_SLOT)
            .find(|(_, slot)| slot.is_none());
        let (index, slot) = free.ok_or(BusError::Full)?;
        let function = make(index as u8)?;
        self.ecam
            .publish(index * SLOT_BYTES as usize, function.config().bytes());
        let bar = function.config().bar();
        *slot = Some(Slot {
            function: Arc::new(Mutex::new(function)),
            bar,
        });
        Ok(index as u8)
    }

    /// Main thread: takes the function out of a slot and ends it. False: nothing was there.
    pub fn remove(&self, slot: u8) -> bool {
        let removed = {
            let mut slots = write(&self.slots);
            slots.get_mut(usize::from(slot)).and_then(Option::take)
        };
        let Some(removed) = removed else { return false };
        let zeros = [0u8; 256];
        self.ecam.publish(usize::from(slot) * SLOT_BYTES as usize, &zeros);
        lock(&removed.function).shut_down();
        true
    }

    /// Main thread: ends every function.
    pub fn shut_down(&self) {
        for slot in 0..SLOTS as u8 {
            self.remove(slot);
        }
    }

    fn slot(&self, index: usize) -> Option<Slot> {
        read(&self.slots).get(index)?.clone()
    }

    /// The function whose BAR holds `address`, and the offset in it.
    fn at(&self, address: u64) -> Option<(usize, Shared, u64)> {
        let slots = read(&self.slots);
        slots.iter().enumerate().find_map(|(index, slot)| {
            let slot = slot.as_ref()?;
            let (base, size) = slot.bar?;
            let offset = address.checked_sub(base).filter(|offset| *offset < size)?;
            Some((index, slot.function.clone(), offset))
        })
    }

    /// vCPU thread: a read of configuration space that was not served from the pages.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some((index, register)) = locate(offset)
            && let Some(slot) = self.slot(index)
        {
            lock(&slot.function).config().read(register, data);
        }
    }

    /// vCPU thread: a write to configuration space.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        let Some((index, register)) = locate(offset) else {
            return;
        };
        let Some(slot) = self.slot(index) else { return };
        let mut function = lock(&slot.function);
        function.write_config(register, data);
        self.publish(index, &slot.function, &*function);
    }

    /// vCPU thread: a read from a BAR.
    pub fn read_memory(&self, address: u64, data: &mut [u8]) {
        if let Some((_, function, offset)) = self.at(address) {
            lock(&function).read_bar(offset, data);
        }
    }

    /// vCPU thread: a write to a BAR.
    pub fn write_memory(&self, address: u64, data: &[u8]) {
        if let Some((_, function, offset)) = self.at(address) {
            lock(&function).write_bar(offset, data);
        }
    }

    /// Shows the registers of a function to the guest and notes where its BAR is. Called under the function's lock, so that two
    /// writers cannot publish in the wrong order; a function that was removed meanwhile stays invisible.
    fn publish(&self, index: usize, shared: &Shared, function: &dyn PciFunction) {
        let mut slots = write(&self.slots);
        if let Some(Some(slot)) = slots.get_mut(index)
            && Arc::ptr_eq(&slot.function, shared)
        {
            slot.bar = function.config().bar();
            self.ecam
                .publish(index * SLOT_BYTES as usize, function.config().bytes());
        }
    }
}

/// Slot and register of an offset in configuration space; `None` for functions other than 0.
fn locate(offset: u64) -> Option<(usize, usize)> {
    let within = offset % SLOT_BYTES;
    (within < FUNCTION_BYTES).then_some(((offset / SLOT_BYTES) as usize, within as usize))
}

#[cfg(test)]
#[path = "bus_test.rs"]
mod bus_test;
