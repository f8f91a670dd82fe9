//! `bulkhead`, the operator's command: is this host ready, and what runs on it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bulkhead_runtime::check::{self, Finding, Host, Verdict};
use bulkhead_runtime::config::Config;
use bulkhead_runtime::state::{self, PodRecord};
use clap::{Parser, Subcommand};

/// Looks after pods in microVMs.
#[derive(Parser)]
#[command(name = "bulkhead", version, disable_help_subcommand = true)]
struct Arguments {
    /// Config file (default: /etc/bulkhead/bulkhead.toml, which may be missing).
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says whether this host can run pods, and what to do where it cannot. Exit status 1: it cannot.
    Check {
        /// Print a JSON list instead of lines.
        #[arg(long)]
        json: bool,
    },
    /// Lists the pods that run.
    Ps {
        /// Print a JSON list instead of lines.
        #[arg(long)]
        json: bool,
    },
    /// Prints the version.
    Version,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bulkhead: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    if let Command::Version = arguments.command {
        writeln!(out, "bulkhead {}", env!("CARGO_PKG_VERSION"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(arguments.config.as_deref())?;
    match arguments.command {
        Command::Check { json } => {
            let findings = check::run(&Host::default(), &config);
            print_findings(&mut out, &findings, json)?;
            let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
            Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Command::Ps { json } => {
            let mut pods = state::list(&config).context("cannot list the pods")?;
            pods.retain(|pod| pod.vmm.is_some_and(|vmm| vmm.is_alive()));
            pods.sort_by(|a, b| (&a.namespace, &a.id).cmp(&(&b.namespace, &b.id)));
            print_pods(&mut out, &pods, json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Version => Ok(ExitCode::SUCCESS),
    }
}

fn print_findings(out: &mut impl Write, findings: &[Finding], json: bool) -> anyhow::Result<()> {
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(findings)?)?;
        return Ok(());
    }
    for finding in findings {
        writeln!(out, "{finding}")?;
    }
    Ok(())
}

fn print_pods(out: &mut impl Write, pods: &[PodRecord], json: bool) -> anyhow::Result<()> {
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(pods)?)?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<12} {:<40} {:>8} {:>8} {:>5} {:>10} {:>10}",
        "NAMESPACE", "POD", "VMM", "SHIM", "VCPUS", "MEMORY", "HOST-IDS"
    )?;
    for pod in pods {
        let vmm = pod.vmm.map_or_else(String::new, |vmm| vmm.pid.to_string());
        let memory = format!("{} MiB", pod.memory_mib);
        let ids = match pod.host_id_ranges.as_slice() {
            [] => "all".to_owned(),
            ranges => ranges.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        };
        let PodRecord {
            namespace,
            id,
            shim_pid,
            vcpus,
            ..
        } = pod;
        writeln!(
            out,
            "{namespace:<12} {id:<40} {vmm:>8} {shim_pid:>8} {vcpus:>5} {memory:>10} {ids:>10}"
        )?;
    }
    Ok(())
}
