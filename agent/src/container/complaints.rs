//! What went wrong inside a container's init, told to the helper that libcontainer has it made by.
//!
//! libcontainer carries an error of the init over as its outermost text alone, which names neither mount nor file. Two pipes,
//! which outlive the forks in between, bring the rest: one the exact message of our own last steps, the other what libcontainer
//! logs as errors, innermost first.

use super::program;
use crate::error::chain;
use crate::transport::set_nonblocking;
use nix::errno::Errno;
use oci_spec::runtime::Spec;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::sync::{Arc, Mutex};

/// Most that is read of either pipe, bytes; less than a pipe holds, as nobody reads before the end.
const MOST: usize = 16 << 10;

/// The init's side.
#[derive(Clone)]
pub struct Complaints(Arc<PipeWriter>);

/// The helper's side.
pub struct Heard {
    exact: PipeReader,
    log: PipeReader,
}

/// Makes the pipes, and leads what libcontainer logs in this process and its children into one of them.
pub fn listen() -> std::io::Result<(Heard, Complaints)> {
    let (exact, to_exact) = std::io::pipe()?;
    let (log, to_log) = std::io::pipe()?;
    for reader in [&exact, &log] {
        set_nonblocking(reader)?;
    }
    // Nobody reads before the end.
    set_nonblocking(&to_log)?;
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .without_time()
        .with_level(false)
        .with_target(false)
        .with_ansi(false)
        // Nobody reads any more once the container is made, and its own stderr is not the place to say so.
        .log_internal_errors(false)
        .with_writer(Mutex::new(to_log))
        .finish();
    tracing::subscriber::set_global_default(subscriber).map_err(std::io::Error::other)?;
    Ok((Heard { exact, log }, Complaints(Arc::new(to_exact))))
}

impl Complaints {
    /// Hands over the exact text for the user.
    pub fn say(&self, message: &str) {
        let bytes = message.as_bytes();
        // If the pipe is broken the helper has gone, and nobody reads.
        let _unread = self.0.as_ref().write_all(bytes.get(..MOST).unwrap_or(bytes));
    }
}

impl Heard {
    /// The end of `exact`: it comes when the init runs its program, or will never do so.
    pub fn into_end(self) -> PipeReader {
        self.exact
    }

    /// The cause of libcontainer's error in the user's terms. Whatever the init had to say was in the pipes before libcontainer
    /// could report it.
    pub fn explain(self, error: &dyn std::error::Error, spec: &Spec) -> String {
        let exact = read(self.exact);
        if exact.is_empty() {
            from_log(&read(self.log), spec).unwrap_or_else(|| chain(error))
        } else {
            exact
        }
    }
}

fn read(mut pipe: PipeReader) -> String {
    let mut said = vec![0; MOST];
    let count = pipe.read(&mut said).unwrap_or_default();
    said.truncate(count);
    String::from_utf8_lossy(&said).into_owned()
}

/// The first line is the innermost cause; a line that holds a mount of the spec, as Rust's Debug prints it, is about that mount.
fn from_log(log: &str, spec: &Spec) -> Option<String> {
    let first = log.lines().next()?.trim();
    let mut mounts = spec.mounts().iter().flatten();
    let what = match mounts.find(|mount| log.contains(&format!("{mount:?}"))) {
        Some(mount) => format!(
            "error mounting {:?} to rootfs at {:?}",
            mount.source().as_deref().unwrap_or_else(|| "".as_ref()),
            mount.destination()
        ),
        None => first.to_string(),
    };
    Some(match errno_in(log) {
        Some(errno) => format!("{what}: {}", program::text(errno)),
        None if what == first => what,
        None => format!("{what}: {first}"),
    })
}

/// The first system error that is printed in `text` by the Debug of nix's or the standard library's errors.
fn errno_in(text: &str) -> Option<Errno> {
    let after = |mark: &str| text.find(mark).and_then(|at| text.get(at + mark.len()..));
    let digits = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    if let Some(number) = after("Os { code: ").and_then(digits) {
        return Some(Errno::from_raw(number));
    }
    let name = after("Nix(")?.split(')').next()?;
    let mut known = (1..=133).map(Errno::from_raw);
    known.find(|errno| format!("{errno:?}") == name)
}

#[cfg(test)]
#[path = "complaints_test.rs"]
mod tests;
