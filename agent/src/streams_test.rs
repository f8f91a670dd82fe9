use super::*;
use std::os::unix::net::UnixListener;
use tokio::io::AsyncWriteExt;

struct Meeting {
    streams: Arc<Streams>,
    path: std::path::PathBuf,
}

impl Meeting {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("streams-test-{}-{name}", std::process::id()));
        let listener = Listener::from_fd(UnixListener::bind(&path).unwrap().into()).unwrap();
        let streams = Arc::new(Streams::default());
        tokio::spawn(streams.clone().serve(listener));
        Self { streams, path }
    }

    async fn connect(&self, id: u64) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).await.unwrap();
        stream.write_all(&id.to_le_bytes()).await.unwrap();
        stream
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}

/// True if the two are the ends of one connection.
async fn are_connected(mut one: UnixStream, mut other: UnixStream) -> bool {
    one.write_all(b"x").await.unwrap();
    let mut byte = [0];
    matches!(
        timeout(Duration::from_secs(5), other.read_exact(&mut byte)).await,
        Ok(Ok(_))
    )
}

/// The host's end reads end-of-file.
async fn is_closed(mut stream: UnixStream) -> bool {
    matches!(
        timeout(Duration::from_secs(5), stream.read(&mut [0])).await,
        Ok(Ok(0) | Err(_))
    )
}

#[tokio::test]
async fn connection_and_process_meet_in_either_order() {
    let meeting = Meeting::new("order");
    let early = meeting.connect(1).await;
    assert!(are_connected(early, meeting.streams.take(1).await.unwrap()).await);
    let streams = meeting.streams.clone();
    let waiting = tokio::spawn(async move { streams.take(2).await.unwrap() });
    sleep(Duration::from_millis(20)).await;
    let late = meeting.connect(2).await;
    assert!(are_connected(late, waiting.await.unwrap()).await);
}

#[tokio::test]
async fn an_id_belongs_to_one_connection_and_one_process() {
    let meeting = Meeting::new("once");
    assert!(is_closed(meeting.connect(0).await).await, "0 stands for no stream");
    let first = meeting.connect(3).await;
    sleep(Duration::from_millis(20)).await;
    assert!(is_closed(meeting.connect(3).await).await);
    assert!(are_connected(first, meeting.streams.take(3).await.unwrap()).await);
    let streams = meeting.streams.clone();
    let waiting = tokio::spawn(async move { streams.take(4).await });
    sleep(Duration::from_millis(20)).await;
    assert!(matches!(
        meeting.streams.take(4).await,
        Err(StreamError::Duplicate { id: 4 })
    ));
    waiting.abort();
}

#[tokio::test]
async fn a_flood_of_silent_connections_is_bounded() {
    let meeting = Meeting::new("flood");
    let mut silent = Vec::new();
    for _ in 0..MAX_WAITING + 20 {
        silent.push(UnixStream::connect(&meeting.path).await.unwrap());
    }
    assert!(
        is_closed(silent.pop().unwrap()).await,
        "one beyond the bound is turned away at once"
    );
    silent.clear();
    sleep(Duration::from_millis(100)).await;
    let stream = meeting.connect(5).await;
    assert!(
        are_connected(stream, meeting.streams.take(5).await.unwrap()).await,
        "and the places are free again"
    );
}
