// The processes are reaped by pidfd, which clippy cannot see.
#![allow(clippy::zombie_processes)]

use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use super::{PidFd, start_time_of};

#[test]
fn an_ended_child_is_seen_and_reaped_once() {
    let child = Command::new("sleep").arg("60").spawn().unwrap();
    let process = PidFd::open(child.id()).unwrap();
    assert!(process.is_child());
    assert!(!process.wait_ended(Duration::from_millis(10)).unwrap());
    assert!(process.reap().is_none());
    process.signal(Signal::SIGTERM).unwrap();
    assert!(process.wait_ended(Duration::from_secs(10)).unwrap());
    assert!(matches!(
        process.reap(),
        Some(WaitStatus::Signaled(_, Signal::SIGTERM, _))
    ));
    assert!(process.reap().is_none());
    assert_eq!(process.signal(Signal::SIGTERM), Err(Errno::ESRCH));
}

#[test]
fn a_process_of_another_parent_is_no_child() {
    assert!(!PidFd::open(std::process::id()).unwrap().is_child());
}

#[test]
fn a_recorded_process_is_not_mistaken_for_another_with_its_pid() {
    let child = Command::new("sleep").arg("60").spawn().unwrap();
    let started = start_time_of(child.id()).unwrap();
    assert_eq!(PidFd::open_recorded(child.id(), started + 1).unwrap_err(), Errno::ESRCH);
    let process = PidFd::open_recorded(child.id(), started).unwrap();
    assert!(process.kill(Duration::from_secs(10)));
    assert_eq!(PidFd::open_recorded(child.id(), started).unwrap_err(), Errno::ESRCH);
}
