//! The command line as containerd writes it: flags with one dash, then the action.
//!
//! `-namespace N -id I -address A -publish-binary B [-debug] start` runs in the bundle; `delete` has `-bundle` too; `-v` and
//! `-info` stand alone. Without an action it is the server that `start` leaves behind.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bulkhead_runtime::ids::{ContainerId, validate_namespace};

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// `-v`
    Version,
    /// `-info`
    Info,
    /// `start`
    Start(Call),
    /// `delete`
    Delete(Call),
    /// No action: serve what `start` handed over.
    Serve,
}

/// Flags that `start` and `delete` share, checked.
#[derive(Debug, Clone)]
pub struct Call {
    /// containerd's namespace.
    pub namespace: String,
    /// The container.
    pub id: ContainerId,
    /// containerd's main socket.
    pub address: String,
    /// containerd's own program.
    pub publish_binary: Option<PathBuf>,
    /// Where the bundle is, when that is not the working directory.
    pub bundle: Option<PathBuf>,
    /// Log in detail.
    pub debug: bool,
}

/// Reads the arguments without the program's name.
pub fn parse(arguments: &[OsString]) -> Result<Command> {
    let flags = containerd_shim::parse(arguments).context("cannot read the command line")?;
    if flags.version {
        return Ok(Command::Version);
    }
    if flags.info {
        return Ok(Command::Info);
    }
    match flags.action.as_str() {
        "" => Ok(Command::Serve),
        "start" => Ok(Command::Start(call(flags)?)),
        "delete" => Ok(Command::Delete(call(flags)?)),
        other => bail!("unknown action {other:?}: containerd calls a shim with start or delete"),
    }
}

fn call(flags: containerd_shim::Flags) -> Result<Call> {
    validate_namespace(&flags.namespace)?;
    let path = |text: String| (!text.is_empty()).then(|| PathBuf::from(text));
    Ok(Call {
        id: ContainerId::try_from(flags.id.as_str())?,
        namespace: flags.namespace,
        address: flags.address,
        publish_binary: path(flags.publish_binary),
        bundle: path(flags.bundle),
        debug: flags.debug,
    })
}

#[cfg(test)]
#[path = "cli_test.rs"]
mod cli_test;
