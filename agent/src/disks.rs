//! Block devices that the host plugs for containers: found by their slot on the PCI bus, and let go again.

use bulkhead_agent_protocol::agent::Disk;
use nix::libc;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespaceType, Mount, Spec};
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the kernel shows its devices.
const SYSFS: &str = "/sys";
/// How long the driver may take to find a device that is on the bus.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an unmounted file system may write back: less than the host waits for an answer.
pub const WRITE_BACK: Duration = Duration::from_secs(50);

/// Numbers of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    major: i64,
    minor: i64,
}

/// A disk by its host's numbers and its guest's.
pub type Translation = (Numbers, Numbers);

/// A disk that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("disk in slot {slot}: {what}")]
pub struct DiskError {
    slot: u32,
    what: &'static str,
    source: io::Error,
}

/// Has the kernel look for what was plugged. Blocks.
pub fn rescan() -> io::Result<()> {
    fs::write(Path::new(SYSFS).join("bus/pci/rescan"), "1")
}

/// Finds the disks, which are on the bus, and gives each a link, [`bulkhead_agent_protocol::disk_path`]. Blocks.
pub fn find(disks: &[Disk]) -> Result<Vec<Translation>, DiskError> {
    let found = |disk: &Disk| {
        let failed = |what| {
            move |source| DiskError {
                slot: disk.slot,
                what,
                source,
            }
        };
        let numbers = wait_for(Path::new(SYSFS), disk.slot).map_err(failed("the guest does not find it"))?;
        link(disk.slot, numbers).map_err(failed("cannot make its device node"))?;
        let theirs = Numbers {
            major: disk.major.into(),
            minor: disk.minor.into(),
        };
        Ok((theirs, numbers))
    };
    disks.iter().map(found).collect()
}

/// Takes the disk in `slot` from its driver, so that the host can unplug it. The last process of a container has ended before its mounts
/// have, and what they write back then takes as long as the host's disk: as long as one is mounted the disk stays. Twice is fine. Blocks.
pub fn let_go(slot: u32) -> Result<(), DiskError> {
    let node = bulkhead_agent_protocol::disk_path(slot);
    let failed = |what| move |source| DiskError { slot, what, source };
    wait_until_unmounted(&node).map_err(failed("a file system on it stays mounted"))?;
    let gone = |done: io::Result<()>| match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(failed("cannot be let go")),
    };
    gone(fs::write(function(Path::new(SYSFS), slot).join("remove"), "1"))?;
    gone(fs::remove_file(node))
}

/// Whether a disk is here that somebody may have written to.
pub fn are_there() -> bool {
    fs::read_dir(bulkhead_agent_protocol::DISKS).is_ok_and(|mut disks| disks.next().is_some())
}

fn wait_until_unmounted(node: &str) -> io::Result<()> {
    let deadline = Instant::now() + WRITE_BACK;
    loop {
        // A file system that is mounted holds its disk exclusively (open(2), O_EXCL).
        match fs::File::options().read(true).custom_flags(libc::O_EXCL).open(node) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Err(error),
            _ => return Ok(()),
        }
    }
}

fn function(sysfs: &Path, slot: u32) -> PathBuf {
    sysfs.join(format!("bus/pci/devices/0000:00:{slot:02x}.0"))
}

fn wait_for(sysfs: &Path, slot: u32) -> io::Result<Numbers> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match numbers_of(&function(sysfs, slot)) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            result => return result,
        }
    }
}

/// Of the disk behind a PCI function: FUNCTION/virtioN/block/NAME/dev holds "MAJOR:MINOR".
fn numbers_of(function: &Path) -> io::Result<Numbers> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let begins_with = |folder: &Path, prefix: &str| -> io::Result<PathBuf> {
        let mut entries = fs::read_dir(folder)?.flatten();
        let found = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        Ok(found.ok_or_else(missing)?.path())
    };
    let disk = begins_with(&begins_with(function, "virtio")?.join("block"), "vd")?;
    let text = fs::read_to_string(disk.join("dev"))?;
    let (major, minor) = text.trim().split_once(':').ok_or_else(missing)?;
    match (major.parse(), minor.parse()) {
        (Ok(major), Ok(minor)) => Ok(Numbers { major, minor }),
        _ => Err(missing()),
    }
}

fn link(slot: u32, numbers: Numbers) -> io::Result<()> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let path = PathBuf::from(bulkhead_agent_protocol::disk_path(slot));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let device = makedev(numbers.major.unsigned_abs(), numbers.minor.unsigned_abs());
    match mknod(&path, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, device) {
        Err(nix::Error::EEXIST) => Ok(()),
        result => Ok(result?),
    }
}

/// Has nodes of disks in a specification with a user namespace, where none can be made, bound from where the guest has them. libcontainer
/// would look for them at the container's path. Before [`rename`]: the specification has the host's numbers.
pub fn bind_nodes(spec: &mut Spec, disks: &[Disk]) {
    let Some(linux) = spec.linux_mut() else { return };
    let mut namespaces = linux.namespaces().iter().flatten();
    if !namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
        return;
    }
    let mut bound = Vec::new();
    if let Some(devices) = linux.devices_mut() {
        devices.retain(|device| {
            let is_of = |disk: &&Disk| {
                device.typ() == LinuxDeviceType::B
                    && (i64::from(disk.major), i64::from(disk.minor)) == (device.major(), device.minor())
            };
            let disk = disks.iter().find(is_of);
            bound.extend(disk.map(|disk| {
                let mut mount = Mount::default();
                mount
                    .set_destination(device.path().clone())
                    .set_typ(Some("bind".to_owned()))
                    .set_source(Some(bulkhead_agent_protocol::disk_path(disk.slot).into()))
                    .set_options(Some(vec!["bind".to_owned()]));
                mount
            }));
            disk.is_none()
        });
    }
    if !bound.is_empty() {
        spec.mounts_mut().get_or_insert_default().extend(bound);
    }
}

/// Puts the guest's numbers into a specification's nodes and rules for block devices.
pub fn rename(spec: &mut Spec, disks: &[Translation]) {
    let Some(linux) = spec.linux_mut() else { return };
    let guest = |theirs: Numbers| disks.iter().find(|(host, _)| *host == theirs).map(|(_, guest)| *guest);
    for device in linux.devices_mut().iter_mut().flatten() {
        let theirs = Numbers {
            major: device.major(),
            minor: device.minor(),
        };
        if device.typ() == LinuxDeviceType::B
            && let Some(ours) = guest(theirs)
        {
            device.set_major(ours.major).set_minor(ours.minor);
        }
    }
    let Some(resources) = linux.resources_mut() else { return };
    if let Some(rules) = resources.devices_mut() {
        *rules = rules.drain(..).flat_map(|rule| renamed(rule, disks)).collect();
    }
}

/// What a rule says in the guest. One for any minor or major number is followed by those for each of the disks that it means on the host:
/// it stays for the guest's own devices, and what it says of the disks has to come before what later rules say.
fn renamed(rule: LinuxDeviceCgroup, disks: &[Translation]) -> Vec<LinuxDeviceCgroup> {
    if matches!(
        rule.typ(),
        Some(LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::P)
    ) {
        return vec![rule];
    }
    let number = |number: Option<i64>| number.filter(|number| *number >= 0);
    let (major, minor) = (number(rule.major()), number(rule.minor()));
    if major.is_none() && minor.is_none() {
        // Means the guest's, too.
        return vec![rule];
    }
    let means =
        |host: &Numbers| major.is_none_or(|major| major == host.major) && minor.is_none_or(|minor| minor == host.minor);
    let meant = disks.iter().filter(|(host, _)| means(host));
    let translated = meant.map(|(_, guest)| {
        let mut rule = rule.clone();
        rule.set_typ(Some(LinuxDeviceType::B));
        rule.set_major(Some(guest.major)).set_minor(Some(guest.minor));
        rule
    });
    let translated: Vec<_> = translated.collect();
    let of_one = rule.typ() == Some(LinuxDeviceType::B) && major.is_some() && minor.is_some();
    match of_one && !translated.is_empty() {
        true => translated,
        false => [rule].into_iter().chain(translated).collect(),
    }
}

#[cfg(test)]
#[path = "disks_test.rs"]
mod tests;
