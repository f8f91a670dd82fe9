//! Capabilities in a spec: names that nobody knows are left out with a warning, as runc does.

use oci_spec::runtime::Capability;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Acts on an OCI "process". `what` names it in the log.
pub(super) fn drop_unknown(process: &mut Map<String, Value>, what: &str) {
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else {
        return;
    };
    for (set, names) in sets {
        let Some(names) = names.as_array_mut() else { continue };
        names.retain(|name| {
            let known = !name.is_string() || Capability::deserialize(name).is_ok();
            if !known {
                tracing::warn!("{what}: unknown capability {name} in the {set} set is ignored");
            }
            known
        });
    }
}
