//! In the helper: starts a further process in a running container.
//!
//! libcontainer's own way does not carry the container's seccomp profile over, so this is done here: join the namespaces of the
//! container's init, fork into them, become the user with the container's restrictions, run the program. The order follows what
//! each step needs: the cgroup and the terminal before privileges go.

use super::create::{Made, Outcome};
use super::helper::TerminalSize;
use super::restrictions::Restrictions;
use super::scheduling::Scheduling;
use super::working_directory::not_entered;
use super::{keyring, program, rlimits, stream_owner};
use crate::sys;
use libcontainer::capabilities::reset_effective;
use libcontainer::syscall::syscall::create_syscall;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::{set_dumpable, set_keepcaps, set_no_new_privs};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, setgroups, setresgid, setresuid, setsid,
};
use oci_spec::runtime::{LinuxSeccomp, Process};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What to start.
#[derive(Serialize, Deserialize)]
pub struct Request {
    /// The container's name.
    pub id: String,
    /// Init of the container in the guest's root pid namespace.
    pub init: i32,
    /// cgroup.procs of the container.
    pub procs_file: PathBuf,
    /// That of its init's group, where processes go when the container has made groups in its own.
    pub init_procs_file: PathBuf,
    /// What to run and as whom.
    pub process: Process,
    /// The container's profile.
    pub seccomp: Option<LinuxSeccomp>,
    /// How it is to be scheduled.
    pub scheduling: Scheduling,
    /// A terminal of this size.
    pub terminal: Option<TerminalSize>,
}

/// Starts the process. Returns once its program runs.
pub fn run(request: Request) -> Outcome {
    start(&request).map_err(|message| format!("exec failed: unable to start container process: {message}"))
}

fn start(request: &Request) -> Outcome {
    let failed = |what: &str, error: &dyn std::error::Error| format!("{what}: {error}");
    let init = sys::pidfd_open(Pid::from_raw(request.init)).map_err(|error| failed("container init", &error))?;
    let open = |file| File::options().write(true).open(file);
    let groups = open(&request.procs_file)
        .and_then(|group| Ok([group, open(&request.init_procs_file)?]))
        .map_err(|error| failed("cgroup", &error))?;
    if let Some(score) = request.process.oom_score_adj() {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|error| failed("oom_score_adj", &error))?;
    }
    // From here on the container's processes may see this one.
    set_dumpable(false).map_err(|error| failed("set undumpable", &error))?;
    let (container, user) = (Pid::from_raw(request.init), request.process.user().uid());
    match stream_owner::owner_outside(container, user).map_err(|error| failed("uid_map", &error))? {
        None => return Err(format!("user {user} is not in the container's user namespace")),
        Some(_) if request.terminal.is_some() => {}
        Some(owner) => stream_owner::give(owner)?,
    }
    rlimits::make_room(&request.process)?;
    keyring::join(&request.id)?;
    let shares = |kind: &str| namespace("self", kind) == namespace(&request.init.to_string(), kind);
    let own_user_namespace = shares("user");
    let mut namespaces = CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWCGROUP;
    if !own_user_namespace {
        namespaces |= CloneFlags::CLONE_NEWUSER;
    }
    if !shares("time") {
        namespaces |= TIME_NAMESPACE;
    }
    let (master_receiver, master_sender) =
        std::os::unix::net::UnixStream::pair().map_err(|error| failed("socket", &error))?;
    let (complaint, complaints) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| failed("pipe", &error))?;
    let alone = sys::SingleThreaded::prove().map_err(|error| failed("fork", &error))?;
    setns(&init, namespaces).map_err(|error| failed("join the container's namespaces", &error))?;
    match alone.fork().map_err(|error| failed("fork", &error))? {
        ForkResult::Child => {
            drop((complaint, master_receiver));
            let message = match enter(request, groups, &master_sender, !own_user_namespace) {
                Ok(path) => program::become_program(&path, &request.process),
                Err(message) => message,
            };
            let _helper_gone = File::from(complaints).write_all(message.as_bytes());
            std::process::exit(255);
        }
        ForkResult::Parent { child } => {
            drop((complaints, master_sender, groups));
            let mut message = String::new();
            // Ends when the program runs (the pipe closes on exec) or the child has given up.
            File::from(complaint)
                .read_to_string(&mut message)
                .map_err(|error| failed("child", &error))?;
            if !message.is_empty() {
                return Err(message);
            }
            let mut fds = Vec::new();
            if request.terminal.is_some() {
                use std::os::fd::AsRawFd;
                super::helper::receive(master_receiver.as_raw_fd(), &mut Vec::new(), &mut fds)
                    .map_err(|error| failed("terminal", &error))?;
            }
            let terminal = fds.pop();
            Ok(Made {
                pid: child,
                terminal,
                waiting: None,
            })
        }
    }
}

/// CLONE_NEWTIME (linux/sched.h).
const TIME_NAMESPACE: CloneFlags = CloneFlags::from_bits_retain(0x80);

fn namespace(process: &str, kind: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{process}/ns/{kind}")).ok()
}

/// Puts the calling process into the first group, or into the second where the first has groups below it.
fn join([group, inner]: [File; 2]) -> Result<(), String> {
    let put = |mut group: File| group.write_all(b"0");
    let joined = put(group).or_else(|error| match error.raw_os_error() {
        Some(nix::libc::EBUSY) => put(inner),
        _ => Err(error),
    });
    joined.map_err(|error| format!("cannot join the container's cgroup: {error}"))
}

/// In the child, inside the container's namespaces: everything up to the program itself, whose path is returned.
fn enter(
    request: &Request,
    groups: [File; 2],
    master_sender: &std::os::unix::net::UnixStream,
    in_user_namespace: bool,
) -> Result<std::ffi::CString, String> {
    let process = &request.process;
    let step = |what: &'static str| move |errno: nix::Error| format!("{what}: {}", program::text(errno));
    join(groups)?;
    if in_user_namespace {
        // Who we were is nobody here.
        let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
        setresgid(group, group, group).map_err(step("setgid to the namespace's root"))?;
        setresuid(user, user, user).map_err(step("setuid to the namespace's root"))?;
    }
    let syscall = create_syscall();
    for limit in process.rlimits().iter().flatten() {
        syscall
            .set_rlimit(limit)
            .map_err(|error| format!("cannot set rlimit {}: {error}", limit.typ()))?;
    }
    setsid().map_err(step("setsid"))?;
    request.scheduling.apply()?;
    let user = process.user();
    if let Some(size) = request.terminal {
        open_terminal(size, user.uid(), master_sender)?;
    }
    // Directories that only root may enter are allowed as a start; those that only the user may enter are tried again below.
    let first_try = chdir(process.cwd());
    if let Some(mask) = user.umask() {
        umask(Mode::from_bits_truncate(mask));
    }
    if process.no_new_privileges() == Some(true) {
        set_no_new_privs().map_err(step("no_new_privs"))?;
    }
    set_keepcaps(true).map_err(step("keep capabilities"))?;
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    setgroups(&groups).map_err(step("setgroups"))?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    setresgid(gid, gid, gid).map_err(|errno| match errno {
        nix::Error::EINVAL => format!("group {gid} is not in the container's user namespace"),
        errno => format!("setgid: {}", program::text(errno)),
    })?;
    setresuid(uid, uid, uid).map_err(step("setuid"))?;
    reset_effective(syscall.as_ref()).map_err(|error| format!("capabilities: {error}"))?;
    Restrictions::of(process, request.seccomp.clone()).apply(|| {
        if first_try.is_err() {
            let cwd = process.cwd();
            chdir(cwd).map_err(|errno| not_entered(cwd, errno))?;
        }
        program::find(process)
    })
}

/// Makes a terminal in the container's devpts, keeps its slave as standard streams and sends its master to the helper.
fn open_terminal(size: TerminalSize, uid: u32, sender: &std::os::unix::net::UnixStream) -> Result<(), String> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let failed = |errno: nix::Error| format!("cannot make a terminal: {}", program::text(errno));
    let terminal = nix::pty::openpty(None, None).map_err(failed)?;
    if size.width != 0 || size.height != 0 {
        sys::set_terminal_size(&terminal.master, size.width, size.height).map_err(failed)?;
    }
    let slave: &OwnedFd = &terminal.slave;
    sys::set_controlling_terminal(slave).map_err(failed)?;
    dup2_stdin(slave)
        .and_then(|()| dup2_stdout(slave))
        .and_then(|()| dup2_stderr(slave))
        .map_err(failed)?;
    let fds = [terminal.master.as_raw_fd()];
    sendmsg::<()>(
        sender.as_raw_fd(),
        &[std::io::IoSlice::new(b"t")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )
    .map_err(failed)?;
    stream_owner::give(uid)
}
