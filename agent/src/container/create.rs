//! In the helper: makes a container with libcontainer and leaves its init waiting for the start.

use super::complaints::{self, Complaints};
use super::helper::{TerminalSize, receive};
use super::restrictions::Restrictions;
use super::{cgroup, copy_up, keyring, mounts, program, rlimits, stream_owner, user_namespace, working_directory};
use crate::error::chain;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::container::{ContainerStatus, State};
use libcontainer::hooks::run_hooks;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use oci_spec::runtime::{Hook, Process, Spec};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Exit status of an init whose program cannot be run, as runc has it.
const CANNOT_RUN: i32 = 255;

/// What to make.
#[derive(Serialize, Deserialize)]
pub struct Request {
    /// The container's name.
    pub id: String,
    /// Adapted spec.
    pub spec: Spec,
    /// The container's own directory, which exists: bundle, state and sockets go there.
    pub directory: PathBuf,
    /// cgroup.procs of the container.
    pub procs_file: PathBuf,
    /// A terminal of this size.
    pub terminal: Option<TerminalSize>,
    /// Kernel parameters of the guest's network.
    pub network_sysctls: HashMap<String, String>,
    /// Nodes of the disks that were plugged for it, which mounts may have as their source.
    pub disks: Vec<PathBuf>,
    /// The root file system, if it is on one of them.
    pub root_disk: Option<RootDisk>,
}

/// A file system on a disk.
#[derive(Serialize, Deserialize)]
pub struct RootDisk {
    /// The disk's node.
    pub source: PathBuf,
    /// What the kernel calls it.
    pub file_system: String,
    /// As mount(2) takes them.
    pub flags: u64,
    /// Likewise.
    pub data: String,
}

/// What the helper leaves to the agent.
pub struct Made {
    /// The new process.
    pub pid: Pid,
    /// The master side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// For an init that waits: a pipe that ends when its program runs, or that nobody will run it.
    pub waiting: Option<OwnedFd>,
}

/// Result of the helper's work, or what the user shall read.
pub type Outcome = Result<Made, String>;

/// Name of the file, below a container's directory, whose socket the waiting init listens on.
pub fn start_socket(directory: &Path, id: &str) -> PathBuf {
    directory.join(id).join("notify.sock")
}

/// Makes the container.
pub fn run(mut request: Request) -> Outcome {
    let rootfs = at_hand(&mut request)?;
    let (unfinished, originals) = mounts::prepare(&mut request.spec, &rootfs)?;
    let charged = |from: &OwnedFd, place: &Path| cgroup::within(&request.procs_file, || copy_up::copy(from, place));
    mounts::mount_here(
        &mut request.spec,
        &request.disks,
        &originals,
        &request.directory,
        charged,
    )?;
    drop(originals);
    mounts::lend_file_systems(&mut request.spec, &request.directory)?;
    let user_namespace = user_namespace::make(&mut request.spec)?;
    if let Some(process) = request.spec.process() {
        rlimits::make_room(process)?;
    }
    keyring::join(&request.id)?;
    apply_network_sysctls(&request.network_sysctls)?;
    let text = |error: std::io::Error| format!("cannot prepare {}: {error}", request.directory.display());
    let bundle = request.directory.join("bundle");
    let hooks = StartHooks::take(&mut request.spec, &request.id, &bundle);
    let restrictions = Restrictions::take(&mut request.spec).ok_or("the specification has no process")?;
    let cwd = take_cwd(&mut request.spec);
    std::fs::create_dir_all(&bundle).map_err(text)?;
    let file = File::create(bundle.join("config.json")).map_err(text)?;
    serde_json::to_writer(file, &request.spec).map_err(|error| text(error.into()))?;
    let console_path = request.directory.join("console.sock");
    let console = match request.terminal {
        None => None,
        Some(size) => Some((UnixListener::bind(&console_path).map_err(text)?, size)),
    };
    let (heard, complaints) = complaints::listen().map_err(text)?;
    let built = ContainerBuilder::new(request.id.clone(), SyscallType::default())
        .with_executor(ContainerProgram {
            complaints,
            cwd,
            hooks,
            restrictions,
        })
        .with_console_socket(console.as_ref().map(|_| &console_path))
        .with_root_path(&request.directory)
        .and_then(|builder| builder.as_init(&bundle).with_systemd(false).with_detach(true).build());
    drop(user_namespace);
    match built {
        Ok(container) => {
            let pid = container
                .pid()
                .ok_or("libcontainer made a container without a process")?;
            let pid = Pid::from_raw(pid.as_raw());
            let user = request
                .spec
                .process()
                .as_ref()
                .map_or(0, |process| process.user().uid());
            let terminal = match console {
                Some((listener, size)) => Some(take_terminal(&listener, size, pid, user)?),
                None => {
                    stream_owner::give_to_user(pid, user)?;
                    None
                }
            };
            // Last: it leads out of the guest's own mounts.
            unfinished.finish(pid)?;
            Ok(Made {
                pid,
                terminal,
                waiting: Some(heard.into_end().into()),
            })
        }
        Err(error) => Err(format!(
            "unable to start container process: {}",
            heard.explain(&error, &request.spec)
        )),
    }
}

/// Mounts the root file system below the container's own directory, in a mount namespace of this process: from its disk, or as a bind
/// mount, because on the way to where it lies in the share every name is asked of the host each time that it is used. Gives its path
/// there, which the spec then has, too.
fn at_hand(request: &mut Request) -> Result<PathBuf, String> {
    let near = request.directory.join("rootfs");
    let apart = || -> std::io::Result<()> {
        std::fs::create_dir_all(&near)?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        Ok(())
    };
    apart().map_err(|error| format!("cannot prepare {}: {error}", near.display()))?;
    let failed = |source: &Path, errno| {
        let why = program::text(errno);
        format!("cannot mount the root file system {}: {why}", source.display())
    };
    if let Some(disk) = &request.root_disk {
        let (source, kind, data) = (&disk.source, Some(disk.file_system.as_str()), Some(disk.data.as_str()));
        let flags = MsFlags::from_bits_retain(disk.flags);
        mount(Some(source), &near, kind, flags, data).map_err(|errno| failed(source, errno))?;
    } else {
        let rootfs = request.spec.root().as_ref().map(|root| root.path().clone());
        let rootfs = rootfs.unwrap_or_default();
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&rootfs), &near, None::<&str>, flags, None::<&str>).map_err(|errno| failed(&rootfs, errno))?;
    }
    if let Some(root) = request.spec.root_mut() {
        root.set_path(near.clone());
    }
    Ok(near)
}

/// The init's working directory, of which libcontainer is told nothing: it would enter it before anybody could make it.
fn take_cwd(spec: &mut Spec) -> PathBuf {
    let process = spec.process_mut().as_mut();
    process.map_or_else(PathBuf::new, |process| {
        let cwd = process.cwd().clone();
        process.set_cwd(PathBuf::new());
        cwd
    })
}

/// Writes the pod-wide kernel parameters below /proc/sys/net.
fn apply_network_sysctls(sysctls: &HashMap<String, String>) -> Result<(), String> {
    for (key, value) in sysctls {
        // Dots separate, unless the key is written with slashes: then a dot belongs to an interface's name.
        let relative = if key.contains('/') {
            key.clone()
        } else {
            key.replace('.', "/")
        };
        if relative.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(format!("sysctl {key:?} is not a valid name"));
        }
        let path = Path::new("/proc/sys").join(relative);
        std::fs::write(&path, value).map_err(|error| format!("cannot set sysctl {key}={value}: {error}"))?;
    }
    Ok(())
}

/// Receives the terminal that the init has made inside the container, and finishes it.
fn take_terminal(listener: &UnixListener, size: TerminalSize, pid: Pid, user: u32) -> Result<OwnedFd, String> {
    let failed = |error: std::io::Error| format!("cannot receive the container's terminal: {error}");
    // The init has connected and sent before it reported ready.
    let (connection, _) = listener.accept().map_err(failed)?;
    let mut fds = Vec::new();
    receive(connection.as_raw_fd(), &mut Vec::new(), &mut fds).map_err(failed)?;
    let terminal = fds.pop().ok_or("the container's init sent no terminal")?;
    if size.width != 0 || size.height != 0 {
        crate::sys::set_terminal_size(&terminal, size.width, size.height).map_err(|errno| failed(errno.into()))?;
    }
    if let Some(owner) = stream_owner::owner_outside(pid, user).map_err(failed)? {
        std::os::unix::fs::chown(format!("/proc/{pid}/fd/0"), Some(owner), None).map_err(failed)?;
    }
    Ok(terminal)
}

/// libcontainer opens the container's /dev/null for reading only and puts it in place of every standard stream that was
/// /dev/null outside: a program without streams could not write to it.
fn writable_null() -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot open /dev/null in the container: {error}");
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(failed)?;
    let device = null.metadata().map_err(failed)?.rdev();
    let is_null = |stream: std::os::fd::BorrowedFd<'_>| {
        nix::sys::stat::fstat(stream).is_ok_and(|status| status.st_rdev == device)
    };
    if is_null(std::io::stdin().as_fd()) {
        nix::unistd::dup2_stdin(&null).map_err(|errno| failed(errno.into()))?;
    }
    if is_null(std::io::stdout().as_fd()) {
        nix::unistd::dup2_stdout(&null).map_err(|errno| failed(errno.into()))?;
    }
    if is_null(std::io::stderr().as_fd()) {
        nix::unistd::dup2_stderr(&null).map_err(|errno| failed(errno.into()))?;
    }
    Ok(())
}

/// Runs inside the container's init: the program is looked up before the container counts as created, and run when it starts.
#[derive(Clone)]
struct ContainerProgram {
    /// Takes the exact message, which libcontainer's own errors would bury.
    complaints: Complaints,
    /// Its working directory.
    cwd: PathBuf,
    hooks: StartHooks,
    restrictions: Restrictions,
}

/// The startContainer hooks. libcontainer would tell them neither pid nor the right status, and users not which of them failed.
#[derive(Clone)]
struct StartHooks {
    hooks: Vec<Hook>,
    state: State,
}

impl StartHooks {
    fn take(spec: &mut Spec, id: &str, bundle: &Path) -> StartHooks {
        let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().clone());
        spec.set_hooks(None);
        let mut state = State::new(id, ContainerStatus::Created, None, bundle.to_owned());
        state.annotations = spec.annotations().clone();
        StartHooks {
            hooks: hooks.unwrap_or_default(),
            state,
        }
    }

    /// Runs them, in the container. Those without an environment have that of `process`.
    fn run(&self, process: &Process) -> Result<(), String> {
        let entries = process.env().iter().flatten().filter_map(|entry| entry.split_once('='));
        let environment = entries
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut state = self.state.clone();
        state.pid = Some(Pid::this().as_raw());
        for hook in &self.hooks {
            run_hooks(Some(&vec![hook.clone()]), Some(&state), None, None, Some(&environment))
                .map_err(|error| format!("startContainer hook {}: {}", hook.path().display(), chain(&error)))?;
        }
        Ok(())
    }
}

impl Executor for ContainerProgram {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec
            .process()
            .as_ref()
            .ok_or(ExecutorValidationError::ArgValidationError("no process".into()))?;
        writable_null()
            .and_then(|()| working_directory::enter(&self.cwd))
            .and_then(|()| self.restrictions.apply(|| program::find(process).map(drop)))
            .map_err(|message| {
                self.complaints.say(&message);
                ExecutorValidationError::ArgValidationError(message)
            })
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The program's environment is made from the spec when it is run, in the spec's order.
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let message = match spec.process() {
            None => "no process".to_string(),
            Some(process) => match self.hooks.run(process).and_then(|()| program::find(process)) {
                Ok(path) => program::become_program(&path, process),
                Err(message) => message,
            },
        };
        // The container counts as started: the message can only go where the program's own would.
        let _closed = writeln!(std::io::stderr(), "{message}");
        std::process::exit(CANNOT_RUN);
    }
}
