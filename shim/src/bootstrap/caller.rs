//! Which containerd calls `start`, and so in which form it wants the answer.
//!
//! - 2.3 and later write BootstrapParams (protobuf) to stdin and take BootstrapResult as the answer.
//! - Earlier ones write the runtime options (an Any) or nothing. 2.0 to 2.2 take JSON that says version 3, which spares a
//!   `start` for each further container of a pod; 1.6 and 1.7 take only version 2, for which the bare address stands.
//!
//! Nothing in the call tells the last two apart (MAX_SHIM_VERSION is 2 in all), so containerd's program is asked, once for
//! each file that it ever was. In doubt the answer is version 2, which all of them take.

use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, LogLevel};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::cli::Call;

/// Answers of `PUBLISH_BINARY --version`, one file for each program.
const CACHE: &str = "/run/bulkhead-callers";

/// How long containerd may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(2);

/// Form of the answer to `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The socket's address alone: task API version 2.
    BareAddress,
    /// `{"version":3,...}`.
    Json,
    /// BootstrapResult with version 3.
    Protobuf,
}

/// What stdin, the environment and containerd's version say.
#[derive(Debug)]
pub struct Caller {
    answer: Answer,
    /// Runtime options of the client.
    pub options: Option<Any>,
    /// Where events go.
    pub events_address: String,
    /// Where containerd wants the socket, instead of its usual folder.
    pub socket_dir: Option<String>,
    /// containerd asked for detailed logs.
    pub debug: bool,
}

impl Caller {
    /// Reads what containerd piped in.
    pub fn from_stdin(input: &[u8], call: &Call) -> Result<Caller> {
        let from_environment = std::env::var("TTRPC_ADDRESS")
            .ok()
            .filter(|address| !address.is_empty())
            .unwrap_or_else(|| default_events_address(&call.address));
        let caller = match bootstrap_params(input, call)? {
            Some(params) => from_params(params, from_environment),
            None => Caller {
                answer: if is_version_2(call) {
                    Answer::Json
                } else {
                    Answer::BareAddress
                },
                options: legacy_options(input),
                events_address: from_environment,
                socket_dir: None,
                debug: false,
            },
        };
        if caller.events_address.is_empty() {
            bail!("containerd did not say where events go: neither TTRPC_ADDRESS nor -address is set");
        }
        Ok(caller)
    }

    /// The answer for this caller.
    pub fn answer(&self, address: &str) -> Result<Vec<u8>> {
        self.answer.write(address)
    }
}

/// Where containerd serves events unless its configuration names another socket.
fn default_events_address(address: &str) -> String {
    if address.is_empty() {
        String::new()
    } else {
        format!("{address}.ttrpc")
    }
}

fn from_params(params: BootstrapParams, events_fallback: String) -> Caller {
    let events_address = if params.containerd_ttrpc_address.is_empty() {
        events_fallback
    } else {
        params.containerd_ttrpc_address
    };
    Caller {
        answer: Answer::Protobuf,
        // Extensions of other kinds (CRI's or NRI's settings) are not ours.
        options: params
            .extensions
            .into_iter()
            .filter_map(|extension| extension.value.into_option())
            .find(|any| any.type_url.ends_with(".Options")),
        events_address,
        socket_dir: params.socket_dir.filter(|folder| !folder.is_empty()),
        debug: params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG as i32,
    }
}

/// BootstrapParams for this very container, or `None` when stdin holds the older form.
fn bootstrap_params(input: &[u8], call: &Call) -> Result<Option<BootstrapParams>> {
    let Some(params) = (!input.is_empty())
        .then(|| BootstrapParams::parse_from_bytes(input).ok())
        .flatten()
    else {
        return Ok(None);
    };
    if params.instance_id == call.id.as_str() && params.namespace == call.namespace {
        return Ok(Some(params));
    }
    // An Any reads as BootstrapParams that has an id (its type) and a namespace (its value) and nothing else.
    if params.containerd_version.is_empty() && params.containerd_ttrpc_address.is_empty() {
        return Ok(None);
    }
    bail!(
        "containerd's bootstrap parameters are for {}/{}, but the command line names {}/{}",
        params.namespace,
        params.instance_id,
        call.namespace,
        call.id
    )
}

fn legacy_options(input: &[u8]) -> Option<Any> {
    Any::parse_from_bytes(input).ok().filter(|any| !any.type_url.is_empty())
}

fn is_version_2(call: &Call) -> bool {
    let Some(program) = call.publish_binary.as_deref() else {
        return false;
    };
    if replaced_while_running(program) {
        return false;
    }
    major_version(program, Path::new(CACHE)).is_some_and(|major| major >= 2)
}

/// True when the caller is still the old program of a path that holds another one by now (an upgrade without a restart).
fn replaced_while_running(program: &Path) -> bool {
    let parent = PathBuf::from(format!("/proc/{}/exe", nix::unistd::getppid()));
    let Ok(running) = std::fs::read_link(&parent) else {
        return false;
    };
    running
        .to_string_lossy()
        .strip_suffix(" (deleted)")
        .is_some_and(|path| Path::new(path) == program)
}

/// The program's major version, from the cache or from itself.
fn major_version(program: &Path, cache: &Path) -> Option<u32> {
    let meta = std::fs::metadata(program).ok()?;
    // A program that was replaced has another inode, time or size.
    let name = format!(
        "{}-{}-{}.{}-{}",
        meta.dev(),
        meta.ino(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.size()
    );
    let entry = cache.join(name);
    if let Some(major) = std::fs::read_to_string(&entry)
        .ok()
        .and_then(|text| text.trim().parse().ok())
    {
        return Some(major);
    }
    let major = parse_version(&ask_version(program)?)?;
    // Without a cache the next start asks again.
    let _ = store(cache, &entry, major);
    Some(major)
}

fn store(cache: &Path, entry: &Path, major: u32) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(cache)?;
    let unfinished = entry.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&unfinished, major.to_string())?;
    std::fs::rename(&unfinished, entry)
}

fn ask_version(program: &Path) -> Option<String> {
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + VERSION_TIMEOUT;
    let finished = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.success(),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                break false;
            }
        }
    };
    let mut text = String::new();
    child.stdout.take()?.take(4096).read_to_string(&mut text).ok()?;
    finished.then_some(text)
}

/// Reads `containerd github.com/containerd/containerd/v2 2.1.9 ...`: program, package, version. Others are in doubt.
fn parse_version(text: &str) -> Option<u32> {
    let mut words = text.split_whitespace();
    if words.next() != Some("containerd") {
        return None;
    }
    let version = words.nth(1)?;
    version.trim_start_matches('v').split('.').next()?.parse().ok()
}

#[cfg(test)]
#[path = "caller_test.rs"]
mod caller_test;
