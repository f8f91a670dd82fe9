//! The config file: optional, short, and refused as a whole when a key in it is not known.
//!
//! Every option's default, unit and limits stand at its field; configs/bulkhead.toml shows them all.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::cpus::host_cpus;

/// Read when no other path is given; may be missing.
pub const DEFAULT_PATH: &str = "/etc/bulkhead/bulkhead.toml";

/// Largest config file, bytes.
const MAX_FILE: u64 = 256 * 1024;

/// vCPUs of a pod without a CPU limit are the host's, up to this number.
const DEFAULT_VCPUS_MAX: u32 = 8;

/// What the host's administrator decided.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The monitor's program. Default: `../libexec/bulkhead/bulkhead-vmm` from the folder of the running program.
    pub vmm: PathBuf,
    /// Guest kernel, an uncompressed ELF vmlinux. Default: `../share/bulkhead/vmlinux`, likewise.
    pub kernel: PathBuf,
    /// Read-only image with the guest agent, erofs. Default: `../share/bulkhead/agent.erofs`, likewise.
    pub agent_image: PathBuf,
    /// Folder for what living pods need, on a file system that a reboot clears. Default: /run/bulkhead.
    pub state_dir: PathBuf,
    /// vCPUs of a pod without a CPU limit, 1 to `max_vcpus`. Default: the host's CPUs, at most 8 and `max_vcpus`.
    pub default_vcpus: Option<u32>,
    /// Most vCPUs that a limit or an annotation can ask for, 1 to 128. Default: 32.
    pub max_vcpus: u32,
    /// Memory of a pod without a memory limit, MiB, 64 to 1048576. Default: 512.
    pub default_memory_mib: u32,
    /// Most memory that a pod without a memory limit grows to, MiB, `default_memory_mib` to 1048576. Default: the host's memory.
    pub max_memory_mib: Option<u32>,
    /// Added to a pod's memory limit for the guest's kernel and agent, MiB, 0 to 65536. Default: 64.
    pub guest_overhead_mib: u32,
    /// Added to the guest's memory for the monitor itself in the host cgroup's limit, MiB, 16 to 65536. Default: 128.
    pub vmm_overhead_mib: u32,
    /// How long a microVM may take from its start until its agent answers, seconds, 1 to 600. Default: 60.
    pub boot_timeout_s: u64,
    /// Write all of the guest kernel's messages to `console.log` in the pod's state folder. Slows the boot. Default: false.
    pub verbose_console: bool,
    /// Appended to the guest kernel's command line. Default: empty.
    pub kernel_parameters: String,
    /// Keep the text of the guests' kernel once for all pods and not in each. Default: true.
    pub share_kernel: bool,
    /// Whether a pod gets host ids of its own: "auto" (unless its files cannot be mapped), "always" or "never". Default: "auto".
    pub id_mapping: IdMapping,
    /// Folder of the locks on host ids: one for the host, so it is no option.
    #[serde(skip)]
    pub(crate) ids_dir: PathBuf,
    /// What reaches the log: "error", "warn", "info", "debug" or "trace". Default: "info".
    pub log_level: LogLevel,
}

/// Which host ids a pod's monitor and files have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdMapping {
    /// A range of the pod's own, or the host's where its files cannot be mapped.
    Auto,
    /// A range of the pod's own; pods whose files cannot be mapped are refused.
    Always,
    /// The host's.
    Never,
}

/// Least severe message that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures.
    Error,
    /// And what may lead to one.
    Warn,
    /// And the steps of a pod's life.
    Info,
    /// And every call.
    Debug,
    /// And every message.
    Trace,
}

impl LogLevel {
    /// The same for `tracing`.
    pub fn as_filter(self) -> tracing::level_filters::LevelFilter {
        use tracing::level_filters::LevelFilter;
        match self {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            vmm: installed("libexec/bulkhead/bulkhead-vmm"),
            kernel: installed("share/bulkhead/vmlinux"),
            agent_image: installed("share/bulkhead/agent.erofs"),
            state_dir: PathBuf::from("/run/bulkhead"),
            default_vcpus: None,
            max_vcpus: 32,
            default_memory_mib: 512,
            max_memory_mib: None,
            guest_overhead_mib: 64,
            vmm_overhead_mib: 128,
            boot_timeout_s: 60,
            verbose_console: false,
            kernel_parameters: String::new(),
            share_kernel: true,
            id_mapping: IdMapping::Auto,
            ids_dir: PathBuf::from("/run/bulkhead/.ids"),
            log_level: LogLevel::Info,
        }
    }
}

/// Why a config file was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file named by the caller cannot be read (the default one may be missing).
    #[error("config file {path}: cannot be read: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// It is larger than any config can be.
    #[error("config file {path}: larger than {} KiB, so this is no bulkhead.toml", MAX_FILE / 1024)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A syntax error, an unknown key or a value of the wrong type.
    #[error("config file {path}: {cause} (correct or remove that line; all options stand in {example})")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, key and what is allowed there.
        cause: Box<toml::de::Error>,
        /// A file that shows them.
        example: PathBuf,
    },
    /// A value outside its limits.
    #[error("config file {path}: {key} = {value}: {allowed}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The option.
        key: &'static str,
        /// What it was set to.
        value: String,
        /// What it can be set to.
        allowed: String,
    },
}

impl From<ConfigError> for crate::error::Error {
    fn from(error: ConfigError) -> Self {
        crate::error::Error::invalid(error.to_string())
    }
}

impl Config {
    /// Reads the file at `path`, which must exist; `None`: [`DEFAULT_PATH`] if it exists, else the defaults.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        Config::read(path.unwrap_or(Path::new(DEFAULT_PATH)), path.is_none())
    }

    fn read(file: &Path, may_be_missing: bool) -> Result<Config, ConfigError> {
        let read = |cause| ConfigError::Read {
            path: file.to_owned(),
            cause,
        };
        match std::fs::metadata(file) {
            Err(e) if may_be_missing && e.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(e) => return Err(read(e)),
            Ok(metadata) if metadata.len() > MAX_FILE => return Err(ConfigError::TooLarge { path: file.to_owned() }),
            Ok(_) => {}
        }
        Config::parse(&std::fs::read_to_string(file).map_err(read)?, file)
    }

    /// vCPUs of a pod without a CPU limit on this host.
    pub fn default_vcpus(&self) -> u32 {
        self.default_vcpus
            .unwrap_or_else(|| host_cpus().min(DEFAULT_VCPUS_MAX).min(self.max_vcpus))
    }

    /// How long a microVM may take until its agent answers.
    pub fn boot_timeout(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.boot_timeout_s)
    }

    fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|e| ConfigError::Parse {
            path: file.to_owned(),
            cause: Box::new(e),
            example: installed("share/bulkhead/examples/bulkhead.toml"),
        })?;
        config.check(file)?;
        Ok(config)
    }

    fn check(&self, file: &Path) -> Result<(), ConfigError> {
        let refuse = |key, value: String, allowed: String| {
            Err(ConfigError::Value {
                path: file.to_owned(),
                key,
                value,
                allowed,
            })
        };
        let max_vcpus = u64::from(self.max_vcpus);
        for (key, value, least, most) in [
            ("max_vcpus", max_vcpus, 1, 128),
            (
                "default_vcpus",
                u64::from(self.default_vcpus.unwrap_or(1)),
                1,
                max_vcpus,
            ),
            ("default_memory_mib", u64::from(self.default_memory_mib), 64, 1 << 20),
            (
                "max_memory_mib",
                u64::from(self.max_memory_mib.unwrap_or(1 << 20)),
                u64::from(self.default_memory_mib),
                1 << 20,
            ),
            ("guest_overhead_mib", u64::from(self.guest_overhead_mib), 0, 1 << 16),
            ("vmm_overhead_mib", u64::from(self.vmm_overhead_mib), 16, 1 << 16),
            ("boot_timeout_s", self.boot_timeout_s, 1, 600),
        ] {
            if value < least || value > most {
                return refuse(key, value.to_string(), format!("must be from {least} to {most}"));
            }
        }
        for (key, path) in [
            ("vmm", &self.vmm),
            ("kernel", &self.kernel),
            ("agent_image", &self.agent_image),
            ("state_dir", &self.state_dir),
        ] {
            if !path.is_absolute() {
                return refuse(key, format!("{:?}", path), "must be an absolute path".into());
            }
        }
        if self.kernel_parameters.len() > 1024 || self.kernel_parameters.chars().any(char::is_control) {
            return refuse(
                "kernel_parameters",
                format!("{:?}", self.kernel_parameters.chars().take(40).collect::<String>()),
                "must be one line of at most 1024 bytes".into(),
            );
        }
        Ok(())
    }
}

/// A file of the installation that the running program belongs to: `PREFIX/relative` for a program in `PREFIX/bin`.
fn installed(relative: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/usr/local/bin/bulkhead"));
    program
        .parent()
        .and_then(Path::parent)
        .unwrap_or(Path::new("/usr/local"))
        .join(relative)
}

#[cfg(test)]
#[path = "config_test.rs"]
mod config_test;
