use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;

/// Rings with each alarm, and how often it rang.
fn alarm(crowd: &Crowd, rung: &Arc<AtomicUsize>) {
    let rung = rung.clone();
    crowd.when_many(Box::new(move || {
        rung.fetch_add(1, Ordering::SeqCst);
    }));
}

fn join(crowd: &Crowd, count: usize) {
    (0..count).for_each(|_| crowd.joined());
}

fn errno(result: io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn the_alarm_rings_once_at_three_quarters() {
    let (crowd, rung) = (Crowd::new(64), Arc::default());
    alarm(&crowd, &rung);
    join(&crowd, 47);
    assert_eq!(rung.load(Ordering::SeqCst), 0);
    join(&crowd, 10);
    assert_eq!(rung.load(Ordering::SeqCst), 1);
}

#[test]
fn what_an_alarm_left_is_worth_none_until_more_have_come() {
    let (crowd, rung) = (Crowd::new(64), Arc::default());
    alarm(&crowd, &rung);
    join(&crowd, 60);
    crowd.left(10);
    alarm(&crowd, &rung);
    join(&crowd, 3);
    assert_eq!(rung.load(Ordering::SeqCst), 1);
    join(&crowd, 1);
    assert_eq!(rung.load(Ordering::SeqCst), 2);
    crowd.left(54);
    alarm(&crowd, &rung);
    join(&crowd, 47);
    assert_eq!(rung.load(Ordering::SeqCst), 2);
    join(&crowd, 1);
    assert_eq!(rung.load(Ordering::SeqCst), 3);
}

#[test]
fn a_request_waits_until_one_is_forgotten() {
    let (crowd, rung) = (Arc::new(Crowd::new(16)), Arc::new(AtomicUsize::new(0)));
    join(&crowd, 16);
    assert!(crowd.is_full());
    // Whoever is told forgets one, on another thread and later.
    let forgetful = crowd.clone();
    let told = rung.clone();
    crowd.when_many(Box::new(move || {
        told.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            forgetful.left(1);
        });
    }));
    crowd.wait_for_room().unwrap();
    assert_eq!(rung.load(Ordering::SeqCst), 1);
    assert!(!crowd.is_full());
    crowd.wait_for_room().unwrap();
}

#[test]
fn a_request_that_waited_in_vain_makes_the_next_ones_hasty() {
    let crowd = Crowd::new(4);
    join(&crowd, 4);
    let start = Instant::now();
    assert_eq!(errno(crowd.wait_for_room()), Some(libc::ENFILE));
    assert!(start.elapsed() >= PATIENCE);
    let start = Instant::now();
    assert_eq!(errno(crowd.wait_for_room()), Some(libc::ENFILE));
    assert!(start.elapsed() < PATIENCE);
    // It was told, so that those who have stopped using files can be asked again.
    let rung = Arc::default();
    alarm(&crowd, &rung);
    assert_eq!(errno(crowd.wait_for_room()), Some(libc::ENFILE));
    assert_eq!(rung.load(Ordering::SeqCst), 1);
    crowd.left(1);
    crowd.wait_for_room().unwrap();
}
