//! A fake agent on the other end of the stream, which says what a hostile guest could.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bulkhead_agent_protocol::agent as message;
use bulkhead_agent_protocol::agent_ttrpc::{Agent as Service, create_agent};
use ttrpc::r#async::TtrpcContext;
use ttrpc::{Code, get_status};

use super::{Agent, ProcessIo, StreamIds};
use crate::error::ErrorKind;
use crate::spec::GuestSpec;

struct Hostile;

#[async_trait]
impl Service for Hostile {
    async fn hello(&self, _: &TtrpcContext, request: message::HelloRequest) -> ttrpc::Result<message::HelloResponse> {
        let agent_version = format!("\x1b[2J{}{}", request.hostname, "v".repeat(1000));
        Ok(message::HelloResponse {
            agent_version,
            ..Default::default()
        })
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: message::CreateContainerRequest,
    ) -> ttrpc::Result<message::ProcessResponse> {
        let stdio = request.stdio.unwrap_or_default();
        assert_eq!(
            (
                stdio.stdin_stream,
                stdio.stdout_stream,
                stdio.stderr_stream,
                stdio.width
            ),
            (1, 2, 3, 80)
        );
        Ok(message::ProcessResponse {
            guest_pid: 77,
            ..Default::default()
        })
    }

    async fn wait(&self, _: &TtrpcContext, _: message::ProcessRequest) -> ttrpc::Result<message::WaitResponse> {
        Ok(message::WaitResponse {
            exit_status: 0xffff_ff03,
            exited_at_ns: u64::MAX,
            ..Default::default()
        })
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: message::ContainerRequest,
    ) -> ttrpc::Result<message::Empty> {
        let code = match request.container_id.as_str() {
            "absent" => Code::NOT_FOUND,
            "state" => Code::FAILED_PRECONDITION,
            "spec" => Code::INVALID_ARGUMENT,
            "twice" => Code::ALREADY_EXISTS,
            _ => Code::DATA_LOSS,
        };
        Err(ttrpc::Error::RpcStatus(get_status(
            code,
            format!("no \x07{}", "x".repeat(10_000)),
        )))
    }
}

/// A client of the hostile agent.
async fn agent(test: &str) -> Agent {
    client_of(test, Arc::new(Hostile)).await
}

/// A client of a fake agent. The listening socket lives as long as the test's runtime.
pub(crate) async fn client_of(test: &str, fake: Arc<dyn Service + Send + Sync>) -> Agent {
    let path = std::env::temp_dir().join(format!("bulkhead-agent-{test}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let mut server = ttrpc::r#async::Server::new()
        .bind(&format!("unix://{}", path.display()))
        .unwrap()
        .register_service(create_agent(fake));
    server.start().await.unwrap();
    let stream = UnixStream::connect(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    stream.set_nonblocking(true).unwrap();
    tokio::spawn(async move {
        let _server = server;
        std::future::pending::<()>().await;
    });
    Agent::new(stream).unwrap()
}

#[tokio::test]
async fn texts_of_the_guest_are_cut_and_stripped() {
    let agent = agent("text").await;
    let (version, kernel) = agent
        .hello("host", HashMap::new(), vec![1], Duration::from_secs(10))
        .await
        .unwrap();
    assert!(version.starts_with("[2Jhostvvv") && version.len() == 100, "{version}");
    assert_eq!(kernel, "");
    let error = agent.start("other").await.unwrap_err().to_string();
    assert!(error.starts_with("no xxx") && error.len() == 4096, "{}", error.len());
}

#[tokio::test]
async fn status_codes_keep_their_meaning() {
    let agent = agent("codes").await;
    for (container, kind) in [
        ("absent", ErrorKind::NotFound),
        ("state", ErrorKind::FailedPrecondition),
        ("spec", ErrorKind::InvalidArgument),
        ("twice", ErrorKind::AlreadyExists),
        ("other", ErrorKind::Internal),
    ] {
        assert_eq!(agent.start(container).await.unwrap_err().kind(), kind, "{container}");
    }
}

#[tokio::test]
async fn streams_are_named_and_a_status_is_a_byte() {
    let agent = agent("streams").await;
    let spec = GuestSpec {
        json: b"{}".to_vec(),
        shared: None,
        console_size: (80, 24),
    };
    let io = ProcessIo {
        terminal: false,
        streams: StreamIds {
            stdin: 1,
            stdout: 2,
            stderr: 3,
        },
        size: (80, 24),
    };
    assert_eq!(agent.create("c", spec, io, Default::default()).await.unwrap(), 77);
    assert_eq!(agent.wait("c", "").await.unwrap(), 3);
}

#[tokio::test]
async fn a_lost_connection_is_told_apart_from_an_answer() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let agent = Agent::new(ours).unwrap();
    drop(theirs);
    assert_eq!(agent.pids("c").await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn an_agent_that_never_answers_is_waited_for_only_so_long() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let agent = Agent::new(ours).unwrap();
    let error = agent
        .hello("", HashMap::new(), vec![], Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
}
