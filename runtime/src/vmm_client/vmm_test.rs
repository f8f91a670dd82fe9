//! The session with a fake monitor on the other end of the socket, and programs that are no monitors.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_vmm_control::{Channel, JailSpec, Reply, Request, StopReason, VmSpec};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::sync::{mpsc, watch};

use super::{Spawned, Vmm, session};
use crate::error::{Error, ErrorKind};
use crate::pidfd::PidFd;
use crate::watched::watch as watch_fd;

/// A machine whose monitor is this test: the process is a `sleep`, the other end of the control socket is given back.
#[allow(clippy::zombie_processes)] // the machine waits for it through its pidfd
pub(crate) fn machine() -> (Vmm, Channel) {
    let (ours, theirs) = Channel::pair().unwrap();
    fcntl(ours.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let child = Command::new("sleep").arg("100").spawn().unwrap();
    let process = Arc::new(PidFd::open(child.id()).unwrap());
    let (orders, queue) = mpsc::unbounded_channel();
    let (ended, end) = watch::channel(None);
    let socket = watch_fd(ours, Interest::READABLE | Interest::WRITABLE).unwrap();
    tokio::spawn(session::run(socket, process.clone(), Default::default(), queue, ended));
    (Vmm { process, orders, end }, theirs)
}

fn spec() -> VmSpec {
    VmSpec {
        vcpus: 1,
        max_vcpus: 1,
        memory_mib: 64,
        max_memory_mib: 64,
        extra_cmdline: String::new(),
        verbose_console: false,
        jail: JailSpec { ids: vec![] },
        fds: vec![],
        disks: vec![],
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_stream_is_handed_over_and_refusals_are_told() {
    let (vmm, monitor) = machine();
    let fake = std::thread::spawn(move || {
        let (request, mut fds) = monitor.receive::<Request>().unwrap();
        assert!(matches!(request, Request::Connect { port: 1025 }));
        monitor.send(&Reply::Done, &[]).unwrap();
        let mut guest = UnixStream::from(fds.remove(0));
        guest.write_all(b"hi").unwrap();
        monitor.receive::<Request>().unwrap();
        monitor
            .send(
                &Reply::Failed {
                    message: "nobody\x1b[2J listens".into(),
                },
                &[],
            )
            .unwrap();
        monitor
    });
    let mut stream = vmm.connect(1025, 10 * SECOND).await.unwrap();
    stream.set_nonblocking(false).unwrap();
    let mut hi = [0u8; 2];
    stream.read_exact(&mut hi).unwrap();
    let error = vmm.connect(1, 10 * SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(
        error
            .to_string()
            .contains("port 1 of the guest failed: nobody[2J listens"),
        "{error}"
    );
    vmm.kill();
    drop(fake.join().unwrap());
    assert!(vmm.ended().await.reason.contains("SIGKILL"));
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_waited_for_only_so_long() {
    let (vmm, _monitor) = machine();
    assert_eq!(
        vmm.connect(1, SECOND / 20).await.unwrap_err().kind(),
        ErrorKind::DeadlineExceeded
    );
    vmm.kill();
}

#[tokio::test]
async fn waiting_for_a_crowd_holds_up_no_other_request_and_ends_with_the_machine() {
    let (vmm, monitor) = machine();
    let fake = std::thread::spawn(move || {
        assert!(matches!(monitor.receive().unwrap().0, Request::AwaitCrowd));
        assert!(matches!(monitor.receive().unwrap().0, Request::Connect { .. }));
        monitor.send(&Reply::Done, &[]).unwrap();
        monitor.send(&Reply::Crowded, &[]).unwrap();
        monitor
    });
    let (crowded, connected) = tokio::join!(vmm.crowded(), vmm.connect(1, 10 * SECOND));
    crowded.unwrap();
    connected.unwrap();
    let _monitor = fake.join().unwrap();
    let killed = async {
        tokio::task::yield_now().await;
        vmm.kill();
    };
    let (crowded, ()) = tokio::join!(vmm.crowded(), killed);
    assert_eq!(crowded.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn the_end_is_told_to_everybody_with_its_reason() {
    let (vmm, monitor) = machine();
    let fake = std::thread::spawn(move || {
        monitor.receive::<Request>().unwrap();
        let console = "Kernel panic - not syncing: \x07oops\nend\n".to_owned();
        monitor
            .send(&Reply::Stopped(StopReason::Panicked { console }), &[])
            .unwrap();
    });
    let error = vmm.connect(1, 10 * SECOND).await.unwrap_err();
    fake.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("not syncing: oops\nend"), "{error}");
    let end = vmm.ended().await;
    assert!(!end.orderly);
    assert_eq!(vmm.end(), Some(end));
    assert_eq!(vmm.connect(1, SECOND).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_connection_that_breaks_with_the_machine_is_told_as_its_end() {
    let (vmm, _monitor) = machine();
    // As of a call to the guest, which is lost a moment before the end is seen.
    let lost = async {
        vmm.kill();
        Err::<(), Error>(Error::unavailable("the connection broke"))
    };
    let error = vmm.unless_ended(lost).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("microVM has ended: "), "{error}");
    assert!(error.to_string().contains("SIGKILL"), "{error}");
    let failed = async { Err::<(), Error>(Error::not_found("no such container")) };
    assert_eq!(vmm.unless_ended(failed).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_machine_that_is_hung_up_on_reports_its_console() {
    let (vmm, monitor) = machine();
    let fake = std::thread::spawn(move || {
        assert!(monitor.receive::<Request>().is_err());
        let message = "the runtime closed the control socket".to_owned();
        let report = StopReason::Failed {
            message,
            console: "VFS: cannot mount".into(),
        };
        monitor.send(&Reply::Stopped(report), &[]).unwrap();
    });
    let end = vmm.hang_up().await;
    fake.join().unwrap();
    assert!(end.reason.contains("VFS: cannot mount"), "{}", end.reason);
}

#[tokio::test]
async fn a_machine_that_does_not_hear_is_killed() {
    let (vmm, _monitor) = machine();
    assert!(vmm.hang_up().await.reason.contains("SIGKILL"));
}

#[tokio::test]
async fn a_monitor_that_breaks_the_protocol_is_killed() {
    for broken in [&b"\xff\xff\xff"[..], &unasked(&Reply::Done), &unasked(&Reply::Crowded)] {
        let (vmm, monitor) = machine();
        nix::unistd::write(monitor.as_fd(), broken).unwrap();
        let end = vmm.ended().await;
        assert!(end.reason.contains("broke the control protocol"), "{}", end.reason);
    }
}

/// An answer that nobody asked for.
fn unasked(reply: &Reply) -> Vec<u8> {
    let (a, b) = Channel::pair().unwrap();
    a.send(reply, &[]).unwrap();
    let mut bytes = [0u8; 64];
    let count = nix::unistd::read(b.as_fd(), &mut bytes).unwrap();
    bytes[..count].to_vec()
}

#[tokio::test]
async fn a_program_that_is_no_monitor_is_named_with_what_it_said() {
    let error = Spawned::spawn("/nonexistent/vmm".as_ref()).err().unwrap().to_string();
    assert!(
        error.contains("/nonexistent/vmm") && error.contains("\"vmm\" in the config file"),
        "{error}"
    );
    let spawned = Spawned::spawn("/bin/sh".as_ref()).unwrap();
    let error = spawned
        .jail(spec(), vec![], 10 * SECOND)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("exit status 2") && error.contains("Illegal option"),
        "{error}"
    );
}

#[tokio::test]
async fn a_monitor_that_never_answers_is_killed_in_time() {
    let program = std::env::temp_dir().join(format!("bulkhead-vmm-{}", std::process::id()));
    std::fs::write(&program, "#!/bin/sh\nexec sleep 100\n").unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let spawned = Spawned::spawn(&program).unwrap();
    let process = PidFd::open(spawned.pid()).unwrap();
    let error = spawned.jail(spec(), vec![], SECOND / 5).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(process.wait_ended(10 * SECOND).unwrap());
    std::fs::remove_file(&program).unwrap();
}

#[test]
fn text_is_tamed() {
    assert_eq!(session::tame("a\x1b[31m\r\nb\t\u{202e}\n\n", 100), "a[31m\nb\u{202e}");
    assert_eq!(session::tame(&"é".repeat(10), 5), "éé");
}
