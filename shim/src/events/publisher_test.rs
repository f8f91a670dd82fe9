use std::path::Path;

use async_trait::async_trait;
use containerd_shim_protos::api::Empty;
use containerd_shim_protos::events::task::{TaskExit, TaskStart};
use containerd_shim_protos::shim_async::{Events, create_events};
use protobuf::Message;
use tokio::sync::mpsc;
use ttrpc::r#async::transport::Listener;
use ttrpc::r#async::{Server, TtrpcContext};

use super::super::envelope;
use super::*;

struct Containerd {
    seen: mpsc::UnboundedSender<Envelope>,
    refuse: Option<&'static str>,
}

#[async_trait]
impl Events for Containerd {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let event = request.envelope.unwrap_or_default();
        if self.refuse == Some(&event.topic) {
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(
                ttrpc::Code::INVALID_ARGUMENT,
                "no".to_owned(),
            )));
        }
        self.seen.send(event).unwrap();
        Ok(Empty::default())
    }
}

async fn containerd(path: &Path, refuse: Option<&'static str>) -> (Server, mpsc::UnboundedReceiver<Envelope>) {
    let _ = std::fs::remove_file(path);
    let (seen, events) = mpsc::unbounded_channel();
    let listener = Listener::try_from(std::os::unix::net::UnixListener::bind(path).unwrap()).unwrap();
    let service = create_events(Arc::new(Containerd { seen, refuse }));
    let mut server = Server::new().add_listener(listener).register_service(service);
    server.start().await.unwrap();
    (server, events)
}

fn named(topic: &str) -> Envelope {
    Envelope {
        topic: topic.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn events_arrive_in_their_order_with_topic_namespace_and_type() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.ttrpc");
    let (_server, mut events) = containerd(&path, None).await;
    let queue = Queue::default();
    queue.push(envelope(
        "ns1",
        &TaskStart {
            container_id: "c1".into(),
            pid: 7,
            ..Default::default()
        },
    ));
    queue.push(envelope(
        "ns1",
        &TaskExit {
            container_id: "c1".into(),
            exit_status: 3,
            ..Default::default()
        },
    ));
    tokio::spawn(Publisher::new(queue.clone(), path.to_str().unwrap()).run());

    let start = events.recv().await.unwrap();
    assert_eq!(
        (start.topic.as_str(), start.namespace.as_str()),
        ("/tasks/start", "ns1")
    );
    assert_eq!(start.event.type_url, "containerd.events.TaskStart");
    assert_eq!(TaskStart::parse_from_bytes(&start.event.value).unwrap().pid, 7);
    assert!(start.timestamp.seconds > 0);
    assert_eq!(events.recv().await.unwrap().topic, "/tasks/exit");
    queue.flush(Duration::from_secs(5)).await;
    assert!(queue.drain().is_empty());
}

#[tokio::test]
async fn events_wait_for_a_containerd_that_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.ttrpc");
    let queue = Queue::default();
    tokio::spawn(Publisher::new(queue.clone(), &format!("unix://{}", path.display())).run());
    queue.push(named("/1"));
    tokio::time::sleep(Duration::from_millis(200)).await;

    let (mut server, mut events) = containerd(&path, None).await;
    assert_eq!(events.recv().await.unwrap().topic, "/1");
    queue.flush(Duration::from_secs(5)).await;
    server.shutdown().await.unwrap();
    drop(server);

    queue.push(named("/2"));
    queue.push(named("/3"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (_server, mut events) = containerd(&path, None).await;
    assert_eq!(events.recv().await.unwrap().topic, "/2");
    assert_eq!(events.recv().await.unwrap().topic, "/3");
}

#[tokio::test]
async fn a_refused_event_does_not_hold_up_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.ttrpc");
    let (_server, mut events) = containerd(&path, Some("/bad")).await;
    let queue = Queue::default();
    queue.push(named("/bad"));
    queue.push(named("/good"));
    tokio::spawn(Publisher::new(queue.clone(), path.to_str().unwrap()).run());
    assert_eq!(events.recv().await.unwrap().topic, "/good");
}

#[tokio::test(start_paused = true)]
async fn flush_does_not_wait_for_ever() {
    let queue = Queue::default();
    queue.push(named("/1"));
    tokio::spawn(Publisher::new(queue.clone(), "/nonexistent").run());
    let before = Instant::now();
    queue.flush(Duration::from_secs(2)).await;
    assert!(before.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_full_queue_gives_up_the_oldest() {
    let queue = Queue::default();
    for number in 0..=MAX_WAITING {
        queue.push(named(&number.to_string()));
    }
    let waiting = queue.drain();
    assert_eq!(waiting.len(), MAX_WAITING);
    assert_eq!(waiting[0].topic, "1");
}

#[test]
fn a_full_queue_gives_up_out_of_memory_events_before_exits() {
    let queue = Queue::default();
    queue.push(named("/tasks/exit"));
    for _ in 0..MAX_WAITING {
        queue.push(named(OUT_OF_MEMORY));
    }
    queue.push(named("/tasks/delete"));
    let events = queue.drain();
    assert_eq!(events.len(), MAX_WAITING);
    assert_eq!(events.first().unwrap().topic, "/tasks/exit");
    assert_eq!(events.last().unwrap().topic, "/tasks/delete");
}
