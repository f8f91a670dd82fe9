//! `bulkhead check`: whether this host can run pods, and what to do where it cannot.

pub(crate) mod image;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use serde::Serialize;

use crate::config::Config;
use crate::identity;

/// Least free space below the state folder, bytes.
const STATE_SPACE: u64 = 1 << 20;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Pods run, with less of something.
    Warn,
    /// Pods cannot run.
    Fail,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, one word.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when there is nothing to do.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "OK  ",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        write!(f, "{verdict} {:<11} {}", self.name, self.found)?;
        if !self.remedy.is_empty() {
            write!(f, ": {}", self.remedy)?;
        }
        Ok(())
    }
}

/// The host that is looked at: `/`, or a folder that stands for one in tests.
pub struct Host {
    root: PathBuf,
}

impl Default for Host {
    fn default() -> Host {
        Host {
            root: PathBuf::from("/"),
        }
    }
}

/// Looks at everything. Blocks.
pub fn run(host: &Host, config: &Config) -> Vec<Finding> {
    vec![
        host.kvm(),
        host.file("kernel", &config.kernel, image::open_kernel),
        host.file("agent", &config.agent_image, image::open_agent),
        host.vmm(&config.vmm),
        host.cgroups(),
        host.overcommit(),
        host.user_namespaces(),
        host.idmapped_mounts(),
        host.state(&config.state_dir),
        host.device("tun", "dev/net/tun", "pods get no network", "modprobe tun"),
        host.device(
            "vhost-net",
            "dev/vhost-net",
            "network traffic takes more CPU time",
            "modprobe vhost_net",
        ),
    ]
}

impl Host {
    fn path(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(Path::new(path))).unwrap_or_default()
    }

    fn kvm(&self) -> Finding {
        let node = self.path(Path::new("dev/kvm"));
        let cpu = self.text("proc/cpuinfo");
        let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let hardware = flags
            .split_ascii_whitespace()
            .any(|flag| flag == "vmx" || flag == "svm");
        let module = if cpu.contains("AuthenticAMD") {
            "kvm_amd"
        } else {
            "kvm_intel"
        };
        if self.path(Path::new("sys/module/kvm_pvm")).exists() {
            return fail(
                "kvm",
                "/dev/kvm is a software-only KVM (kvm_pvm), which cannot run a stock guest kernel",
                "use a host with VT-x or SVM, or a virtual machine with nested virtualization",
            );
        }
        match File::options().read(true).write(true).open(&node) {
            Ok(_) if hardware => ok("kvm", "/dev/kvm can be opened"),
            Ok(_) => fail(
                "kvm",
                "/dev/kvm is there, but the CPU shows neither vmx nor svm",
                "enable virtualization in the firmware, or nested virtualization for this virtual machine",
            ),
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => fail(
                "kvm",
                "/dev/kvm: permission denied",
                "run as root, or join the group kvm",
            ),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => fail(
                "kvm",
                &format!("/dev/kvm cannot be opened: {e}"),
                &format!("look for {module} in the kernel's log"),
            ),
            Err(_) if hardware => fail("kvm", "/dev/kvm is missing", &format!("modprobe {module}")),
            Err(_) => fail(
                "kvm",
                "/dev/kvm is missing and the CPU shows neither vmx nor svm",
                "enable virtualization in the firmware, or nested virtualization for this virtual machine",
            ),
        }
    }

    fn file(&self, name: &'static str, path: &Path, open: fn(&Path) -> crate::error::Result<File>) -> Finding {
        match open(&self.path(path)) {
            Ok(_) => ok(name, &path.display().to_string()),
            // The error names the remedy itself.
            Err(error) => fail(name, &error.to_string(), ""),
        }
    }

    fn vmm(&self, path: &Path) -> Finding {
        use std::os::unix::fs::PermissionsExt;
        let remedy = "install it there, or correct \"vmm\" in the config file";
        match std::fs::metadata(self.path(path)) {
            Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => {
                ok("vmm", &path.display().to_string())
            }
            Ok(_) => fail("vmm", &format!("{} is no program", path.display()), remedy),
            Err(e) => fail("vmm", &format!("{}: {e}", path.display()), remedy),
        }
    }

    fn cgroups(&self) -> Finding {
        let controllers = self.text("sys/fs/cgroup/cgroup.controllers");
        if controllers.is_empty() {
            return fail(
                "cgroup",
                "no cgroup v2 at /sys/fs/cgroup",
                "boot with systemd.unified_cgroup_hierarchy=1",
            );
        }
        let missing: Vec<&str> = ["cpu", "memory"]
            .into_iter()
            .filter(|wanted| !controllers.split_ascii_whitespace().any(|c| c == *wanted))
            .collect();
        if missing.is_empty() {
            return ok("cgroup", "cgroup v2");
        }
        let missing = missing.join(" and ");
        let remedy = "boot without cgroup_disable, and leave no controller in cgroup v1";
        fail(
            "cgroup",
            &format!("cgroup v2 without the controllers {missing}"),
            remedy,
        )
    }

    /// Room for all the memory that a pod may ever have is reserved at its start (Linux, mm/overcommit-accounting).
    fn overcommit(&self) -> Finding {
        if self.text("proc/sys/vm/overcommit_memory").trim() == "2" {
            return warn(
                "overcommit",
                "vm.overcommit_memory is 2: the memory that a pod may grow to counts as used from its start",
                "give pods memory limits, set \"max_memory_mib\" in the config file, or sysctl -w vm.overcommit_memory=0",
            );
        }
        ok("overcommit", "memory can be reserved before it is used")
    }

    fn user_namespaces(&self) -> Finding {
        let most = self.text("proc/sys/user/max_user_namespaces");
        if !self.path(Path::new("proc/self/ns/user")).exists() {
            return fail(
                "userns",
                "this kernel has no user namespaces",
                "use a kernel with CONFIG_USER_NS",
            );
        }
        match most.trim().parse::<u64>() {
            Ok(0) => fail(
                "userns",
                "user namespaces are switched off",
                "sysctl -w user.max_user_namespaces=15000",
            ),
            Ok(n) if n < 256 => {
                let found = format!("at most {n} user namespaces, so about as many pods");
                warn("userns", &found, "sysctl -w user.max_user_namespaces=15000")
            }
            _ => ok("userns", "user namespaces"),
        }
    }

    fn idmapped_mounts(&self) -> Finding {
        let release = self.text("proc/sys/kernel/osrelease");
        let release = release.trim();
        match identity::version(release) {
            Some(version) if version >= identity::KERNEL => ok("idmap", &format!("idmapped mounts (Linux {release})")),
            Some(version) if version >= (5, 12) => warn(
                "idmap",
                &format!("Linux {release} has no idmapped mounts for all that a pod has"),
                "pods share the host's user ids; Linux 6.3 or newer keeps them apart",
            ),
            Some(_) => fail(
                "idmap",
                &format!("Linux {release} has no mount_setattr"),
                "use Linux 5.12 or newer, better 6.3",
            ),
            None => warn(
                "idmap",
                &format!("kernel version {release:?} is not understood"),
                "Linux 6.3 or newer is wanted",
            ),
        }
    }

    /// The state folder itself, or the nearest folder above it that exists.
    fn state(&self, folder: &Path) -> Finding {
        let path = self.path(folder);
        let shown = folder.display();
        let Some(existing) = path.ancestors().find(|p| p.exists()) else {
            return fail(
                "state",
                &format!("{shown} cannot be created"),
                "correct \"state_dir\" in the config file",
            );
        };
        if !existing.is_dir() {
            let found = format!("{shown}: {} is no folder", existing.display());
            return fail(
                "state",
                &found,
                "remove it, or correct \"state_dir\" in the config file",
            );
        }
        if let Err(error) = nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK) {
            return fail(
                "state",
                &format!("{shown} is not writable: {error}"),
                "run as root, or correct \"state_dir\"",
            );
        }
        match statvfs(existing) {
            Ok(fs) if fs.blocks_available().saturating_mul(fs.fragment_size()) < STATE_SPACE => fail(
                "state",
                &format!("the file system of {shown} is full"),
                "free some space on it",
            ),
            Ok(fs) if fs.files() > 0 && fs.files_available() < 64 => fail(
                "state",
                &format!("the file system of {shown} has no inodes left"),
                "remove some files on it",
            ),
            Ok(_) => ok("state", &format!("{shown} is writable")),
            Err(error) => fail(
                "state",
                &format!("{shown}: {error}"),
                "correct \"state_dir\" in the config file",
            ),
        }
    }

    fn device(&self, name: &'static str, node: &str, without: &str, remedy: &str) -> Finding {
        if self.path(Path::new(node)).exists() {
            return ok(name, &format!("/{node}"));
        }
        warn(name, &format!("/{node} is missing: {without}"), remedy)
    }
}

fn ok(name: &'static str, found: &str) -> Finding {
    Finding {
        name,
        verdict: Verdict::Ok,
        found: found.to_owned(),
        remedy: String::new(),
    }
}

fn warn(name: &'static str, found: &str, remedy: &str) -> Finding {
    Finding {
        name,
        verdict: Verdict::Warn,
        found: found.to_owned(),
        remedy: remedy.to_owned(),
    }
}

fn fail(name: &'static str, found: &str, remedy: &str) -> Finding {
    Finding {
        name,
        verdict: Verdict::Fail,
        found: found.to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
#[path = "check_test.rs"]
mod check_test;
