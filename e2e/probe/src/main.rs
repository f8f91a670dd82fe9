//! Boots one `bulkhead-vmm` directly over its control channel, without containerd, and tells how long each step took.
//!
//! Needs root and /dev/kvm. Prints one JSON object: microseconds on CLOCK_MONOTONIC from just before the vmm was started until it
//! was in its jail, until its vCPUs were about to run, and until the agent's port accepted a connection; then its counters and KVM's of
//! that moment. The two figures that the benchmark takes come first: milliseconds and exits until the agent answered. Without options
//! it is the machine of a pod without limits on a host with one CPU and 4 GiB.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bulkhead_vmm_control::{
    BootFd, Channel, Counters, DiskSpec, IdExtent, JailSpec, Reply, Request, StopReason, VmSpec,
};
use clap::Parser;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::stat::Mode;
use nix::sys::wait::wait;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::alarm;

/// Ids outside that the pod's 0 to 65535 become with `--shifted-ids`.
const SHIFTED: u32 = 1_000_000;

/// How long a probe may take besides `--hold`, in seconds.
const BOUND_S: u32 = 300;

/// Where KVM has a folder for each machine, named after the process that made it.
const KVM: &str = "/sys/kernel/debug/kvm";

/// Pause after a refused connection: the agent does not listen yet.
const RETRY: Duration = Duration::from_millis(3);

#[derive(Parser)]
#[command(version, about = "Boots one bulkhead-vmm and tells how long each step took")]
struct Options {
    /// The vmm.
    #[arg(long, default_value = "/usr/local/libexec/bulkhead/bulkhead-vmm")]
    vmm: PathBuf,
    /// Uncompressed guest kernel.
    #[arg(long, default_value = "/usr/local/share/bulkhead/vmlinux")]
    kernel: PathBuf,
    /// The agent's file-system image.
    #[arg(long, default_value = "/usr/local/share/bulkhead/agent.erofs")]
    agent: PathBuf,
    /// Directory to share; by default an empty one.
    #[arg(long)]
    share: Option<PathBuf>,
    /// vCPUs.
    #[arg(long, default_value_t = 1)]
    vcpus: u8,
    /// Most vCPUs that there could be later; by default no more.
    #[arg(long)]
    max_vcpus: Option<u8>,
    /// Guest memory in MiB.
    #[arg(long, default_value_t = 512)]
    memory_mib: u32,
    /// Most memory that there could be later, MiB.
    #[arg(long, default_value_t = 4096)]
    max_memory_mib: u32,
    /// Disk to be there from the first moment; may be repeated.
    #[arg(long)]
    disk: Vec<PathBuf>,
    /// Disk to plug and unplug once the agent listens; may be repeated.
    #[arg(long)]
    plug: Vec<PathBuf>,
    /// Appended to the kernel command line.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    cmdline: String,
    /// Where the guest's console goes, with all kernel messages.
    #[arg(long)]
    console: Option<PathBuf>,
    /// Map the pod's ids to others, as for a pod with ids of its own; the share then belongs to nobody.
    #[arg(long)]
    shifted_ids: bool,
    /// Port that the agent listens on; the last one that it opens, when it is ready to answer.
    #[arg(long, default_value_t = 1025)]
    port: u32,
    /// Keep each plugged disk, and then the machine, for this many seconds.
    #[arg(long, default_value_t = 0)]
    hold: u32,
    /// Wait for the machine to end by itself instead of for the agent; prints how.
    #[arg(long)]
    until_stopped: bool,
}

/// What was measured, in microseconds.
#[derive(Default)]
struct Times {
    jailed: u64,
    booted: u64,
    connected: u64,
    attempts: u64,
}

fn main() -> ExitCode {
    match probe(&Options::parse()) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bulkhead-vmm-probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn probe(options: &Options) -> Result<serde_json::Value> {
    let share = prepare_share(options.share.as_deref())?;
    let (spec, fds) = describe(options, share)?;
    let (near, far) = Channel::pair()?;
    let far = far.into_fd();
    fcntl(&far, FcntlArg::F_SETFD(FdFlag::empty()))?;
    set_child_subreaper(true).context("cannot adopt the monitor")?;
    // Ends this process, and the monitor with it, which notices the closed channel.
    alarm::set(BOUND_S + options.hold * (1 + options.plug.len() as u32));
    let start = now()?;
    Command::new(&options.vmm)
        .arg("--control-fd")
        .arg(std::os::fd::AsRawFd::as_raw_fd(&far).to_string())
        .spawn()
        .with_context(|| format!("cannot start {}", options.vmm.display()))?;
    drop(far);
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    near.send(&Request::Boot(Box::new(spec)), &borrowed)?;
    let mut times = Times::default();
    let mut monitor = 0;
    loop {
        match receive(&near)? {
            Reply::Jailed { pid } => (times.jailed, monitor) = (now()? - start, pid),
            Reply::Booted => break,
            other => bail!("unexpected reply {other:?}"),
        }
    }
    times.booted = now()? - start;
    if options.until_stopped {
        return wait_for_stop(&near, start);
    }
    connect(&near, options.port, &mut times, start)?;
    let kvm = kvm_counters(monitor);
    let counters = read_counters(&near)?;
    let slots = plug_and_unplug(&near, &options.plug, Duration::from_secs(options.hold.into()))?;
    std::thread::sleep(Duration::from_secs(options.hold.into()));
    let at_end = read_counters(&near)?;
    drop(near);
    reap_all();
    Ok(serde_json::json!({
        "agent_ms": times.connected as f64 / 1000.0,
        "exits": counters.exits_io + counters.exits_mmio + counters.exits_other,
        "jailed_us": times.jailed,
        "booted_us": times.booted,
        "connected_us": times.connected,
        "attempts": times.attempts,
        "counters": as_json(counters),
        "kvm": kvm,
        "counters_at_end": as_json(at_end),
        "slots": slots,
    }))
}

/// Waits for the last message; anything else is unexpected.
fn wait_for_stop(channel: &Channel, start: u64) -> Result<serde_json::Value> {
    let reason = match channel.receive::<Reply>()?.0 {
        Reply::Stopped(reason) => reason,
        other => bail!("unexpected reply {other:?}"),
    };
    let stopped = now()? - start;
    reap_all();
    let (how, console) = match reason {
        StopReason::PoweredOff => ("powered off".to_owned(), String::new()),
        StopReason::Reset { console } => ("reset".to_owned(), console),
        StopReason::Panicked { console } => ("panicked".to_owned(), console),
        StopReason::Failed { message, console } => (message, console),
    };
    Ok(serde_json::json!({ "stopped_us": stopped, "how": how, "console": console }))
}

/// Waits for the monitor, which its first process has left to this one, so that the next sample does not overlap with it.
fn reap_all() {
    while wait().is_ok() {}
}

/// A private mount namespace in which the share is a mount point, so that the vmm can make it its root.
fn prepare_share(directory: Option<&Path>) -> Result<OwnedFd> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace (root is needed)")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .context("cannot detach from the host's mounts")?;
    let path = match directory {
        Some(path) => {
            mount(Some(path), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
                .with_context(|| format!("cannot bind {}", path.display()))?;
            path
        }
        None => {
            let path = Path::new("/mnt");
            mount(Some("share"), path, Some("tmpfs"), MsFlags::empty(), none)
                .context("cannot mount a tmpfs on /mnt")?;
            path
        }
    };
    open(
        path,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .with_context(|| format!("cannot open {}", path.display()))
}

fn describe(options: &Options, share: OwnedFd) -> Result<(VmSpec, Vec<OwnedFd>)> {
    let read = |path: &Path| File::open(path).with_context(|| format!("cannot open {}", path.display()));
    let both = |path: &Path| {
        File::options()
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))
    };
    let mut kinds = vec![BootFd::Kvm, BootFd::Kernel, BootFd::AgentImage, BootFd::Share];
    let mut fds: Vec<OwnedFd> = vec![
        both(Path::new("/dev/kvm"))?.into(),
        read(&options.kernel)?.into(),
        read(&options.agent)?.into(),
        share,
    ];
    for disk in &options.disk {
        kinds.push(BootFd::Disk);
        fds.push(both(disk)?.into());
    }
    if let Some(console) = &options.console {
        kinds.push(BootFd::ConsoleLog);
        let log = File::options().append(true).create(true).open(console);
        fds.push(
            log.with_context(|| format!("cannot open {}", console.display()))?
                .into(),
        );
    }
    let outside = if options.shifted_ids { SHIFTED } else { 0 };
    let count = if options.shifted_ids { 65_536 } else { u32::MAX };
    let ids = vec![IdExtent {
        inside: 0,
        outside,
        count,
    }];
    let disks = options.disk.iter().map(|path| disk_spec(path)).collect();
    let spec = VmSpec {
        vcpus: options.vcpus,
        max_vcpus: options.max_vcpus.unwrap_or(options.vcpus),
        memory_mib: options.memory_mib,
        max_memory_mib: options.max_memory_mib.max(options.memory_mib),
        extra_cmdline: options.cmdline.clone(),
        verbose_console: options.console.is_some(),
        jail: JailSpec { ids },
        fds: kinds,
        disks,
    };
    Ok((spec, fds))
}

fn disk_spec(path: &Path) -> DiskSpec {
    DiskSpec {
        id: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        read_only: false,
    }
}

/// Asks for a stream until the agent accepts it.
fn connect(channel: &Channel, port: u32, times: &mut Times, start: u64) -> Result<()> {
    loop {
        times.attempts += 1;
        let (_near, far) = UnixStream::pair()?;
        channel.send(&Request::Connect { port }, &[far.as_fd()])?;
        drop(far);
        match receive(channel)? {
            Reply::Done => break,
            Reply::Failed { .. } => std::thread::sleep(RETRY),
            other => bail!("unexpected reply {other:?}"),
        }
    }
    times.connected = now()? - start;
    Ok(())
}

fn read_counters(channel: &Channel) -> Result<Counters> {
    channel.send(&Request::ReadCounters, &[])?;
    match receive(channel)? {
        Reply::Counters(counters) => Ok(counters),
        other => bail!("unexpected reply {other:?}"),
    }
}

/// Plugs each disk, and unplugs it again after `hold`; returns the slots they had.
fn plug_and_unplug(channel: &Channel, disks: &[PathBuf], hold: Duration) -> Result<Vec<u8>> {
    let mut slots = Vec::new();
    for path in disks {
        let file = File::options().read(true).write(true).open(path)?;
        let spec = disk_spec(path);
        let id = spec.id.clone();
        channel.send(&Request::AttachDisk(spec), &[file.as_fd()])?;
        match receive(channel)? {
            Reply::Attached { slot } => slots.push(slot),
            other => bail!("cannot plug {}: {other:?}", path.display()),
        }
        std::thread::sleep(hold);
        channel.send(&Request::DetachDisk { id }, &[])?;
        match receive(channel)? {
            Reply::Done => {}
            other => bail!("cannot unplug {}: {other:?}", path.display()),
        }
    }
    Ok(slots)
}

/// The next reply; the end of the machine is an error.
fn receive(channel: &Channel) -> Result<Reply> {
    match channel.receive::<Reply>()?.0 {
        Reply::Stopped(StopReason::PoweredOff) => bail!("the guest powered itself off"),
        Reply::Stopped(StopReason::Reset { console }) => bail!("the guest reset itself; its console:\n{console}"),
        Reply::Stopped(StopReason::Panicked { console }) => bail!("the guest panicked; its console:\n{console}"),
        Reply::Stopped(StopReason::Failed { message, console }) => bail!("{message}; its console:\n{console}"),
        reply => Ok(reply),
    }
}

/// What KVM counts of the machine of the process `monitor`, by name; nothing where there is no debugfs. Not all of it are numbers.
fn kvm_counters(monitor: u32) -> serde_json::Map<String, serde_json::Value> {
    let mut found = serde_json::Map::new();
    let machines = std::fs::read_dir(KVM).into_iter().flatten().flatten();
    let of_monitor = format!("{monitor}-");
    for machine in machines.filter(|machine| machine.file_name().to_string_lossy().starts_with(&of_monitor)) {
        for file in std::fs::read_dir(machine.path()).into_iter().flatten().flatten() {
            let number = std::fs::read_to_string(file.path()).ok();
            if let Some(number) = number.and_then(|text| text.trim().parse::<u64>().ok()) {
                found.insert(file.file_name().to_string_lossy().into_owned(), number.into());
            }
        }
    }
    found
}

fn as_json(counters: Counters) -> serde_json::Value {
    serde_json::json!({
        "exits_io": counters.exits_io,
        "exits_mmio": counters.exits_mmio,
        "exits_other": counters.exits_other,
        "bytes_copied_at_boot": counters.bytes_copied_at_boot,
    })
}

/// CLOCK_MONOTONIC in microseconds.
fn now() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(time.tv_sec() as u64 * 1_000_000 + time.tv_nsec() as u64 / 1000)
}
