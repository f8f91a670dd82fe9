//! From a pod's description to a machine that runs, on the host's side.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_vmm_control::{BootFd, JailSpec, VmSpec};
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};

use super::sizing::{Host, Size};
use super::types::{ContainerSpec, PodResources, PodSpec};
use super::undo::Undo;
use crate::cgroup::{self, Limits};
use crate::check::image;
use crate::config::Config;
use crate::error::{Error, Result, blocking};
use crate::identity::Identity;
use crate::phase;
use crate::rootfs;
use crate::state::{PodFolder, PodRecord, ProcessRecord, now};
use crate::vmm_client::{Spawned, Vmm};

/// Memory that is plugged later is such that it can be unplugged again, as far as the kernel's own needs allow it (kernel,
/// admin-guide/mm/memory-hotplug).
const HOTPLUG: &str = "memory_hotplug.online_policy=auto-movable";

/// What is there before the vmm is: folder, share, ids of the host, cgroup's name on record.
pub(super) struct Ground {
    folder: PodFolder,
    record: PodRecord,
    size: Size,
    identity: Arc<Identity>,
    kernel_parameters: String,
}

impl Ground {
    /// Makes it. Blocks.
    pub(super) fn prepare(
        spec: &PodSpec,
        first: Option<&ContainerSpec>,
        config: &Config,
        undo: &mut Undo,
    ) -> Result<Ground> {
        let size = Size::of(spec, config, &Host::find()?)?;
        let folder = PodFolder::create(config, &spec.namespace, &spec.id, undo)?;
        let identity = Identity::take(spec, first, config, undo)?;
        let record = PodRecord {
            namespace: spec.namespace.clone(),
            id: spec.id.to_string(),
            shim_pid: std::process::id(),
            vmm: None,
            cgroup: spec.cgroup_path.clone(),
            vcpus: size.vcpus,
            memory_mib: size.memory_mib,
            host_id_ranges: identity.bases(),
            created: now(),
        };
        folder.write_record(&record)?;
        rootfs::make_share(&folder.share(), undo)?;
        Ok(Ground {
            folder,
            record,
            size,
            identity: Arc::new(identity),
            kernel_parameters: format!("{HOTPLUG} {}", config.kernel_parameters),
        })
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    pub(super) fn identity(&self) -> Arc<Identity> {
        self.identity.clone()
    }

    pub(super) fn share(&self) -> PathBuf {
        self.folder.share()
    }

    /// Starts the vmm and waits until its vCPUs run. Takes `undo` along: what it did is on it also when it fails.
    pub(super) async fn start(self, spec: &PodSpec, config: &Config, undo: &mut Undo) -> Result<Vmm> {
        let Ground {
            folder,
            mut record,
            size,
            identity,
            kernel_parameters,
        } = self;
        let (fds, kinds) = {
            let (folder, config, netns) = (folder.clone(), config.clone(), spec.network_namespace.clone());
            let identity = identity.clone();
            blocking("opening the machine's files", move || {
                open_fds(&folder, &config, netns.as_deref(), &identity)
            })
            .await?
        };
        let spawned = Spawned::spawn(&config.vmm)?;
        if let Some(path) = spec.cgroup_path.clone() {
            let pid = spawned.pid();
            let limits = Limits {
                // The quota is for the containers: with a small one the guest would boot for minutes.
                resources: PodResources {
                    cpu_quota_us: None,
                    ..spec.resources.clone()
                },
                memory_bytes: size.host_memory_bytes,
                ..Limits::default()
            };
            let removed = path.clone();
            undo.push(format!("cgroup {path}"), move || cgroup::remove(&removed));
            blocking("entering the host cgroup", move || cgroup::enter(&path, pid, &limits)).await?;
        }
        set_oom_score(spawned.pid(), spec.oom_score_adj.unwrap_or(0))?;
        let vm = VmSpec {
            vcpus: size.vcpus,
            max_vcpus: size.max_vcpus,
            memory_mib: size.memory_mib,
            max_memory_mib: size.max_memory_mib,
            extra_cmdline: kernel_parameters,
            verbose_console: config.verbose_console,
            jail: JailSpec {
                ids: identity.extents(),
            },
            fds: kinds,
            disks: Vec::new(),
        };
        let jailed = spawned.jail(vm, fds, config.boot_timeout()).await?;
        phase::over("vmm", &spec.id);
        record.vmm = ProcessRecord::of(jailed.pid()?);
        let at = folder.clone();
        blocking("recording the pod", move || at.write_record(&record)).await?;
        let vmm = jailed.booted().await.map_err(|e| {
            let (kernel, agent) = (config.kernel.display(), config.agent_image.display());
            e.context(format!("kernel {kernel}, agent image {agent}"))
        })?;
        phase::over("kernel", &spec.id);
        Ok(vmm)
    }
}

/// Every file of the host that the vmm gets, in the order of their names. Blocks.
fn open_fds(
    folder: &PodFolder,
    config: &Config,
    netns: Option<&Path>,
    identity: &Identity,
) -> Result<(Vec<OwnedFd>, Vec<BootFd>)> {
    let mut fds: Vec<(BootFd, OwnedFd)> = Vec::new();
    let kvm = Path::new("/dev/kvm");
    let kvm = File::options().read(true).write(true).open(kvm).map_err(|e| {
        Error::io("cannot open", kvm, e)
            .context("this host cannot run microVMs (`bulkhead check` says what is missing)")
    })?;
    fds.push((BootFd::Kvm, kvm.into()));
    fds.push((BootFd::Kernel, image::open_kernel(&config.kernel)?.into()));
    fds.push((BootFd::AgentImage, image::open_agent(&config.agent_image)?.into()));
    let share = folder.share();
    let share = File::options()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits())
        .open(&share)
        .map_err(|e| Error::io("cannot open the pod's share", &share, e))?;
    fds.push((BootFd::Share, share.into()));
    fds.push((BootFd::NetworkNamespace, network_namespace(netns)?));
    let locks = identity.take_locks().into_iter();
    fds.extend(locks.map(|lock| (BootFd::IdsLock, lock)));
    if config.verbose_console {
        let path = folder.console_log();
        let log = File::options().append(true).create(true).mode(0o600).open(&path);
        fds.push((
            BootFd::ConsoleLog,
            log.map_err(|e| Error::io("cannot create the console log", &path, e))?
                .into(),
        ));
    }
    let kinds = fds.iter().map(|(kind, _)| *kind).collect();
    Ok((fds.into_iter().map(|(_, fd)| fd).collect(), kinds))
}

/// The namespace at `path`, or a new one that lasts as long as somebody holds its descriptor or lives in it.
fn network_namespace(path: Option<&Path>) -> Result<OwnedFd> {
    if let Some(path) = path {
        let file = File::open(path).map_err(|e| Error::io("cannot open the pod's network namespace", path, e))?;
        return Ok(file.into());
    }
    let failed = |e: std::io::Error| Error::internal("cannot make a network namespace").caused_by(e);
    // The thread ends with its view of the new namespace; all others keep theirs.
    let maker = std::thread::Builder::new()
        .name("netns".into())
        .spawn(|| -> std::io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
    match maker.map_err(failed)?.join() {
        Ok(file) => Ok(file.map_err(failed)?.into()),
        Err(_) => Err(Error::internal("cannot make a network namespace: its thread died")),
    }
}

/// Without this a vmm would inherit the shim's score, which spares it from the out-of-memory killer.
pub(super) fn set_oom_score(pid: u32, score: i32) -> Result<()> {
    let path = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
    std::fs::write(&path, score.clamp(-1000, 1000).to_string())
        .map_err(|e| Error::io("cannot set the out-of-memory score in", &path, e))
}
