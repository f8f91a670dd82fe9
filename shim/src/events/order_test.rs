use std::sync::Arc;

use super::*;

fn named(topic: &str) -> Envelope {
    Envelope {
        topic: topic.to_owned(),
        ..Default::default()
    }
}

fn process(exec_id: Option<&str>) -> Process {
    Process {
        container: "c1".into(),
        exec_id: exec_id.map(str::to_owned),
    }
}

fn order() -> (Order, Queue) {
    let queue = Queue::default();
    (Order::new(queue.clone()), queue)
}

fn topics(queue: &Queue) -> Vec<String> {
    queue.drain().into_iter().map(|event| event.topic).collect()
}

#[test]
fn an_exit_that_comes_before_the_start_was_answered_follows_the_start() {
    let (order, queue) = order();
    assert!(order.starting(&process(None)));
    order.exited(&process(None), named("exit"));
    assert!(topics(&queue).is_empty());
    order.started(&process(None), named("start"));
    assert_eq!(topics(&queue), ["start", "exit"]);
}

#[test]
fn a_later_exit_passes_at_once() {
    let (order, queue) = order();
    assert!(order.starting(&process(None)));
    order.started(&process(None), named("start"));
    assert_eq!(topics(&queue), ["start"]);
    order.exited(&process(None), named("exit"));
    assert_eq!(topics(&queue), ["exit"]);
}

#[test]
fn a_container_killed_before_its_start_exits_too() {
    let (order, queue) = order();
    order.exited(&process(None), named("exit"));
    assert_eq!(topics(&queue), ["exit"]);
}

#[test]
fn a_failed_start_tells_the_exit_of_an_init_but_not_of_an_exec() {
    let (order, queue) = order();
    for process in [process(None), process(Some("e1"))] {
        assert!(order.starting(&process));
        order.exited(&process, named("exit"));
        order.not_started(&process);
    }
    assert_eq!(topics(&queue), ["exit"]);
    assert!(order.starting(&process(Some("e1"))), "it may be tried again");
}

#[test]
fn a_second_start_neither_loses_nor_doubles_anything() {
    let (order, queue) = order();
    assert!(order.starting(&process(None)));
    assert!(!order.starting(&process(None)));
    order.exited(&process(None), named("exit"));
    order.started(&process(None), named("start"));
    assert_eq!(topics(&queue), ["start", "exit"]);
}

#[test]
fn processes_do_not_hold_each_other_up() {
    let (order, queue) = order();
    assert!(order.starting(&process(Some("e1"))));
    order.exited(&process(Some("e1")), named("exec exit"));
    order.publish(named("oom"));
    order.exited(&process(None), named("init exit"));
    assert_eq!(topics(&queue), ["oom", "init exit"]);
}

#[tokio::test(start_paused = true)]
async fn a_delete_waits_for_the_exit_and_not_for_ever() {
    let (order, queue) = order();
    let order = Arc::new(order);
    assert!(order.starting(&process(None)));
    order.started(&process(None), named("start"));
    let waiting = tokio::spawn({
        let order = order.clone();
        async move {
            order.wait_for_exit(&process(None)).await;
            order.publish(named("delete"));
        }
    });
    tokio::task::yield_now().await;
    order.exited(&process(None), named("exit"));
    waiting.await.unwrap();
    assert_eq!(topics(&queue), ["start", "exit", "delete"]);

    assert!(order.starting(&process(None)));
    order.started(&process(None), named("start"));
    let before = tokio::time::Instant::now();
    order.wait_for_exit(&process(None)).await;
    assert!(before.elapsed() <= EXIT_EVENT_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn the_exit_of_an_init_waits_for_those_of_execs_and_not_for_ever() {
    let (order, _queue) = order();
    let order = Arc::new(order);
    let exec = process(Some("e1"));
    assert!(order.starting(&exec));
    order.started(&exec, named("start"));
    assert!(order.has_execs("c1") && !order.has_execs("c2"));
    let waiting = tokio::spawn({
        let order = order.clone();
        async move { order.wait_for_execs("c1").await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    order.exited(&exec, named("exit"));
    waiting.await.unwrap();

    assert!(order.starting(&exec));
    let before = tokio::time::Instant::now();
    order.wait_for_execs("c1").await;
    assert!(before.elapsed() <= EXECS_TIMEOUT);
}
