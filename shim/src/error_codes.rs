//! How failures look to containerd: the one place where an error becomes a ttrpc status.

use bulkhead_runtime::error::{Error, ErrorKind};
use ttrpc::Code;

/// The code that containerd turns back into its own error of the same name, where clients tell failures apart by it. For all else it
/// is what runc's shim answers with: Docker shows such a message without a name in front.
pub fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NOT_FOUND,
        ErrorKind::AlreadyExists => Code::ALREADY_EXISTS,
        ErrorKind::FailedPrecondition => Code::FAILED_PRECONDITION,
        ErrorKind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        ErrorKind::Unavailable => Code::UNAVAILABLE,
        ErrorKind::InvalidArgument | ErrorKind::Internal => Code::UNKNOWN,
    }
}

/// A failed call's answer: its code and the whole chain of causes.
pub fn answer(error: Error) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code(error.kind()), error.to_string()))
}

/// The answer to a call that a microVM cannot serve.
pub fn unimplemented(why: &str) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(Code::UNIMPLEMENTED, why.to_owned()))
}

#[cfg(test)]
#[path = "error_codes_test.rs"]
mod error_codes_test;
