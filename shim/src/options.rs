//! Runtime options: what a client asked of this runtime, in an Any whose type depends on the client.
//!
//! CRI and `ctr --runtime-config-path` send runtimeoptions.v1.Options; Docker and older clients send runc's options; most send
//! nothing. What the type means but cannot be honoured is refused rather than dropped. Written by clients: not trusted.

use std::path::PathBuf;

use bulkhead_runtime::error::{Error, ErrorKind, Result};
use containerd_shim_protos::shim::oci;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde::{Deserialize, Serialize};

use crate::messages::runtimeoptions;

/// Options of every kind of client, merged into ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeOptions {
    /// bulkhead.toml to use instead of the default one.
    pub config_path: Option<PathBuf>,
    /// Host cgroup for the shim instead of its own.
    pub shim_cgroup: Option<String>,
}

impl RuntimeOptions {
    /// Reads the options a client attached; none, or an empty Any, are the defaults.
    pub fn decode(any: Option<&Any>) -> Result<RuntimeOptions> {
        let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
            return Ok(RuntimeOptions::default());
        };
        // Go writes the bare name, others put a host in front of it.
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "runtimeoptions.v1.Options" => generic(&parse(any)?),
            "containerd.runc.v1.Options" => runc(parse(any)?),
            other => Err(invalid(format!(
                "unknown type of runtime options {other:?}: use runtimeoptions.v1.Options with ConfigPath, or none"
            ))),
        }
    }

    /// True when the client asked for nothing.
    pub fn is_default(&self) -> bool {
        *self == RuntimeOptions::default()
    }
}

fn generic(options: &runtimeoptions::Options) -> Result<RuntimeOptions> {
    if !options.config_body.is_empty() && options.config_path.is_empty() {
        return Err(invalid(
            "runtime options hold settings in place: put them into a file and name it as ConfigPath".to_owned(),
        ));
    }
    let config_path = (!options.config_path.is_empty()).then(|| PathBuf::from(&options.config_path));
    if let Some(path) = config_path.as_ref().filter(|path| !path.is_absolute()) {
        return Err(invalid(format!(
            "runtime option ConfigPath {} is not absolute",
            path.display()
        )));
    }
    Ok(RuntimeOptions {
        config_path,
        shim_cgroup: None,
    })
}

fn runc(options: oci::Options) -> Result<RuntimeOptions> {
    // The others (keyring, pivot_root, owners of fifos, runc's state folder) mean nothing where there is no runc.
    for (name, value) in [
        ("BinaryName", &options.binary_name),
        ("CriuPath", &options.criu_image_path),
    ] {
        if !value.is_empty() {
            return Err(invalid(format!(
                "runtime option {name}={value:?} is for runc: remove it for this runtime"
            )));
        }
    }
    let shim_cgroup = (!options.shim_cgroup.is_empty()).then_some(options.shim_cgroup);
    Ok(RuntimeOptions {
        config_path: None,
        shim_cgroup,
    })
}

fn parse<M: Message>(any: &Any) -> Result<M> {
    M::parse_from_bytes(&any.value)
        .map_err(|e| invalid(format!("runtime options {} are malformed", any.type_url)).caused_by(e))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
#[path = "options_test.rs"]
mod options_test;
