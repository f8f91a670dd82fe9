//! `-info`: what containerd learns about this runtime before it uses it.
//!
//! stdin holds the runtime options as an Any, or nothing; stdout gets RuntimeInfo. Its features are OCI's own description of a
//! runtime as JSON, and say only what the agent really does: containerd refuses what is missing here with its own message.

use std::io::Write;

use anyhow::{Context, Result};
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

use crate::bootstrap::read_stdin;
use crate::options::RuntimeOptions;

/// The name containerd's clients use.
pub const RUNTIME: &str = "io.containerd.bulkhead.v2";

/// How containerd names OCI's features structure.
const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints what `-v` asks for, in the form of containerd's own shims.
pub fn print_version() -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    write!(
        stdout,
        "containerd-shim-bulkhead-v2:\n  Version:  {}\n",
        env!("CARGO_PKG_VERSION")
    )?;
    Ok(())
}

/// Answers `-info`.
pub fn print_info() -> Result<()> {
    let info = info(&read_stdin()?)?;
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&info.write_to_bytes()?)
        .and_then(|()| stdout.flush())
        .context("cannot write to stdout")
}

fn info(input: &[u8]) -> Result<RuntimeInfo> {
    let options = Any::parse_from_bytes(input).context("the options on stdin are malformed")?;
    RuntimeOptions::decode(Some(&options))?;
    Ok(RuntimeInfo {
        name: RUNTIME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }),
        options: MessageField::from_option((!options.type_url.is_empty()).then_some(options)),
        features: MessageField::some(Any {
            type_url: FEATURES_TYPE.to_owned(),
            value: features().to_string().into_bytes(),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": ["prestart", "createRuntime", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "acl", "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "mand", "noatime", "nodev",
            "nodiratime", "noexec", "nomand", "norelatime", "nostrictatime", "nosuid", "private", "rbind", "relatime",
            "remount", "ridmap", "ro", "rprivate", "rshared", "rslave", "runbindable", "rw", "shared", "silent", "slave", "strictatime",
            "suid", "sync", "unbindable",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "cgroup": { "v1": false, "v2": true, "systemd": false, "systemdUser": false, "rdma": false },
            "seccomp": { "enabled": true, "archs": ["SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32"] },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } },
        },
    })
}

#[cfg(test)]
#[path = "info_test.rs"]
mod info_test;
