//! `bulkhead-vmm --control-fd N`: runs one machine for the runtime at the other end of descriptor N.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use bulkhead_microvm::control;
use bulkhead_vmm_control::Channel;

/// The command line was wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    allocate_from_one_arena();
    end_on_panic();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .without_time()
        .with_ansi(false)
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let control_fd = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--version"] => {
            println!("bulkhead-vmm {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        ["--control-fd", number] => number.parse::<RawFd>().ok().filter(|fd| *fd > 2),
        _ => None,
    };
    let Some(control_fd) = control_fd.and_then(take) else {
        eprintln!("usage: bulkhead-vmm --control-fd N (an inherited SOCK_SEQPACKET socket); the runtime starts it");
        return ExitCode::from(EXIT_USAGE);
    };
    if control::run(Channel::from_fd(control_fd)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What the released build does anyway: no machine runs on what is left of its monitor.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// glibc opens a file of /proc when it gives back memory of a thread's own arena, which the threads' system call filters forbid.
#[allow(unsafe_code)]
fn allocate_from_one_arena() {
    // SAFETY: sets a number in the allocator; no other thread runs yet.
    unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1) };
}

/// Owns an inherited descriptor, if there is one of that number, and keeps it from being inherited further.
#[allow(unsafe_code)]
fn take(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: fcntl on a number that is not open does nothing but fail.
    let done = unsafe { nix::libc::fcntl(number, nix::libc::F_SETFD, nix::libc::FD_CLOEXEC) };
    // SAFETY: the descriptor is open, was inherited for this purpose, and nothing else in this process knows it.
    (done == 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}
