//! How large a tmpfs is that nobody has given a size.

use serde_json::{Value, json};

use super::text;

/// Options that decide it (Linux, filesystems/tmpfs).
const SIZES: [&str; 2] = ["size=", "nr_blocks="];

/// Gives mounts of type tmpfs without a size half of `memory` bytes. The kernel's own default is half of the memory that there is at that
/// moment, which for a machine that grows is little; and to fill it would not make the machine grow.
pub(crate) fn size_tmpfs(spec: &mut Value, memory: u64) {
    let mounts = spec.get_mut("mounts").and_then(Value::as_array_mut);
    for mount in mounts.into_iter().flatten() {
        if text(mount, "/type") != Some("tmpfs") {
            continue;
        }
        let options = mount.get("options").and_then(Value::as_array);
        let mut options = options.cloned().unwrap_or_default();
        let has_size = |option: &Value| {
            option
                .as_str()
                .is_some_and(|o| SIZES.iter().any(|size| o.starts_with(size)))
        };
        if !options.iter().any(has_size) {
            options.push(json!(format!("size={}k", (memory / 2) >> 10)));
            if let Some(mount) = mount.as_object_mut() {
                mount.insert("options".into(), options.into());
            }
        }
    }
}

#[cfg(test)]
#[path = "tmpfs_test.rs"]
mod tmpfs_test;
