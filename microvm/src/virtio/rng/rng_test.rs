use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::{FakeQueue, Piece, counting_interrupt, guest_memory};

#[test]
fn a_buffer_is_filled_and_a_request_is_bounded() {
    let memory = guest_memory(1 << 20);
    let (mut driver, active) = FakeQueue::new(&memory, 0, 8);
    let mut device = RngDevice::new();
    let interrupt = counting_interrupt();
    let activation = Activation {
        memory: memory.clone(),
        features: 0,
        queues: vec![Some(active)],
        interrupt,
    };
    device.activate(activation).unwrap();
    driver.add(&[
        Piece {
            at: 0x1000,
            len: 32,
            writable: true,
        },
        Piece {
            at: 0x2000,
            len: 4096,
            writable: true,
        },
    ]);
    driver.add(&[Piece {
        at: 0x8000,
        len: 32,
        writable: false,
    }]);
    driver.add(&[Piece {
        at: 1 << 40,
        len: 32,
        writable: true,
    }]);
    driver.kick();
    assert_eq!(driver.wait_used("random bytes").1, 256);
    assert_eq!(driver.wait_used("a refusal").1, 0);
    assert_eq!(driver.wait_used("a refusal").1, 0);
    let mut bytes = [0u8; 32];
    memory.read_slice(&mut bytes, GuestAddress(0x1000)).unwrap();
    assert_ne!(bytes, [0u8; 32]);
    device.reset();
    device.reset();
}
