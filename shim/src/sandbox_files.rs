//! What the sandbox API leaves to the shim: the pod's hostname, hosts, resolv.conf and /dev/shm, the same for all its containers.
//!
//! The files lie in memory of a fixed size that is mounted in the sandbox's bundle and goes with the shim's mount namespace: the
//! containers may write to them, and must not fill the host's /run. /dev/shm is the guest's. A container whose spec mounts something
//! at these places itself (the kubelet writes /etc/hosts) keeps that.

use std::path::{Path, PathBuf};

use bulkhead_runtime::error::{Error, ErrorKind, Result};
use bulkhead_runtime::pod::POD_SHM;
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::sandbox_config::Sandbox;

/// Where the pod's files are mounted in a container, and their names below ETC.
const FILES: [(&str, &str); 3] = [
    ("/etc/hostname", "hostname"),
    ("/etc/hosts", "hosts"),
    ("/etc/resolv.conf", "resolv.conf"),
];

const SHM: &str = "/dev/shm";

/// In the bundle: the folder of the files, with room for what a container might add.
const ETC: &str = "sandbox-etc";
const ETC_OPTIONS: &str = "mode=0755,size=1024k,nr_inodes=16";

/// Makes the memory of a new sandbox, before [`write`].
pub fn mount_memory(bundle: &Path) -> Result<()> {
    let path = bundle.join(ETC);
    std::fs::create_dir_all(&path).map_err(|e| failed("create", &path, e))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("etc"), &path, Some("tmpfs"), flags, Some(ETC_OPTIONS))
        .map_err(|e| failed("mount a tmpfs at", &path, e.into()))
}

/// Writes the files of a new sandbox.
pub fn write(bundle: &Path, sandbox: &Sandbox) -> Result<()> {
    let hostname = sandbox.spec.hostname.as_deref().unwrap_or(sandbox.spec.id.as_str());
    let contents = [format!("{hostname}\n"), hosts(hostname), resolv_conf(sandbox)];
    for ((_, name), content) in FILES.iter().zip(contents) {
        let path = bundle.join(ETC).join(name);
        std::fs::write(&path, content).map_err(|e| failed("write", &path, e))?;
    }
    Ok(())
}

/// Adds to a container's spec the mounts that containerd left out. Blocks.
pub fn complete(sandbox_bundle: &Path, spec: &mut Value) -> Result<()> {
    let mounts = spec
        .as_object_mut()
        .map(|spec| spec.entry("mounts").or_insert_with(|| json!([])));
    let mounts = mounts.and_then(Value::as_array_mut).ok_or_else(|| {
        let message = "mounts in the bundle's config.json is not a list";
        Error::new(ErrorKind::InvalidArgument, message)
    })?;
    // containerd's default is memory of the container's own; one that a client asked for is a bind mount.
    mounts.retain(|mount| mount["destination"] != SHM || mount["type"] != "tmpfs");
    let files = FILES.map(|(destination, name)| (destination, sandbox_bundle.join(ETC).join(name)));
    let files = files.into_iter().filter(|(_, source)| source.exists());
    for (destination, source) in files.chain([(SHM, PathBuf::from(POD_SHM))]) {
        if !mounts.iter().any(|mount| mount["destination"] == destination) {
            mounts.push(json!({
                "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", "rw"],
            }));
        }
    }
    Ok(())
}

fn hosts(hostname: &str) -> String {
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n")
}

fn resolv_conf(sandbox: &Sandbox) -> String {
    let dns = &sandbox.dns;
    if dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty() {
        return std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    }
    // One line each, whatever the words hold.
    let plain = |words: &[String]| words.join(" ").replace(char::is_control, " ");
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", plain(&dns.searches));
    }
    for server in &dns.servers {
        text += &format!("nameserver {}\n", plain(std::slice::from_ref(server)));
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", plain(&dns.options));
    }
    text
}

fn failed(doing: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("cannot {doing} {}", path.display())).caused_by(error)
}

#[cfg(test)]
#[path = "sandbox_files_test.rs"]
mod sandbox_files_test;
