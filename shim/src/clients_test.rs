use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn clients_are_gone_when_the_last_connection_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (mut listener, clients) = accept(UnixListener::bind(&path).unwrap()).unwrap();
    timeout(LIMIT, clients.gone()).await.unwrap();

    let mut near = UnixStream::connect(&path).await.unwrap();
    let mut first = listener.next().await.unwrap().unwrap();
    let _far = UnixStream::connect(&path).await.unwrap();
    let second = listener.next().await.unwrap().unwrap();

    near.write_all(b"call").await.unwrap();
    let mut call = [0; 4];
    first.read_exact(&mut call).await.unwrap();
    first.write_all(&call).await.unwrap();
    near.read_exact(&mut call).await.unwrap();
    assert_eq!(&call, b"call");

    drop(first);
    timeout(SOON, clients.gone()).await.unwrap_err();
    drop(second);
    timeout(LIMIT, clients.gone()).await.unwrap();
}
