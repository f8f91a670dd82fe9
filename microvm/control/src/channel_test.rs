use std::io::{Read, Write};
use std::os::fd::AsFd;

use super::{Channel, ChannelError};
use crate::{Reply, Request};

#[test]
fn a_message_arrives_with_its_descriptor() {
    let (a, b) = Channel::pair().unwrap();
    let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    a.send(&Request::Connect { port: 7 }, &[far.as_fd()]).unwrap();
    drop(far);
    let (message, mut fds) = b.receive::<Request>().unwrap();
    assert!(matches!(message, Request::Connect { port: 7 }));
    assert_eq!(fds.len(), 1);
    let mut received = std::os::unix::net::UnixStream::from(fds.remove(0));
    received.write_all(b"x").unwrap();
    let mut byte = [0u8; 1];
    near.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
}

#[test]
fn a_closed_peer_is_told_apart_from_an_error() {
    let (a, b) = Channel::pair().unwrap();
    drop(b);
    assert!(matches!(a.receive::<Reply>(), Err(ChannelError::Closed)));
    assert!(matches!(a.send(&Reply::Done, &[]), Err(ChannelError::Closed)));
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    let (a, b) = Channel::pair().unwrap();
    nix::unistd::write(a.as_fd(), &[0xff; 16]).unwrap();
    assert!(matches!(b.receive::<Reply>(), Err(ChannelError::Malformed(_))));
}

#[test]
fn a_message_that_is_too_large_is_not_sent() {
    let (a, _b) = Channel::pair().unwrap();
    let message = Reply::Failed {
        message: "x".repeat(super::MAX_PACKET),
    };
    assert!(matches!(a.send(&message, &[]), Err(ChannelError::TooLarge)));
}

#[test]
fn too_many_descriptors_are_refused_and_closed() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let (a, b) = Channel::pair().unwrap();
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let raw = [far.as_raw_fd(); super::MAX_FDS + 1];
    let bytes = [0u8];
    let control = [ControlMessage::ScmRights(&raw)];
    let iov = [std::io::IoSlice::new(&bytes)];
    sendmsg::<()>(a.as_fd().as_raw_fd(), &iov, &control, MsgFlags::empty(), None).unwrap();
    drop(far);
    assert!(matches!(b.receive::<Request>(), Err(ChannelError::TooLarge)));
    // Every received copy is closed again: the other end sees the end of the stream.
    near.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    assert_eq!((&near).read(&mut [0u8; 1]).unwrap(), 0);
}
