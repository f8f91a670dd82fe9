use super::*;
use crate::virtio::vsock::handle::MAX_CONNECTIONS;

#[test]
fn credit_is_the_peers_buffer_less_what_is_under_way() {
    let mut credit = Credit::new(RECEIVE_BUFFER);
    assert_eq!(credit.available(), 0);
    credit.heard(1000, 0);
    credit.send(400);
    assert_eq!(credit.available(), 600);
    credit.heard(1000, 400);
    assert_eq!(credit.available(), 1000);
}

#[test]
fn counters_wrap() {
    let mut credit = Credit {
        sent: u32::MAX - 9,
        peer_taken: u32::MAX - 9,
        peer_buffer: 100,
        ..Credit::new(RECEIVE_BUFFER)
    };
    credit.send(50);
    assert_eq!(credit.available(), 50);
    credit.heard(100, 40);
    assert_eq!(credit.available(), 100);
}

#[test]
fn a_peer_that_took_more_than_it_was_sent_or_shrank_its_buffer_gets_nothing() {
    let mut credit = Credit::new(RECEIVE_BUFFER);
    credit.heard(1000, 1);
    assert_eq!(credit.available(), 0);
    credit.heard(1000, 0);
    credit.send(800);
    credit.heard(500, 0);
    assert_eq!(credit.available(), 0);
}

#[test]
fn overrunning_the_window_is_noticed() {
    let mut credit = Credit::new(RECEIVE_BUFFER);
    assert!(credit.receive(RECEIVE_BUFFER));
    assert!(!credit.receive(1));
    let mut credit = Credit::new(RECEIVE_BUFFER);
    assert!(!credit.receive(u32::MAX));
}

#[test]
fn the_guest_hears_of_room_when_half_of_the_window_was_taken() {
    let mut credit = Credit::new(RECEIVE_BUFFER);
    assert!(credit.receive(RECEIVE_BUFFER));
    assert!(!credit.take(RECEIVE_BUFFER / 2 - 1));
    assert!(credit.take(1));
    assert_eq!(credit.granted(), (RECEIVE_BUFFER, RECEIVE_BUFFER / 2));
    credit.announced();
    assert!(!credit.take(1));
}

#[test]
fn the_buffers_of_all_connections_together_stay_within_the_budget() {
    let mut budget = Budget::default();
    let sizes: Vec<u32> = (0..MAX_CONNECTIONS).map(|_| budget.take()).collect();
    assert_eq!(sizes[..100], [RECEIVE_BUFFER; 100]);
    assert_eq!(sizes.last(), Some(&LEAST));
    assert!(sizes.iter().sum::<u32>() <= BUDGET + MAX_CONNECTIONS as u32 * LEAST);
    // Many that come and go change nothing for those that stay.
    for _ in 0..100_000 {
        let size = budget.take();
        assert_eq!(size, LEAST);
        budget.give_back(size);
    }
    for size in sizes {
        budget.give_back(size);
    }
    assert_eq!(budget.take(), RECEIVE_BUFFER);
}
