//! Mount options as fstab writes them, split into flags and the file system's own data.

use nix::mount::MsFlags;

use crate::error::{Error, Result};
use crate::identity::Shift;

/// Parsed options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// Flags of mount(2), without propagation.
    pub(crate) flags: MsFlags,
    /// What containerd's uidmap and gidmap do to owners.
    pub(super) shift: Option<Shift>,
    /// What the file system itself understands, in order.
    pub(crate) data: Vec<String>,
    /// The source is a file that holds the file system.
    pub(super) image_file: bool,
}

/// (name, flag, whether the name clears the flag)
const FLAGS: [(&str, MsFlags, bool); 22] = [
    ("ro", MsFlags::MS_RDONLY, false),
    ("rw", MsFlags::MS_RDONLY, true),
    ("nosuid", MsFlags::MS_NOSUID, false),
    ("suid", MsFlags::MS_NOSUID, true),
    ("nodev", MsFlags::MS_NODEV, false),
    ("dev", MsFlags::MS_NODEV, true),
    ("noexec", MsFlags::MS_NOEXEC, false),
    ("exec", MsFlags::MS_NOEXEC, true),
    ("sync", MsFlags::MS_SYNCHRONOUS, false),
    ("async", MsFlags::MS_SYNCHRONOUS, true),
    ("dirsync", MsFlags::MS_DIRSYNC, false),
    ("mand", MsFlags::MS_MANDLOCK, false),
    ("noatime", MsFlags::MS_NOATIME, false),
    ("atime", MsFlags::MS_NOATIME, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, false),
    ("diratime", MsFlags::MS_NODIRATIME, true),
    ("relatime", MsFlags::MS_RELATIME, false),
    ("norelatime", MsFlags::MS_RELATIME, true),
    ("strictatime", MsFlags::MS_STRICTATIME, false),
    ("nostrictatime", MsFlags::MS_STRICTATIME, true),
    ("bind", MsFlags::MS_BIND, false),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), false),
];

/// Asks somebody before the kernel to do something.
const IMAGE_FILE: &str = "loop";

/// Which part of that file, and how.
const OF_LOSETUP: [&str; 3] = ["loop", "offset", "sizelimit"];

const USERS: &str = "uidmap=";
const GROUPS: &str = "gidmap=";

impl MountOptions {
    pub(super) fn parse(options: &[String]) -> Result<MountOptions> {
        // Their values have commas.
        let value_of = |name: &str| options.iter().find_map(|option| option.strip_prefix(name));
        let mut parsed = MountOptions {
            flags: MsFlags::empty(),
            shift: Shift::of_options(value_of(USERS), value_of(GROUPS))?,
            data: Vec::new(),
            image_file: false,
        };
        let others = options
            .iter()
            .filter(|option| !option.starts_with(USERS) && !option.starts_with(GROUPS));
        for option in others.flat_map(|o| split(o)).filter(|o| !o.is_empty()) {
            if let Some((_, flag, clears)) = FLAGS.iter().find(|(name, ..)| *name == option) {
                parsed.flags.set(*flag, !clears);
                continue;
            }
            let name = option.split('=').next().unwrap_or_default();
            if option == "defaults" || name.starts_with("X-") || name.starts_with("x-") {
                continue;
            }
            match option {
                IMAGE_FILE => parsed.image_file = true,
                _ if OF_LOSETUP.contains(&name) => {
                    return Err(Error::invalid(format!(
                        "mount option {option:?} is not supported: an image file is used as a whole"
                    )));
                }
                option => parsed.data.push(option.to_owned()),
            }
        }
        Ok(parsed)
    }
}

/// One element can hold several options. Only a comma that no backslash protects separates.
fn split(option: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in option.char_indices() {
        if c == ',' && !escaped {
            parts.push(option.get(start..at).unwrap_or_default());
            start = at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(option.get(start..).unwrap_or_default());
    parts
}
