//! Real fifos on one side, real socket pairs on the other.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{Endpoints, GuestEnds, Streams, assign_ids, write_header};
use crate::error::ErrorKind;
use crate::pod::StdioPaths;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let folder = std::env::temp_dir().join(format!("bulkhead-stdio-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Scratch(folder)
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn output(path: &Path) -> StdioPaths {
    StdioPaths {
        stdout: Some(path.to_owned()),
        ..Default::default()
    }
}

fn input(path: &Path) -> StdioPaths {
    StdioPaths {
        stdin: Some(path.to_owned()),
        ..Default::default()
    }
}

/// (ours, the guest's)
fn pair() -> (UnixStream, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    (near, far)
}

fn only_stdin(near: UnixStream) -> GuestEnds {
    GuestEnds {
        stdin: Some(near),
        ..Default::default()
    }
}

fn only_stdout(near: UnixStream) -> GuestEnds {
    GuestEnds {
        stdout: Some(near),
        ..Default::default()
    }
}

/// What a client does that is gone before it could call CloseIO.
fn write_and_leave(path: &Path, data: &[u8]) {
    let mut client = OpenOptions::new().write(true).open(path).unwrap();
    client.write_all(data).unwrap();
}

/// Bytes that show a loss, a repetition or a swap.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

fn multi(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("the test hangs")
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

#[test]
fn megabytes_reach_a_slow_reader_complete_and_end() {
    let scratch = Scratch::new("slow");
    let path = scratch.fifo("out");
    let reader = {
        let path = path.clone();
        thread::spawn(move || {
            let mut file = File::open(path).unwrap();
            let (mut all, mut part) = (Vec::new(), vec![0u8; 50_000]);
            loop {
                let count = file.read(&mut part).unwrap();
                if count == 0 {
                    return all;
                }
                all.extend_from_slice(&part[..count]);
                if all.len() < 2_000_000 {
                    thread::sleep(Duration::from_millis(2));
                }
            }
        })
    };
    multi(async {
        let endpoints = Endpoints::open(&output(&path)).await.unwrap();
        let (near, mut guest) = pair();
        let mut streams = Streams::start(endpoints, only_stdout(near)).unwrap();
        thread::spawn(move || guest.write_all(&pattern(8_000_001)).unwrap());
        streams.drain().await;
    });
    assert!(reader.join().unwrap() == pattern(8_000_001));
}

#[test]
fn an_output_waits_for_its_reader() {
    let scratch = Scratch::new("late");
    let path = scratch.fifo("out");
    let late = path.clone();
    let reader = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        std::fs::read(late).unwrap()
    });
    multi(async {
        let endpoints = Endpoints::open(&output(&path)).await.unwrap();
        let (near, mut guest) = pair();
        let mut streams = Streams::start(endpoints, only_stdout(near)).unwrap();
        guest.write_all(b"hello").unwrap();
        drop(guest);
        streams.drain().await;
    });
    assert_eq!(reader.join().unwrap(), b"hello");
}

#[test]
fn a_reader_that_comes_and_goes_does_not_end_the_stream() {
    let scratch = Scratch::new("reattach");
    let path = scratch.fifo("out");
    let first = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(&path)
        .unwrap();
    multi(async {
        let endpoints = Endpoints::open(&output(&path)).await.unwrap();
        let (near, mut guest) = pair();
        let mut streams = Streams::start(endpoints, only_stdout(near)).unwrap();
        drop(first);
        guest.write_all(b"kept").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let second = thread::spawn(move || std::fs::read(path).unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(guest);
        streams.drain().await;
        assert_eq!(second.join().unwrap(), b"kept");
    });
}

#[test]
fn output_that_nobody_takes_is_given_up_after_a_while() {
    let scratch = Scratch::new("stuck");
    let path = scratch.fifo("out");
    let _reader = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(&path)
        .unwrap();
    multi(async {
        let endpoints = Endpoints::open(&output(&path)).await.unwrap();
        let (near, mut guest) = pair();
        let mut streams = Streams::start(endpoints, only_stdout(near)).unwrap();
        thread::spawn(move || guest.write_all(&pattern(4_000_000)));
        let start = Instant::now();
        streams.drain().await;
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    });
}

#[test]
fn input_arrives_complete_before_its_end() {
    let scratch = Scratch::new("in");
    let path = scratch.fifo("in");
    multi(async {
        let endpoints = Endpoints::open(&input(&path)).await.unwrap();
        let (near, mut guest) = pair();
        let streams = Streams::start(endpoints, only_stdin(near)).unwrap();
        streams.started();
        let got = thread::spawn(move || {
            let mut all = Vec::new();
            guest.read_to_end(&mut all).unwrap();
            all
        });
        let mut client = OpenOptions::new().write(true).open(&path).unwrap();
        // CloseIO comes before the client has written everything: the end follows its data all the same.
        streams.close_stdin();
        let writer = thread::spawn(move || client.write_all(&pattern(5_000_003)).unwrap());
        while !got.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        writer.join().unwrap();
        assert!(got.join().unwrap() == pattern(5_000_003));
    });
}

#[test]
fn a_client_that_leaves_without_close_io_does_not_end_the_input() {
    let scratch = Scratch::new("detach");
    let path = scratch.fifo("in");
    multi(async {
        let endpoints = Endpoints::open(&input(&path)).await.unwrap();
        let (near, mut guest) = pair();
        let streams = Streams::start(endpoints, only_stdin(near)).unwrap();
        streams.started();
        for text in [b"one", b"two"] {
            OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .write_all(text)
                .unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut both = [0u8; 6];
        guest.read_exact(&mut both).unwrap();
        assert_eq!(&both, b"onetwo");
        guest.set_nonblocking(true).unwrap();
        assert_eq!(
            guest.read(&mut both).unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock
        );
        streams.close_stdin();
        streams.close_stdin();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(guest.read(&mut both).unwrap(), 0);
    });
}

#[test]
fn a_guest_that_does_not_read_ends_the_relay_quietly() {
    let scratch = Scratch::new("deaf");
    let path = scratch.fifo("in");
    multi(async {
        let endpoints = Endpoints::open(&input(&path)).await.unwrap();
        let (near, guest) = pair();
        let streams = Streams::start(endpoints, only_stdin(near)).unwrap();
        streams.started();
        drop(guest);
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all(b"nobody listens")
            .unwrap();
        let relay = &streams.stdin.as_ref().unwrap().relay;
        while !relay.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn output_can_go_to_a_file() {
    let scratch = Scratch::new("file");
    let path = scratch.0.join("logs/out.log");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "before\n").unwrap();
    multi(async {
        let uri = PathBuf::from(format!("file://{}", path.display()));
        let endpoints = Endpoints::open(&output(&uri)).await.unwrap();
        let (near, mut guest) = pair();
        let mut streams = Streams::start(endpoints, only_stdout(near)).unwrap();
        guest.write_all(b"after\n").unwrap();
        drop(guest);
        streams.drain().await;
    });
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nafter\n");
}

#[test]
fn streams_that_are_dropped_let_go_of_their_file() {
    let scratch = Scratch::new("dropped");
    let path = scratch.0.join("log");
    multi(async {
        let uri = PathBuf::from(format!("file://{}", path.display()));
        let endpoints = Endpoints::open(&output(&uri)).await.unwrap();
        let (near, mut guest) = pair();
        drop(Streams::start(endpoints, only_stdout(near)).unwrap());
        // The thread's end is the end of the stream for the guest.
        let ended = tokio::task::spawn_blocking(move || guest.read(&mut [0; 1]));
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
        assert_eq!(ended.unwrap().unwrap(), 0);
    });
}

#[test]
fn a_fifo_that_is_gone_is_not_replaced_by_a_file() {
    let scratch = Scratch::new("gone");
    let path = scratch.0.join("fifos/stdout");
    multi(async {
        let error = Endpoints::open(&output(&path)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
    });
    assert!(!path.parent().unwrap().exists());
}

#[test]
fn what_cannot_be_a_stream_is_named() {
    let scratch = Scratch::new("bad");
    multi(async {
        let error = Endpoints::open(&output(Path::new("binary:///usr/bin/logger?x=y")))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("binary://"), "{error}");
        let error = Endpoints::open(&input(&scratch.0.join("missing"))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        let error = Endpoints::open(&input(&scratch.0)).await.unwrap_err();
        assert!(error.to_string().contains("no fifo"), "{error}");
        let error = Endpoints::open(&output(&scratch.0)).await.unwrap_err();
        assert!(error.to_string().contains("is a folder"), "{error}");
    });
}

#[test]
fn only_streams_that_exist_get_numbers() {
    let scratch = Scratch::new("ids");
    let path = scratch.fifo("in");
    multi(async {
        let next = AtomicU64::new(7);
        let ids = assign_ids(&Endpoints::open(&input(&path)).await.unwrap(), &next);
        assert_eq!((ids.stdin, ids.stdout, ids.stderr), (7, 0, 0));
        let terminal = StdioPaths {
            terminal: true,
            stderr: Some(path.clone()),
            ..input(&path)
        };
        let ids = assign_ids(&Endpoints::open(&terminal).await.unwrap(), &next);
        assert_eq!((ids.stdin, ids.stdout, ids.stderr), (8, 0, 0));
    });
}

#[test]
fn a_stream_is_named_by_its_first_bytes() {
    let (near, mut guest) = pair();
    write_header(&near, 0x0102).unwrap();
    let mut header = [0u8; 8];
    guest.read_exact(&mut header).unwrap();
    assert_eq!(header, [2, 1, 0, 0, 0, 0, 0, 0]);
}

/// What the process reads of a stdin to which `data` was written by a client that is gone before the start.
async fn left_by_a_client(name: &str, data: &[u8]) -> String {
    let scratch = Scratch::new(name);
    let path = scratch.fifo("stdin");
    let endpoints = Endpoints::open(&input(&path)).await.unwrap();
    let (near, mut far) = pair();
    let streams = Streams::start(endpoints, only_stdin(near)).unwrap();
    write_and_leave(&path, data);
    streams.started();
    let text = tokio::task::spawn_blocking(move || {
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).map(|_| text)
    });
    text.await.unwrap().unwrap()
}

#[tokio::test]
async fn a_client_that_left_before_the_start_ends_stdin() {
    assert_eq!(left_by_a_client("left", b"x\n").await, "x\n");
    assert_eq!(left_by_a_client("left-empty", b"").await, "");
}

#[tokio::test]
async fn a_client_that_comes_after_the_start_or_stays_keeps_stdin() {
    let scratch = Scratch::new("stays");
    let path = scratch.fifo("stdin");
    let endpoints = Endpoints::open(&input(&path)).await.unwrap();
    let (near, mut far) = pair();
    let streams = Streams::start(endpoints, only_stdin(near)).unwrap();
    // Nobody has come yet: no reason to end.
    streams.started();
    write_and_leave(&path, b"1");
    let mut byte = [0u8; 1];
    let mut far = tokio::task::spawn_blocking(move || {
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        far.read_exact(&mut byte).unwrap();
        far
    })
    .await
    .unwrap();
    // The first client is gone, and without CloseIO a second one may come.
    write_and_leave(&path, b"2");
    streams.close_stdin();
    let rest = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        far.read_to_string(&mut text).map(|_| text)
    });
    assert_eq!(rest.await.unwrap().unwrap(), "2");
}
