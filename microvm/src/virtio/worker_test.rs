use std::sync::mpsc::channel;

use super::*;
use crate::virtio::testing::{FakeQueue, Piece, counting_interrupt, guest_memory};

fn start<H>(memory: &GuestMemory, rings: Vec<Ring>, handle: H) -> QueueWorker
where
    H: for<'m> FnMut(&'m GuestMemory, u16, Chain<'m>) -> u32 + Send + 'static,
{
    QueueWorker::start("test", ThreadKind::Block, memory.clone(), rings, handle).unwrap()
}

#[test]
fn chains_are_served_and_interrupts_sent_until_the_worker_is_dropped() {
    let memory = guest_memory(1 << 20);
    let interrupt = counting_interrupt();
    let (mut driver, active) = FakeQueue::new(&memory, 0, 8);
    let ring = Ring::new(active, 0, 0, interrupt.clone());
    let worker = start(&memory, vec![ring], |_, _, chain| chain.count() as u32);
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
    let worker = start(&memory, vec![ring], move |_, _, _| {
        served.send(()).unwrap();
        0
    });
    driver.set_available(1000);
    driver.kick();
    assert!(serving.recv_timeout(std::time::Duration::from_millis(50)).is_err());
    drop(worker);
}

#[test]
fn one_worker_serves_several_queues_and_tells_them_apart() {
    let memory = guest_memory(1 << 20);
    let interrupt = counting_interrupt();
    let (mut first, first_active) = FakeQueue::new(&memory, 0, 8);
    let (mut third, third_active) = FakeQueue::new(&memory, 0x1000, 8);
    let rings = vec![
        Ring::new(first_active, 0, 0, interrupt.clone()),
        Ring::new(third_active, 2, 0, interrupt.clone()),
    ];
    let worker = start(&memory, rings, |_, queue, _| 100 + u32::from(queue));
    let piece = Piece {
        at: 0x8000,
        len: 8,
        writable: true,
    };
    for _ in 0..3 {
        third.add(&[piece]);
        third.kick();
        assert_eq!(third.wait_used("a chain of the third queue").1, 102);
        first.add(&[piece]);
        first.kick();
        assert_eq!(first.wait_used("a chain of the first queue").1, 100);
    }
    drop(worker);
    assert!(interrupt.count(0) >= 1 && interrupt.count(1) == 0 && interrupt.count(2) >= 1);
}
