//! A guest that remembers as many files as it may.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::libc;

use super::guest_test::*;
use crate::file_server::Crowd;
use crate::virtio::device::VirtioDevice;
use crate::virtio::testing::wait_for;

const MOST: usize = 16;

/// A guest that has looked up as many files as it may, and their nodes; there is one more, "f16".
fn full() -> (TempDir, Guest, Vec<u64>, Arc<Crowd>) {
    let share = TempDir::new();
    for file in 0..=MOST {
        fs::write(share.path.join(format!("f{file}")), b"").unwrap();
    }
    let crowd = Arc::new(Crowd::new(MOST));
    let mut guest = Guest::start_in(&share.path, crowd.clone());
    let nodes = (0..MOST)
        .map(|file| guest.lookup(ROOT, &format!("f{file}")).unwrap())
        .collect();
    (share, guest, nodes, crowd)
}

#[test]
fn somebody_is_told_when_a_guest_remembers_many_files() {
    let share = TempDir::new();
    let crowd = Arc::new(Crowd::new(MOST));
    let told = Arc::new(AtomicBool::new(false));
    let mut guest = Guest::start_in(&share.path, crowd.clone());
    let tell = told.clone();
    crowd.when_many(Box::new(move || tell.store(true, Ordering::SeqCst)));
    for file in 0..11 {
        assert!(!told.load(Ordering::SeqCst), "told at {file}");
        // What is found again, or was forgotten, is none more.
        for name in [format!("f{file}"), "forgotten".to_owned()] {
            fs::write(share.path.join(&name), b"").unwrap();
            guest.lookup(ROOT, &name).unwrap();
            let again = guest.lookup(ROOT, &name).unwrap();
            if name == "forgotten" {
                guest.forget(again, 2);
            }
        }
    }
    wait_for("the alarm", || told.load(Ordering::SeqCst).then_some(()));
}

#[test]
fn a_request_for_one_file_too_many_waits_until_one_is_forgotten() {
    let (_share, mut guest, nodes, _crowd) = full();
    let waiting = [
        guest.begin(LOOKUP, ROOT, b"f16\0", 128),
        guest.begin(
            MKDIR,
            ROOT,
            &[&[0xed, 1, 0, 0, 0, 0, 0, 0][..], b"made\0"].concat(),
            128,
        ),
    ];
    std::thread::sleep(Duration::from_millis(20));
    // What it remembers already is there all the while.
    assert_eq!(guest.lookup(ROOT, "f3"), Ok(nodes[3]));
    guest.call(GETATTR, nodes[5], &[0; 16], 104).unwrap();
    for pending in &waiting {
        assert!(guest.try_finish(pending).is_none(), "the request did not wait");
    }
    for node in &nodes[8..12] {
        guest.forget(*node, 1);
    }
    for pending in &waiting {
        guest.finish(pending).unwrap();
    }
}

#[test]
fn forgetting_is_served_however_many_requests_wait_for_it() {
    let (_share, mut guest, nodes, _crowd) = full();
    // As many as the device has threads.
    let waiting: Vec<Pending> = (0..32).map(|_| guest.begin(LOOKUP, ROOT, b"f16\0", 128)).collect();
    guest.forget(nodes[0], 1);
    for pending in &waiting {
        guest.finish(pending).unwrap();
    }
}

#[test]
fn a_guest_whose_files_are_all_in_use_is_refused_one_more_and_nothing_is_made() {
    let (share, mut guest, nodes, _crowd) = full();
    assert_eq!(guest.lookup(ROOT, "f16"), Err(libc::ENFILE));
    let arguments = create_arguments(libc::O_RDWR, 0o100666, 0, "made");
    assert_eq!(guest.call(CREATE, ROOT, &arguments, 144), Err(libc::ENFILE));
    assert!(!share.path.join("made").exists());
    assert_eq!(guest.lookup(ROOT, "absent"), Err(libc::ENOENT));
    guest.open(nodes[0], libc::O_RDONLY).unwrap();
}

#[test]
fn a_reset_makes_room() {
    let (_share, mut guest, _nodes, crowd) = full();
    assert!(crowd.is_full());
    guest.device.reset();
    assert!(!crowd.is_full());
    guest.activate(1 << 29);
    guest.mount();
    guest.lookup(ROOT, "f16").unwrap();
}

/// The guest is told of a name only together with an open file.
#[test]
fn a_name_that_cannot_be_opened_is_not_remembered() {
    let share = TempDir::new();
    nix::unistd::mkfifo(&share.path.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = UnixListener::bind(share.path.join("socket")).unwrap();
    symlink("first", share.path.join("link")).unwrap();
    for file in ["first", "last"] {
        fs::write(share.path.join(file), b"content").unwrap();
    }
    let crowd = Arc::new(Crowd::new(MOST));
    let mut guest = Guest::start_in(&share.path, crowd);
    let first = guest.lookup(ROOT, "first").unwrap();
    for name in ["fifo", "socket", "link"] {
        let arguments = create_arguments(libc::O_RDWR, 0o100666, 0, name);
        assert_eq!(guest.call(CREATE, ROOT, &arguments, 144), Err(libc::EBADF), "{name}");
    }
    let last = guest.lookup(ROOT, "last").unwrap();
    for node in first + 1..last {
        assert_eq!(
            guest.call(GETATTR, node, &[0; 16], 104),
            Err(libc::EBADF),
            "node {node}"
        );
    }
    // What can be opened is, and counts like what is looked up.
    let mut arguments = create_arguments(libc::O_RDWR, 0o100666, 0, "last");
    let opened = guest.call(CREATE, ROOT, &arguments, 144).unwrap();
    assert_eq!(u64_at(&opened, 0), last);
    assert_eq!(guest.read(last, u64_at(&opened, 128), 0, 16).unwrap(), b"content");
    guest.forget(last, 2);
    assert_eq!(guest.call(GETATTR, last, &[0; 16], 104), Err(libc::EBADF));
    arguments = create_arguments(libc::O_RDWR | libc::O_EXCL, 0o100666, 0, "last");
    assert_eq!(guest.call(CREATE, ROOT, &arguments, 144), Err(libc::EEXIST));
}
