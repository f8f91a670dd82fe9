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
            let absent = policy
                .absent
                .as_ref()
                .map_or(Ok(()), |filter| seccompiler::apply_filter(filter));
            let status = match absent.and_then(|()| seccompiler::apply_filter(&policy.filter)) {
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
        &policies.memory,
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
        &policies.memory,
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
    for policy in [
        &policies.main,
        &policies.vcpu,
        &policies.block,
        &policies.memory,
        &policies.vsock,
    ] {
        let status = end_of(policy, || drop(std::fs::File::open("/")));
        assert!(
            matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
            "{status:?}"
        );
    }
    let status = end_of(&policies.file_server, || drop(std::fs::File::open("/")));
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
}

/// Calls clone as for a thread, with `flags` besides; the kernel refuses it for want of a stack, or whatever else, unless it is let.
#[allow(unsafe_code)]
fn clone_with(flags: i32) {
    let thread = nix::libc::CLONE_THREAD;
    // SAFETY: the kernel refuses CLONE_THREAD without CLONE_SIGHAND, so nothing is made.
    let made = unsafe { nix::libc::syscall(nix::libc::SYS_clone, thread | flags, 0, 0, 0, 0) };
    assert_eq!(made, -1);
}

#[test]
fn the_spawner_starts_threads_and_no_namespaces_or_processes() {
    let spawner = policies().spawner;
    let status = end_of(&spawner, || {
        let thread = std::thread::Builder::new().name("worker".to_owned());
        thread.spawn(|| ()).unwrap().join().unwrap();
        clone_with(0);
    });
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    for flags in [
        nix::libc::CLONE_NEWUSER,
        nix::libc::CLONE_NEWNS,
        nix::libc::CLONE_NEWNET,
    ] {
        let status = end_of(&spawner, || clone_with(flags));
        assert!(
            matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
            "{status:?}"
        );
    }
    #[allow(unsafe_code)]
    let status = end_of(&spawner, || {
        // SAFETY: the child, if there were one, would end with this one.
        let _ = unsafe { fork() };
    });
    assert!(
        matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
        "{status:?}"
    );
}

/// Makes a request of KVM's to what is no KVM, which refuses it.
#[allow(unsafe_code)]
fn ioctl(request: u64) {
    // SAFETY: descriptor 0 is none of KVM's, so nothing is read or written.
    let done = unsafe { nix::libc::ioctl(0, request, 0) };
    assert_eq!(done, -1);
}

#[test]
fn only_the_memory_worker_changes_what_the_guest_has_as_memory() {
    const SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
    let policies = policies();
    for policy in [&policies.memory, &policies.spawner] {
        let status = end_of(policy, || ioctl(SET_USER_MEMORY_REGION));
        assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    }
    for policy in [
        &policies.main,
        &policies.vcpu,
        &policies.block,
        &policies.vsock,
        &policies.file_server,
    ] {
        let status = end_of(policy, || ioctl(SET_USER_MEMORY_REGION));
        assert!(
            matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
            "{status:?}"
        );
    }
}

#[test]
fn only_the_main_thread_makes_vcpus() {
    /// KVM_CREATE_VCPU, and what prepares one.
    const REQUESTS: [u64; 5] = [0xae41, 0xaea3, 0x4008_ae90, 0x4008_ae89, 0x41a0_ae8d];
    let policies = policies();
    let status = end_of(&policies.main, || REQUESTS.into_iter().for_each(ioctl));
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    for policy in [
        &policies.spawner,
        &policies.vcpu,
        &policies.block,
        &policies.memory,
        &policies.vsock,
    ] {
        let status = end_of(policy, || ioctl(REQUESTS[0]));
        assert!(
            matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
            "{status:?}"
        );
    }
}

#[test]
fn the_file_server_changes_its_capabilities_and_no_attribute_of_the_process() {
    let policy = policies().file_server;
    let status = end_of(&policy, || {
        virtiofsd::util::add_cap_to_eff("FSETID").unwrap();
        // What it asks where there is no /proc.
        caps::has_cap(None, caps::CapSet::Bounding, caps::Capability::CAP_CHOWN).unwrap();
        caps::has_cap(None, caps::CapSet::Ambient, caps::Capability::CAP_CHOWN).unwrap();
    });
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
    let status = end_of(&policy, || {
        let _ = nix::sys::prctl::set_dumpable(true);
    });
    assert!(
        matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)),
        "{status:?}"
    );
}
