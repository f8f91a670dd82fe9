use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::*;

/// Runs `body` under `policy` in a child and tells how the child ended.
#[allow(unsafe_code)]
fn end_of(policy: &Policy, body: impl FnOnce()) -> WaitStatus {
    // SAFETY: the child makes a few system calls and ends without returning to the test harness.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let status = match seccompiler::apply_filter(&policy.filter) {
                Ok(()) => {
                    body();
                    0
                }
                Err(_) => 1,
            };
            // SAFETY: as above.
            unsafe { nix::libc::_exit(status) }
        }
        ForkResult::Parent { child } => waitpid(child, None).unwrap(),
    }
}

fn policies() -> Policies {
    Policies::new().unwrap()
}

#[test]
fn every_policy_allows_memory_and_ends_with_the_thread() {
    let policies = policies();
    for policy in [
        &policies.main,
        &policies.vcpu,
        &policies.block,
        &policies.vsock,
        &policies.file_server,
    ] {
        let status = end_of(policy, || drop(std::hint::black_box(vec![1u8; 1 << 20])));
        assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    }
}

#[test]
fn no_thread_can_execute_a_program_or_make_a_socket() {
    let policies = policies();
    for policy in [
        &policies.main,
        &policies.vcpu,
        &policies.block,
        &policies.vsock,
        &policies.file_server,
    ] {
        let status = end_of(policy, || {
            let _ = nix::unistd::execv(c"/bin/true", &[c"true"]);
        });
        assert!(
            matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
            "{status:?}"
        );
        let status = end_of(policy, || drop(std::net::UdpSocket::bind("127.0.0.1:0")));
        assert!(
            matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
            "{status:?}"
        );
    }
}

#[test]
fn only_the_file_server_opens_files() {
    let policies = policies();
    for policy in [&policies.main, &policies.vcpu, &policies.block, &policies.vsock] {
        let status = end_of(policy, || drop(std::fs::File::open("/")));
        assert!(
            matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
            "{status:?}"
        );
    }
    let status = end_of(&policies.file_server, || drop(std::fs::File::open("/")));
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
}
