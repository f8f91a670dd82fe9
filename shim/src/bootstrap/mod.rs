//! `start`: leaves a server behind and tells containerd where it listens.
//!
//! containerd runs `start` in the bundle and takes stdout together with stderr as the answer, so nothing else is printed:
//!
//! 1. stdin tells which containerd calls and what options the client set ([`caller`]);
//! 2. the bundle's annotations tell which pod the container belongs to ([`grouping`]); a further container of a living pod is
//!    answered with that pod's socket;
//! 3. otherwise this process binds the socket ([`socket`]), starts the server with it as an inherited descriptor and waits
//!    until the server says that it is set up ([`launch`]).
//!
//! Distrusts the bundle's spec and the options, which clients wrote; trusts containerd itself.

mod caller;
mod grouping;
mod launch;
mod socket;

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bulkhead_runtime::config::Config;
use bulkhead_runtime::phase;
use containerd_shim::StartOpts;

pub use grouping::{Membership, has_spec, membership_by, read_membership};
pub use launch::{Launch, report_ready, take_inheritance};
pub use socket::{is_alive, remove as remove_socket};

use crate::cli::Call;
use crate::options::RuntimeOptions;
use caller::{Answer, Caller};

/// containerd's own bound on what it pipes into a shim.
const MAX_STDIN: u64 = 10 << 20;

/// In the bundle: where the pod's state is on the host, for `delete`, by which time the config file may say something else.
const STATE_RECORD: &str = "bulkhead-state-dir";

/// Runs `start` and prints the answer.
pub fn start(call: &Call) -> Result<()> {
    let started_us = phase::now_us();
    let bundle = std::env::current_dir().context("cannot find the bundle, which is the working directory of start")?;
    let caller = Caller::from_stdin(&read_stdin()?, call)?;
    let options = RuntimeOptions::decode(caller.options.as_ref())?;

    let membership = read_membership(&bundle, &call.id)?;
    let address = socket_address(call, &caller, membership.pod_id().as_str());
    let socket = socket::path_of(&address)?;

    write_address(&bundle, &address)?;
    match &membership {
        Membership::Joins { pod, .. } if socket::is_alive(&socket) => {
            tracing::debug!(%pod, "joins a living pod");
        }
        Membership::Joins { pod, required: true } => bail!(
            "container {} belongs to sandbox {pod}, whose shim no longer answers at {}: the sandbox has to be started again",
            call.id,
            socket.display()
        ),
        Membership::Joins { pod, required: false } | Membership::Founds { pod } => {
            let Some(listener) = socket::bind(&socket)? else {
                if let Membership::Joins { .. } = &membership {
                    tracing::debug!(%pod, "joins a pod that was started meanwhile");
                    return print(&caller.answer(&address)?);
                }
                bail!(
                    "a shim of pod {pod} already exists: it answers at {}; delete that task first, use another id, or try again if it is \
                     ending",
                    socket.display()
                );
            };
            let launch = Launch {
                namespace: call.namespace.clone(),
                pod_id: pod.to_string(),
                bundle: bundle.clone(),
                address: address.clone(),
                events_address: caller.events_address.clone(),
                debug: call.debug || caller.debug,
                oom_score_adj: launch::oom_score_beside_containerd(),
                options,
                started_us,
            };
            let started = launch::spawn(&launch, listener);
            if started.is_err() {
                socket::remove_dead(&socket);
            }
            started?;
        }
    }
    print(&caller.answer(&address)?)
}

fn print(answer: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(answer)
        .and_then(|()| stdout.flush())
        .context("cannot write the answer to stdout")
}

/// Where the pod's server listens: containerd computes the same name.
fn socket_address(call: &Call, caller: &Caller, pod: &str) -> String {
    let place = StartOpts {
        address: call.address.clone(),
        namespace: call.namespace.clone(),
        socket_dir: caller.socket_dir.clone(),
        ..StartOpts::default()
    };
    place.socket_address(pod)
}

/// The socket of this container's pod, as `start` or containerd recorded it in the bundle, else where it would be by the rule.
pub fn recorded_socket(call: &Call, bundle: &Path, pod: &str) -> Option<PathBuf> {
    let address = std::fs::read_to_string(bundle.join("address"))
        .ok()
        .or_else(|| address_in_json(&std::fs::read(bundle.join("bootstrap.json")).ok()?))
        .unwrap_or_else(|| containerd_shim::socket_address(&call.address, &call.namespace, pod));
    socket::path_of(address.trim()).ok()
}

fn address_in_json(text: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(text).ok()?;
    json.get("address")?.as_str().map(str::to_owned)
}

/// Where the pod's state is, from this bundle or the one of its sandbox beside it.
pub fn recorded_state_dir(bundle: &Path, pod: &str) -> Option<PathBuf> {
    let beside = bundle.parent().map(|folder| folder.join(pod).join(STATE_RECORD));
    let mut places = [Some(bundle.join(STATE_RECORD)), beside].into_iter().flatten();
    places
        .find_map(|path| std::fs::read_to_string(path).ok())
        .map(PathBuf::from)
}

/// containerd before 1.7 reads the address from the bundle when it restarts; every version keeps the file.
fn write_address(bundle: &Path, address: &str) -> Result<()> {
    let path = bundle.join("address");
    std::fs::write(&path, address).with_context(|| format!("cannot write {}", path.display()))
}

/// For `delete`, which is told neither options nor config.
pub fn record_state_dir(bundle: &Path, config: &Config) -> Result<()> {
    let path = bundle.join(STATE_RECORD);
    std::fs::write(&path, config.state_dir.as_os_str().as_encoded_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// For `delete`. The server itself does it before it is ready: `start` can be interrupted.
pub fn record_pid(bundle: &Path) -> Result<()> {
    let path = bundle.join("shim.pid");
    std::fs::write(&path, std::process::id().to_string()).with_context(|| format!("cannot write {}", path.display()))
}

/// What containerd piped in; nothing when a person runs the program from a terminal.
pub fn read_stdin() -> Result<Vec<u8>> {
    let stdin = std::io::stdin();
    let mut input = Vec::new();
    if !stdin.is_terminal() {
        stdin
            .lock()
            .take(MAX_STDIN)
            .read_to_end(&mut input)
            .context("cannot read stdin")?;
    }
    Ok(input)
}

impl Answer {
    /// The words of this form of answer.
    fn write(self, address: &str) -> Result<Vec<u8>> {
        use containerd_shim_protos::bootstrap_api::BootstrapResult;
        use protobuf::Message;
        Ok(match self {
            Answer::BareAddress => address.as_bytes().to_vec(),
            Answer::Json => serde_json::to_vec(&serde_json::json!({
                "version": 3, "address": address, "protocol": "ttrpc",
            }))?,
            Answer::Protobuf => BootstrapResult {
                version: 3,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..Default::default()
            }
            .write_to_bytes()?,
        })
    }
}

#[cfg(test)]
#[path = "bootstrap_test.rs"]
mod bootstrap_test;
