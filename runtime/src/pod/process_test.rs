use super::Process;
use crate::pod::types::{Status, StdioPaths};

fn process() -> Process {
    Process::new("c", Some("e"), StdioPaths::default(), (0, 0))
}

#[tokio::test]
async fn an_end_during_the_start_is_final() {
    let process = process();
    assert!(process.finish(3));
    process.set_running();
    assert_eq!(process.status(), Status::Stopped);
    assert!(!process.finish(4));
    assert_eq!(process.wait().await.unwrap().status, 3);
}

#[tokio::test]
async fn all_waiters_are_told() {
    let process = std::sync::Arc::new(process());
    process.set_running();
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let process = process.clone();
            tokio::spawn(async move { process.wait().await.unwrap().status })
        })
        .collect();
    tokio::task::yield_now().await;
    process.finish(9);
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap(), 9);
    }
}
