//! The client's side of the streams: containerd's fifos, or files to append to.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use tokio::time::Instant;

use crate::error::{Error, Result, blocking};
use crate::pod::StdioPaths;

/// How long the client may take to open its end of an output.
const READER_TIMEOUT: Duration = Duration::from_secs(10);
const READER_RETRY: Duration = Duration::from_millis(5);

/// Where an output goes.
#[derive(Debug)]
pub(crate) enum Output {
    /// containerd's fifo, and a reader of our own that keeps writes from failing while no client reads.
    Fifo { writer: OwnedFd, reader: OwnedFd },
    /// Appended to.
    File(File),
}

/// A process's streams on the client's side, open.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    /// The fifo's reading end.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
}

impl Endpoints {
    /// Opens what `paths` names; waits for readers of the outputs, at most ten seconds.
    pub(crate) async fn open(paths: &StdioPaths) -> Result<Endpoints> {
        let stderr = paths.stderr.as_ref().filter(|_| !paths.terminal);
        Ok(Endpoints {
            stdin: match &paths.stdin {
                Some(path) => Some(open_input(path.clone()).await?),
                None => None,
            },
            stdout: open_output("stdout", paths.stdout.as_ref()).await?,
            stderr: open_output("stderr", stderr).await?,
        })
    }
}

async fn open_input(path: PathBuf) -> Result<OwnedFd> {
    blocking("opening stdin", move || {
        let failed = |e| Error::io("cannot open stdin", &path, e);
        if !std::fs::metadata(&path).map_err(failed)?.file_type().is_fifo() {
            return Err(Error::invalid(format!("stdin {} is no fifo", path.display())));
        }
        Ok(nonblocking().read(true).open(&path).map_err(failed)?.into())
    })
    .await
}

async fn open_output(name: &'static str, path: Option<&PathBuf>) -> Result<Option<Output>> {
    let Some(path) = path else { return Ok(None) };
    let (path, may_create) = file_of(name, path)?;
    let deadline = Instant::now() + READER_TIMEOUT;
    loop {
        let at = path.clone();
        if let Some(output) = blocking("opening an output", move || try_open_output(name, &at, may_create)).await? {
            return Ok(Some(output));
        }
        if Instant::now() >= deadline {
            let seconds = READER_TIMEOUT.as_secs();
            return Err(Error::timeout(format!(
                "{name} {}: no client opened it within {seconds} s",
                path.display()
            )));
        }
        tokio::time::sleep(READER_RETRY).await;
    }
}

/// A plain path, or the URIs that containerd knows; whether a missing file is to be made, which only `file:` asks for.
fn file_of(name: &str, path: &Path) -> Result<(PathBuf, bool)> {
    let text = path.to_string_lossy();
    match text.split_once("://") {
        None => Ok((path.to_owned(), false)),
        Some((scheme @ ("file" | "fifo"), rest)) if rest.starts_with('/') => {
            Ok((PathBuf::from(rest), scheme == "file"))
        }
        Some((scheme, _)) => Err(Error::invalid(format!(
            "{name} {text:?}: {scheme}:// is not supported for standard streams: use fifos or file:///path"
        ))),
    }
}

/// `None` while a fifo has no reader: one that we made ourselves would let the fifo vanish with everything in it when the
/// container ends before the client comes. A fifo that is gone was removed by a client that has given up.
fn try_open_output(name: &str, path: &Path, may_create: bool) -> Result<Option<Output>> {
    let failed = |e: std::io::Error| Error::io(&format!("cannot open {name}"), path, e);
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_fifo() => {
            let writer = match nonblocking().write(true).open(path) {
                Ok(writer) => writer,
                Err(e) if e.raw_os_error() == Some(Errno::ENXIO as i32) => return Ok(None),
                Err(e) => return Err(failed(e)),
            };
            let reader = nonblocking().read(true).open(path).map_err(failed)?;
            Ok(Some(Output::Fifo {
                writer: writer.into(),
                reader: reader.into(),
            }))
        }
        Ok(metadata) if metadata.is_dir() => Err(Error::invalid(format!("{name} {} is a folder", path.display()))),
        Ok(_) => Ok(Some(Output::File(append().open(path).map_err(failed)?))),
        Err(e) if may_create && e.kind() == std::io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(failed)?;
            }
            Ok(Some(Output::File(append().create(true).open(path).map_err(failed)?)))
        }
        Err(e) => Err(failed(e)),
    }
}

pub(super) fn nonblocking() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags((OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits());
    options
}

fn append() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).mode(0o644);
    options
}
