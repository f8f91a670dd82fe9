//! containerd-shim-bulkhead-v2: stands between containerd and one pod.
//!
//! containerd runs it with `start`, which leaves a server behind for the life of the pod, and with `delete` when that server is
//! lost. The server speaks containerd's task and sandbox APIs and lets the runtime do the work. Trusts containerd and root on the
//! host. Distrusts what clients wrote (specs, options, ids, which reach it through containerd) and everything a guest causes.

mod bootstrap;
mod cli;
mod clients;
mod delete;
mod error_codes;
mod events;
mod info;
mod log;
mod messages;
mod options;
mod orphans;
mod own_cgroup;
mod sandbox_config;
mod sandbox_files;
mod sandbox_service;
mod server;
mod stats;
mod supervisor;
mod task_service;

use std::process::ExitCode;

use anyhow::Result;

fn main() -> ExitCode {
    end_on_panic();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows this text to its client.
            eprintln!("{}: {error:#}", info::RUNTIME);
            ExitCode::FAILURE
        }
    }
}

/// What the released build does anyway: a pod is not served by what is left of a program.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn run() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match cli::parse(&arguments)? {
        cli::Command::Version => info::print_version(),
        cli::Command::Info => info::print_info(),
        cli::Command::Start(call) => bootstrap::start(&call),
        cli::Command::Delete(call) => delete::delete(&call),
        cli::Command::Serve => server::serve(),
    }
}
