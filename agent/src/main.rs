//! The agent's program: init of the guest, or (with an argument) the one-shot helper that makes a container.

use bulkhead_agent::boot;
use bulkhead_agent::container::{Places, cgroup, helper};
use bulkhead_agent::error::chain;
use bulkhead_agent::transport::Listener;
use bulkhead_agent::{kmsg, memory, power, service};
use bulkhead_agent_protocol::{CONTROL_PORT, STREAM_PORT};
use std::os::unix::net::UnixListener;
use std::path::Path;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [helper::ARGUMENT, socket] => {
            power::end_helper_on_panic();
            std::process::exit(helper::main(socket));
        }
        ["unix", control, streams, state] => {
            if let Err(error) = run_without_guest(control, streams, state) {
                eprintln!("bulkhead-agent: {}", chain(error.as_ref()));
                std::process::exit(1);
            }
        }
        _ if std::process::id() == 1 => {
            power::end_guest_on_panic();
            if let Err(error) = run() {
                kmsg::emergency(&chain(error.as_ref()));
                power::fail();
            }
            power::off();
        }
        _ => {
            eprintln!(
                "bulkhead-agent is the init of a Bulkhead guest; elsewhere, for tests: unix CONTROL STREAMS STATE"
            );
            std::process::exit(2);
        }
    }
}

fn places(state: &str) -> Places {
    Places {
        program: "/proc/self/exe".into(),
        state: state.into(),
        cgroups: cgroup::ROOT.into(),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Serves on two Unix sockets, in namespaces and on a cgroup v2 tree that the caller has made: the agent without a monitor.
fn run_without_guest(control: &str, streams: &str, state: &str) -> Result<(), Box<dyn std::error::Error>> {
    nix::sys::prctl::set_child_subreaper(true)?;
    cgroup::prepare_tree(Path::new(cgroup::ROOT))?;
    runtime()?.block_on(async {
        let listen = |path: &str| Listener::from_fd(UnixListener::bind(path)?.into());
        service::serve(listen(control)?, listen(streams)?, places(state)).await
    })?;
    Ok(())
}

/// The init of a guest.
fn run() -> Result<(), Box<dyn std::error::Error>> {
    runtime()?.block_on(async {
        // The host may connect from now on, while there is still much to do; its first request is answered when that is done.
        let control = Listener::vsock(CONTROL_PORT)?;
        boot::prepare()?;
        boot::mount_share();
        let streams = Listener::vsock(STREAM_PORT)?;
        tokio::spawn(memory::tidy_up());
        service::serve(control, streams, places(boot::STATE)).await?;
        Ok(())
    })
}
