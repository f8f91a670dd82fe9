use std::sync::mpsc::channel;

use super::*;
use crate::virtio::testing::{FakeQueue, Piece, counting_interrupt, guest_memory};

#[test]
fn chains_are_served_and_interrupts_sent_until_the_worker_is_dropped() {
    let memory = guest_memory(1 << 20);
    let interrupt = counting_interrupt();
    let (mut driver, active) = FakeQueue::new(&memory, 0, 8);
    let ring = Ring::new(active, 0, 0, interrupt.clone());
    let worker = QueueWorker::start("test", memory.clone(), ring, |_, chain| chain.count() as u32).unwrap();
    for _ in 0..20 {
        driver.add(&[
            Piece {
                at: 0x1000,
                len: 8,
                writable: false,
            },
            Piece {
                at: 0x2000,
                len: 8,
                writable: true,
            },
        ]);
        driver.kick();
        assert_eq!(driver.wait_used("a served chain").1, 2);
    }
    assert!(interrupt.count(0) >= 1);
    drop(worker);
    driver.add(&[Piece {
        at: 0x1000,
        len: 8,
        writable: false,
    }]);
    driver.kick();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(driver.take_used(), None);
}

#[test]
fn a_broken_ring_stops_service_but_not_the_worker() {
    let memory = guest_memory(1 << 20);
    let (mut driver, active) = FakeQueue::new(&memory, 0, 8);
    let ring = Ring::new(active, 0, 0, counting_interrupt());
    let (served, serving) = channel();
    let worker = QueueWorker::start("test", memory.clone(), ring, move |_, _| {
        served.send(()).unwrap();
        0
    });
    driver.set_available(1000);
    driver.kick();
    assert!(serving.recv_timeout(std::time::Duration::from_millis(50)).is_err());
    drop(worker);
}
