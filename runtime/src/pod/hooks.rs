//! OCI hooks that run on the host: prestart, createRuntime, poststart and poststop.
//!
//! They see the pod as a host process does: the state's pid is the vmm's, whose network namespace is the pod's.
//!
//! poststop hooks are run by the shim, or by `delete` when the shim was lost before it could. Which of them does is settled by a file in
//! the bundle, [`STOPPED`], that only one of them makes: containerd calls `delete` after an orderly end, too.

use std::fs::File;
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result, blocking};
use crate::pidfd::PidFd;
use crate::spec;

/// For hooks that set no limit.
const TIMEOUT: Duration = Duration::from_secs(60);
/// For those that set one which no clock can count.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Most of a hook's standard error that is shown, bytes.
const STDERR: usize = 2048;
/// How long the words of an ended hook are waited for: a process that it has left behind can hold its standard error for ever.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Name of the file whose maker runs the poststop hooks of the bundle's container.
const STOPPED: &str = "poststop";

#[derive(Debug, Clone, Deserialize)]
struct Hook {
    path: String,
    #[serde(default)]
    args: Vec<String>,
    /// `None`: that of the shim, as runc's have that of runc.
    env: Option<Vec<String>>,
    timeout: Option<u64>,
}

/// Hooks of one container.
#[derive(Debug, Clone, Default)]
pub(super) struct Hooks {
    created: Vec<Hook>,
    started: Vec<Hook>,
    stopped: Vec<Hook>,
    bundle: PathBuf,
    state: Value,
}

/// Runs the poststop hooks of a container whose shim is lost, unless that has begun with them. They end within `patience`, or are ended.
/// Blocks.
pub fn run_poststop(bundle: &Path, id: &str, patience: Duration) -> Result<()> {
    let hooks = Hooks::of(&spec::load(bundle)?, id, bundle)?;
    if hooks.stopped.is_empty() || !claim(bundle) {
        return Ok(());
    }
    let state = hooks.state("stopped", None);
    let deadline = Instant::now() + patience;
    hooks.stopped.iter().try_for_each(|hook| {
        let left = deadline.saturating_duration_since(Instant::now());
        hook.run(state.as_bytes(), hook.timeout().min(left))
    })
}

/// Whether it is the caller who is to run the poststop hooks. Also when nobody can tell, as in a bundle that is gone.
fn claim(bundle: &Path) -> bool {
    let made = File::create_new(bundle.join(STOPPED));
    !made.is_err_and(|e| e.kind() == IoErrorKind::AlreadyExists)
}

impl Hooks {
    pub(super) fn of(spec: &Value, id: &str, bundle: &Path) -> Result<Hooks> {
        let list = |name: &str| -> Result<Vec<Hook>> {
            match spec
                .get("hooks")
                .and_then(|hooks| hooks.get(name))
                .filter(|value| !value.is_null())
            {
                None => Ok(Vec::new()),
                Some(hooks) => serde_json::from_value(hooks.clone())
                    .map_err(|e| Error::invalid(format!("container {id}: {name} hooks in the spec")).caused_by(e)),
            }
        };
        let mut created = list("prestart")?;
        created.extend(list("createRuntime")?);
        let version = spec.get("ociVersion").cloned().unwrap_or_else(|| Value::from("1.0.2"));
        let annotations = spec.get("annotations").cloned().unwrap_or_else(|| json!({}));
        let state = json!({ "ociVersion": version, "id": id, "bundle": bundle, "annotations": annotations });
        Ok(Hooks {
            created,
            started: list("poststart")?,
            stopped: list("poststop")?,
            bundle: bundle.to_owned(),
            state,
        })
    }

    /// Before the container is created in the guest. A failure fails the creation.
    pub(super) async fn run_created(&self, pid: u32) -> Result<()> {
        self.run(&self.created, "creating", Some(pid)).await
    }

    /// After the start. A failure is only logged, as the specification wants it.
    pub(super) async fn run_started(&self, pid: u32) {
        self.log(self.run(&self.started, "running", Some(pid)).await);
    }

    /// After the deletion. A failure is only logged.
    pub(super) async fn run_stopped(&self) {
        if self.stopped.is_empty() || !claim(&self.bundle) {
            return;
        }
        self.log(self.run(&self.stopped, "stopped", None).await);
    }

    fn log(&self, result: Result<()>) {
        if let Err(error) = result {
            tracing::warn!("{error}");
        }
    }

    async fn run(&self, hooks: &[Hook], status: &str, pid: Option<u32>) -> Result<()> {
        if hooks.is_empty() {
            return Ok(());
        }
        let state = self.state(status, pid);
        let hooks = hooks.to_vec();
        blocking("running hooks", move || {
            hooks
                .iter()
                .try_for_each(|hook| hook.run(state.as_bytes(), hook.timeout()))
        })
        .await
    }

    /// As the hooks read it (OCI runtime specification, "State").
    fn state(&self, status: &str, pid: Option<u32>) -> String {
        let mut state = self.state.clone();
        if let Some(state) = state.as_object_mut() {
            state.insert("status".into(), Value::from(status));
            if let Some(pid) = pid {
                state.insert("pid".into(), Value::from(pid));
            }
        }
        state.to_string()
    }
}

impl Hook {
    fn timeout(&self) -> Duration {
        self.timeout.map_or(TIMEOUT, Duration::from_secs).min(LONGEST)
    }

    fn run(&self, state: &[u8], timeout: Duration) -> Result<()> {
        let failed = |what: String| Error::internal(format!("hook {}: {what}", self.path));
        let mut command = Command::new(&self.path);
        if let Some((name, args)) = self.args.split_first() {
            command.arg0(name).args(args);
        }
        if let Some(env) = &self.env {
            let pairs = env.iter().filter_map(|pair| pair.split_once('='));
            command.env_clear().envs(pairs);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|e| failed("cannot be run".into()).caused_by(e))?;
        let process = PidFd::open(child.id()).map_err(|e| failed("cannot be watched".into()).caused_by(e))?;
        let helped = |e: std::io::Error| {
            process.kill(Duration::from_secs(1));
            failed("cannot be given a thread".into()).caused_by(e)
        };
        let helper = || std::thread::Builder::new().name("hook".into());
        let (words, said) = channel();
        if let Some(stderr) = child.stderr.take() {
            helper().spawn(move || listen(stderr, words)).map_err(helped)?;
        }
        if let Some(mut stdin) = child.stdin.take() {
            let state = state.to_owned();
            // A hook that does not read its state is none of our business; it ends the thread with itself.
            helper().spawn(move || drop(stdin.write_all(&state))).map_err(helped)?;
        }
        if !process.wait_ended(timeout).unwrap_or(false) {
            process.kill(Duration::from_secs(1));
            return Err(failed(format!("did not end within {} s", seconds(timeout))));
        }
        let status = child
            .wait()
            .map_err(|e| failed("its end was not seen".into()).caused_by(e))?;
        if status.success() {
            return Ok(());
        }
        Err(failed(format!("{status}: {}", words_of(&said))))
    }
}

/// To a tenth.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

/// Passes on how a hook's standard error begins, as it comes, and reads the rest, so that nobody who writes there has to wait.
fn listen(mut stderr: ChildStderr, words: Sender<Vec<u8>>) {
    let mut buffer = [0; STDERR];
    let mut left = STDERR;
    while let Ok(count) = stderr.read(&mut buffer)
        && count > 0
    {
        let said = buffer.get(..count.min(left)).unwrap_or_default();
        left -= said.len();
        // Nobody wants to know of a hook that succeeded.
        let heard = words.send(said.to_vec());
        if heard.is_err() || left == 0 {
            break;
        }
    }
    drop(words);
    let _ = std::io::copy(&mut stderr, &mut std::io::sink());
}

fn words_of(said: &Receiver<Vec<u8>>) -> String {
    let until = Instant::now() + LAST_WORDS;
    let mut text = Vec::new();
    while let Ok(more) = said.recv_timeout(until.saturating_duration_since(Instant::now())) {
        text.extend(more);
    }
    String::from_utf8_lossy(&text).trim().to_owned()
}

#[cfg(test)]
#[path = "hooks_test.rs"]
mod hooks_test;
