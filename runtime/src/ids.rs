//! Names that become parts of host paths: checked before anything is built from them.

use std::fmt;

use crate::error::{Error, Result};

/// Longest id or namespace in bytes: what still fits a file name together with our suffixes.
const MAX_LENGTH: usize = 200;

/// A container's (and a pod's) id: letters, digits, `_`, `.`, `-`; one to 200 of them; neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// The id as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for ContainerId {
    type Error = Error;

    fn try_from(id: &str) -> Result<ContainerId> {
        check("container id", id)?;
        Ok(ContainerId(id.to_owned()))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Refuses a containerd namespace that cannot be a folder's name.
pub fn validate_namespace(namespace: &str) -> Result<()> {
    check("containerd namespace", namespace)
}

/// Refuses the id of an exec by the same rule.
pub fn validate_exec_id(id: &str) -> Result<()> {
    check("exec id", id)
}

fn check(what: &str, id: &str) -> Result<()> {
    let reason = if id.is_empty() {
        "it is empty".to_owned()
    } else if id.len() > MAX_LENGTH {
        format!("it has {} bytes, at most {MAX_LENGTH} are allowed", id.len())
    } else if id == "." || id == ".." {
        "it names a folder".to_owned()
    } else if let Some(bad) = id
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.' | '-'))
    {
        format!("{bad:?} is not allowed, only letters, digits, '_', '.' and '-'")
    } else {
        return Ok(());
    };
    let shown: String = id.chars().take(40).collect();
    let dots = if id.chars().count() > 40 { "..." } else { "" };
    Err(Error::invalid(format!("invalid {what} {shown:?}{dots}: {reason}")))
}

#[cfg(test)]
#[path = "ids_test.rs"]
mod ids_test;
