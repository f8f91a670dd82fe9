//! The error of everything the runtime does: a kind that callers map to their protocol's codes, and a message for a person.

use std::fmt;
use std::path::Path;

use nix::errno::Errno;

/// What sort of failure it is; the shim maps it to a ttrpc code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The named container, process or pod does not exist.
    NotFound,
    /// The named object exists already.
    AlreadyExists,
    /// The object is in a state that does not allow the call.
    FailedPrecondition,
    /// The request, spec, option or config cannot be carried out as it is.
    InvalidArgument,
    /// Something did not answer in time.
    DeadlineExceeded,
    /// The pod's microVM is gone.
    Unavailable,
    /// The host does not do what is asked, or a fault of our own.
    Internal,
}

/// A failure: its kind, what was attempted on which object, and the cause.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a further cause. `message` names the object and, where there is one, the remedy.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// Adds the cause, which `Display` appends after a colon.
    pub fn caused_by(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>) -> Error {
        self.source = Some(cause.into());
        self
    }

    /// Puts what was being done in front, keeping kind and cause.
    pub fn context(self, doing: impl fmt::Display) -> Error {
        Error {
            kind: self.kind,
            message: format!("{doing}: {}", self.message),
            source: self.source,
        }
    }

    /// Writes a name that the reader knows instead of one that he does not, in the message alone.
    pub(crate) fn naming(mut self, ours: &str, theirs: &str) -> Error {
        self.message = self.message.replace(ours, theirs);
        self
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// A failed system call on a file of the host. A full disk says what to do. That a file is not there is never
    /// [`ErrorKind::NotFound`], by which clients understand that a container is gone.
    pub(crate) fn io(doing: &str, path: &Path, error: impl Into<std::io::Error>) -> Error {
        let error = error.into();
        let remedy = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => " (free some space on that file system)",
            _ => "",
        };
        Error::internal(format!("{doing} {}{remedy}", path.display())).caused_by(error)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::InvalidArgument, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Internal, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, message)
    }

    pub(crate) fn precondition(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::FailedPrecondition, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unavailable, message)
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::DeadlineExceeded, message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source.as_deref().map(|s| s as &dyn std::error::Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

// `source` stays `None`: `Display` already tells the whole chain, and a reporter that walks it would say it twice.
impl std::error::Error for Error {}

/// Runs something that may block (mounts, files of clients, fifos) away from the one thread that serves everybody. `what` stands in
/// the error when it panics.
pub async fn blocking<T, F>(what: &'static str, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::internal(format!("{what} did not finish")).caused_by(e)),
    }
}
