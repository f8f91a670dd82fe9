use std::sync::Arc;
use std::thread;

use super::*;
use crate::virtio::testing::wait_for;

#[test]
fn who_comes_to_a_closed_gate_goes_on_when_it_is_opened() {
    let gate = Arc::new(Gate::default());
    gate.pass();
    gate.close();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let gate = gate.clone();
            thread::spawn(move || gate.pass())
        })
        .collect();
    wait_for("all to wait", || (gate.waiting() == 3).then_some(()));
    assert!(threads.iter().all(|thread| !thread.is_finished()));
    gate.open();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(gate.waiting(), 0);
    gate.pass();
}
