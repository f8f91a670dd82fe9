//! Message-signalled interrupts of one function (PCI Local Bus 3.0, 6.8.2): the vector table, the pending bits, and delivery.

use crate::interrupts::SharedMsiSink;

/// Capability id.
pub const CAPABILITY: u8 = 0x11;
/// Offset of the message control register in the capability.
pub const CONTROL_OFFSET: usize = 2;
/// Bits of the message control register that the guest writes: enable and function mask.
pub const CONTROL_WRITABLE: u16 = CONTROL_ENABLE | CONTROL_MASK_ALL;
/// Bytes of one table entry.
pub const ENTRY_BYTES: u64 = 16;

const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK_ALL: u16 = 1 << 14;
const VECTOR_MASKED: u32 = 1;

/// One table entry.
#[derive(Debug, Clone, Copy)]
struct Vector {
    address_low: u32,
    address_high: u32,
    data: u32,
    control: u32,
    pending: bool,
}

/// The interrupts of one function. The owner keeps it under a lock.
pub struct Msix {
    vectors: Vec<Vector>,
    control: u16,
    sink: SharedMsiSink,
}

impl Msix {
    /// `count` vectors, all masked, as after a reset.
    pub fn new(count: u16, sink: SharedMsiSink) -> Msix {
        let vector = Vector {
            address_low: 0,
            address_high: 0,
            data: 0,
            control: VECTOR_MASKED,
            pending: false,
        };
        Msix {
            vectors: vec![vector; count.into()],
            control: 0,
            sink,
        }
    }

    /// How many vectors there are.
    pub fn count(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// Whether the driver uses MSI-X at all.
    pub fn is_enabled(&self) -> bool {
        self.control & CONTROL_ENABLE != 0
    }

    /// The message control register changed.
    pub fn set_control(&mut self, control: u16) {
        self.control = control & CONTROL_WRITABLE;
        self.deliver_pending();
    }

    /// Raises a vector: delivers it, or notes it while it is masked. A vector that does not exist is dropped.
    pub fn signal(&mut self, index: u16) {
        let open = self.is_open();
        if let Some(vector) = self.vectors.get_mut(usize::from(index)) {
            if open && vector.control & VECTOR_MASKED == 0 {
                self.sink.send(vector.address(), vector.data);
            } else {
                vector.pending = true;
            }
        }
    }

    /// Reads from the table, in 32-bit registers as the standard demands; anything else reads as zero.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (at, bytes) in (offset..).step_by(4).zip(data.chunks_exact_mut(4)) {
            if let Some(vector) = self.vectors.get((at / ENTRY_BYTES) as usize) {
                bytes.copy_from_slice(&vector.register(at % ENTRY_BYTES).to_le_bytes());
            }
        }
    }

    /// Writes to the table, in 32-bit registers; anything else is dropped.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        for (at, bytes) in (offset..).step_by(4).zip(data.chunks_exact(4)) {
            if let (Some(vector), Ok(bytes)) = (self.vectors.get_mut((at / ENTRY_BYTES) as usize), bytes.try_into()) {
                vector.set_register(at % ENTRY_BYTES, u32::from_le_bytes(bytes));
            }
        }
        self.deliver_pending();
    }

    /// Reads from the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let first = usize::try_from(at).unwrap_or(usize::MAX).saturating_mul(8);
            let bits = self.vectors.iter().skip(first).take(8).enumerate();
            *byte = bits.fold(0, |byte, (bit, vector)| byte | u8::from(vector.pending) << bit);
        }
    }

    fn is_open(&self) -> bool {
        self.control & (CONTROL_ENABLE | CONTROL_MASK_ALL) == CONTROL_ENABLE
    }

    fn deliver_pending(&mut self) {
        if self.is_open() {
            for vector in self
                .vectors
                .iter_mut()
                .filter(|vector| vector.control & VECTOR_MASKED == 0)
            {
                if std::mem::take(&mut vector.pending) {
                    self.sink.send(vector.address(), vector.data);
                }
            }
        }
    }
}

impl Vector {
    fn address(&self) -> u64 {
        u64::from(self.address_high) << 32 | u64::from(self.address_low)
    }

    fn register(&self, offset: u64) -> u32 {
        match offset {
            0 => self.address_low,
            4 => self.address_high,
            8 => self.data,
            12 => self.control,
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        match offset {
            0 => self.address_low = value,
            4 => self.address_high = value,
            8 => self.data = value,
            12 => self.control = value & VECTOR_MASKED,
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "msix_test.rs"]
mod msix_test;
