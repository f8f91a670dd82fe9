//! The agent's errors as the runtime sees them: a kind that becomes a ttrpc status code, and a message for the user.

use ttrpc::Code;

/// What kind of refusal an error is; each stands for one status code of agent.proto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No such container or process.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The object is in the wrong state.
    FailedPrecondition,
    /// The request or the spec is wrong.
    InvalidArgument,
    /// Something in the guest failed.
    Internal,
}

/// An answer that refuses a request.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of refusal.
    pub kind: Kind,
    /// Names the object and what was attempted; shown to the user as it is.
    pub message: String,
}

/// Result of everything that answers a request.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with the text for the user.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// A failure inside the guest: `attempted` says what was tried, `cause` is chained behind it.
    pub fn internal(attempted: impl std::fmt::Display, cause: &dyn std::error::Error) -> Self {
        Self::new(Kind::Internal, format!("{attempted}: {}", chain(cause)))
    }

    /// A request that cannot be right.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }
}

/// An error with all its causes in one line, repeated texts left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = next.source();
    }
    text
}

/// The ttrpc status code of an error's kind.
pub fn code(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NOT_FOUND,
        Kind::AlreadyExists => Code::ALREADY_EXISTS,
        Kind::FailedPrecondition => Code::FAILED_PRECONDITION,
        Kind::InvalidArgument => Code::INVALID_ARGUMENT,
        Kind::Internal => Code::INTERNAL,
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        ttrpc::Error::RpcStatus(ttrpc::get_status(code(error.kind), error.message))
    }
}
