//! What the sandbox API leaves to the shim: the pod's hostname, hosts, resolv.conf and /dev/shm, the same for all its containers.
//!
//! They lie in memory of a fixed size that is mounted in the sandbox's bundle and goes with the shim's mount namespace: the
//! containers may write to them, and must not fill the host's /run. A container whose spec mounts something at these places
//! itself (the kubelet writes /etc/hosts) keeps that.

use std::path::{Path, PathBuf};

use bulkhead_runtime::error::{Error, ErrorKind, Result};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::sandbox_config::Sandbox;

/// Where the pod's files are mounted in a container, and their names below ETC.
const FILES: [(&str, &str); 3] = [
    ("/etc/hostname", "hostname"),
    ("/etc/hosts", "hosts"),
    ("/etc/resolv.conf", "resolv.conf"),
];

/// In the bundle: the pod's shared memory, as large as under containerd's own sandboxer.
const SHM: &str = "shm";
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

/// In the bundle: the folder of the files, with room for what a container might add.
const ETC: &str = "etc";
const ETC_OPTIONS: &str = "mode=0755,size=1024k,nr_inodes=16";

/// Makes the memory of a new sandbox, before [`write`].
pub fn mount_memory(bundle: &Path) -> Result<()> {
    for (name, options) in [(SHM, SHM_OPTIONS), (ETC, ETC_OPTIONS)] {
        let path = place(bundle, name);
        std::fs::create_dir_all(&path).map_err(|e| failed("create", &path, e))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(name), &path, Some("tmpfs"), flags, Some(options))
            .map_err(|e| failed("mount a tmpfs at", &path, e.into()))?;
    }
    Ok(())
}

/// Writes the files of a new sandbox.
pub fn write(bundle: &Path, sandbox: &Sandbox) -> Result<()> {
    let hostname = sandbox.spec.hostname.as_deref().unwrap_or(sandbox.spec.id.as_str());
    let contents = [format!("{hostname}\n"), hosts(hostname), resolv_conf(sandbox)];
    for ((_, name), content) in FILES.iter().zip(contents) {
        let path = place(bundle, ETC).join(name);
        std::fs::write(&path, content).map_err(|e| failed("write", &path, e))?;
    }
    Ok(())
}

/// Adds to a container's spec the mounts that containerd left out.
pub fn complete(sandbox_bundle: &Path, bundle: &Path) -> Result<()> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).map_err(|e| failed("read", &path, e))?;
    let invalid = |what: String| Error::new(ErrorKind::InvalidArgument, format!("{}: {what}", path.display()));
    let mut spec: Value = serde_json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
    let object = spec
        .as_object_mut()
        .ok_or_else(|| invalid("is not a JSON object".to_owned()))?;
    let mounts = object.entry("mounts").or_insert_with(|| json!([]));
    let mounts = mounts
        .as_array_mut()
        .ok_or_else(|| invalid("mounts is not a list".to_owned()))?;
    add_mounts(mounts, sandbox_bundle);
    let unfinished = bundle.join("config.json.new");
    std::fs::write(&unfinished, spec.to_string()).map_err(|e| failed("write", &unfinished, e))?;
    std::fs::rename(&unfinished, &path).map_err(|e| failed("replace", &path, e))
}

fn add_mounts(mounts: &mut Vec<Value>, sandbox_bundle: &Path) {
    if place(sandbox_bundle, SHM).exists() {
        // containerd's default is memory of the container's own; one that a client asked for is a bind mount.
        mounts.retain(|mount| mount["destination"] != "/dev/shm" || mount["type"] != "tmpfs");
    }
    let files = FILES.map(|(destination, name)| (destination, place(sandbox_bundle, ETC).join(name)));
    let shm = [("/dev/shm", place(sandbox_bundle, SHM))];
    for (destination, source) in files.into_iter().chain(shm) {
        let has = mounts.iter().any(|mount| mount["destination"] == destination);
        if !has && source.exists() {
            mounts.push(json!({
                "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", "rw"],
            }));
        }
    }
}

fn place(bundle: &Path, name: &str) -> PathBuf {
    bundle.join(format!("sandbox-{name}"))
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
    let kind = if error.kind() == std::io::ErrorKind::NotFound {
        ErrorKind::NotFound
    } else {
        ErrorKind::Internal
    };
    Error::new(kind, format!("cannot {doing} {}", path.display())).caused_by(error)
}

#[cfg(test)]
#[path = "sandbox_files_test.rs"]
mod sandbox_files_test;
