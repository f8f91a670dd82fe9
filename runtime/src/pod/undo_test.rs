use std::sync::mpsc;
use std::time::Duration;

use super::Undo;
use crate::error::Error;

#[test]
fn steps_run_last_first_and_a_failure_does_not_stop_them() {
    let (tx, rx) = mpsc::channel();
    let mut undo = Undo::default();
    for n in 1..=3 {
        let tx = tx.clone();
        undo.push(format!("step {n}"), move || {
            tx.send(n).unwrap();
            if n == 2 { Err(Error::internal("stuck")) } else { Ok(()) }
        });
    }
    assert_eq!(undo.run().unwrap_err().to_string(), "stuck");
    assert_eq!(rx.try_iter().collect::<Vec<_>>(), [3, 2, 1]);
    undo.run().unwrap();
}

#[test]
fn a_dropped_stack_runs_its_steps() {
    let (tx, rx) = mpsc::channel();
    let mut outer = Undo::default();
    let mut inner = Undo::default();
    inner.push("x", move || {
        tx.send(()).unwrap();
        Ok(())
    });
    outer.append(inner);
    drop(outer);
    rx.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[tokio::test]
async fn the_steps_of_one_that_is_stuck_are_run_by_another() {
    let (tx, rx) = mpsc::channel();
    let mut undo = Undo::default();
    let push = |undo: &mut Undo, n: u32| {
        let tx = tx.clone();
        undo.push(format!("step {n}"), move || {
            tx.send(n).unwrap();
            Ok(())
        });
    };
    push(&mut undo, 1);
    push(&mut undo, 2);
    undo.remote().run_async().await.unwrap();
    push(&mut undo, 3);
    undo.run().unwrap();
    assert_eq!(rx.try_iter().collect::<Vec<_>>(), [2, 1, 3]);
}
