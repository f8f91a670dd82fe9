//! Finding and running a container's program: the last steps inside the container, with runc's semantics and messages.

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use oci_spec::runtime::Process;
use std::ffi::CString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where a program is looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Looks the program of `process` up as the calling user, in the calling mount namespace and directory. The message is the
/// one that users of runc know.
pub fn find(process: &Process) -> Result<CString, String> {
    let name = match process.args().as_ref().and_then(|args| args.first()) {
        Some(name) if !name.is_empty() => name.as_str(),
        Some(_) => return Err("exec: \"\": executable file not found in $PATH".to_string()),
        None => return Err("process.args is empty: there is no program to run".to_string()),
    };
    check_strings(process)?;
    let found = if name.contains('/') {
        at_path(name)
    } else {
        in_search_path(name, process)
    };
    found.and_then(|path| CString::new(path).map_err(|_| format!("exec: {name:?}: invalid argument")))
}

/// A program could not be given what has a zero byte in it.
fn check_strings(process: &Process) -> Result<(), String> {
    let has_zero = |text: &&String| text.contains('\0');
    if let Some(argument) = process.args().iter().flatten().find(has_zero) {
        return Err(format!("argument {argument:?} contains nul byte (\\0)"));
    }
    match process.env().iter().flatten().find(has_zero) {
        Some(entry) => Err(format!("environment variable {entry:?} contains nul byte (\\0)")),
        None => Ok(()),
    }
}

fn at_path(name: &str) -> Result<String, String> {
    match executable(Path::new(name)) {
        Ok(()) => Ok(name.to_string()),
        Err(Errno::ENOENT) => Err(format!("exec: {name:?}: stat {name}: no such file or directory")),
        Err(Errno::ENOTDIR) => Err(format!("exec: {name:?}: stat {name}: not a directory")),
        Err(errno) => Err(format!("exec: {name:?}: {}", text(errno))),
    }
}

fn in_search_path(name: &str, process: &Process) -> Result<String, String> {
    // The last entry counts, as with every other variable that is set twice.
    let mut entries = process.env().iter().flatten().rev();
    let search = entries
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    for directory in search.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let path = Path::new(directory).join(name);
        if executable(&path).is_ok() {
            return Ok(path.to_string_lossy().into_owned());
        }
    }
    Err(format!("exec: {name:?}: executable file not found in $PATH"))
}

fn executable(path: &Path) -> Result<(), Errno> {
    let metadata = std::fs::metadata(path).map_err(|error| errno_of(&error))?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR);
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    // A no-execute mount shows only here; so does a mode that leaves this user out.
    access(path, AccessFlags::X_OK)
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// An errno in the words that Go programs print: those of the C library, in lower case.
pub fn text(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// The environment as the program gets it: in the spec's order, the last of two settings of one name, HOME filled in from the
/// container's passwd file.
pub fn environment(process: &Process) -> Vec<CString> {
    let mut entries: Vec<&str> = Vec::new();
    for entry in process.env().iter().flatten() {
        let name = entry.split('=').next().unwrap_or_default();
        entries.retain(|earlier| earlier.split('=').next() != Some(name));
        entries.push(entry);
    }
    let home = home(process.user().uid());
    if !entries
        .iter()
        .any(|entry| entry.strip_prefix("HOME=").is_some_and(|value| !value.is_empty()))
    {
        entries.retain(|entry| !entry.starts_with("HOME="));
        entries.push(&home);
    }
    entries
        .into_iter()
        .filter_map(|entry| CString::new(entry).ok())
        .collect()
}

fn home(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut homes = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (id, home) = (fields.nth(2)?, fields.nth(2)?);
        (id.parse() == Ok(uid) && !home.is_empty()).then(|| home.to_string())
    });
    format!("HOME={}", homes.next().unwrap_or_else(|| "/".to_string()))
}

/// Becomes the program. Returns only the error, in runc's words.
pub fn become_program(path: &CString, process: &Process) -> String {
    let args: Vec<CString> = process
        .args()
        .iter()
        .flatten()
        .filter_map(|arg| CString::new(arg.as_str()).ok())
        .collect();
    let environment = environment(process);
    if let Err(errno) = crate::sys::restore_sigpipe() {
        return format!("cannot reset SIGPIPE: {}", text(errno));
    }
    match nix::unistd::execve(path, &args, &environment) {
        Err(Errno::E2BIG) => format!("exec {}: argument list too long", path.to_string_lossy()),
        Err(errno) => format!("exec {}: {}", path.to_string_lossy(), text(errno)),
    }
}

#[cfg(test)]
#[path = "program_test.rs"]
mod tests;
