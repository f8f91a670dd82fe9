use std::path::Path;

use nix::sys::statvfs::FsFlags;
use serde_json::{Value, json};

use super::{add, keep};

fn bound(options: Value) -> Value {
    json!({ "type": "bind", "source": "/s", "destination": "/d", "options": options })
}

#[test]
fn flags_of_the_source_are_added_unless_they_are_there() {
    let closed = FsFlags::ST_NOEXEC | FsFlags::ST_NOSUID;
    for (options, expected) in [
        (json!(["rbind"]), json!(["rbind", "noexec", "nosuid"])),
        (json!(["rbind", "nosuid"]), json!(["rbind", "nosuid", "noexec"])),
        (
            json!(["suid", "nosuid", "dev"]),
            json!(["suid", "nosuid", "dev", "noexec"]),
        ),
        (Value::Null, json!(["noexec", "nosuid"])),
    ] {
        let mut mount = bound(options);
        add(&mut mount, closed).unwrap();
        assert_eq!(mount["options"], expected);
    }
    let mut mount = bound(json!(["rbind"]));
    add(&mut mount, FsFlags::ST_RDONLY).unwrap();
    assert_eq!(mount["options"], json!(["rbind"]));
}

#[test]
fn what_the_kernel_locks_cannot_be_taken_away() {
    let error = add(&mut bound(json!(["rbind", "exec"])), FsFlags::ST_NOEXEC).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("\"exec\"") && error.contains("not permitted"), "{error}");
}

#[test]
fn a_mount_that_names_a_flag_keeps_none() {
    // A source that can be on no mount shows that it is not even looked at.
    let nowhere = Path::new("/nonexistent/source");
    for options in [json!(["rbind", "rw"]), json!(["ro"]), json!(["bind", "exec"])] {
        keep(&mut bound(options.clone()), nowhere, false).unwrap();
        assert!(keep(&mut bound(options), nowhere, true).is_err());
    }
    assert!(keep(&mut bound(json!(["rbind", "rprivate", "rro"])), nowhere, false).is_err());
}

#[test]
fn the_flags_are_those_of_the_mount_that_a_file_lies_in() {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let proc = table.lines().rfind(|line| line.contains(" /proc proc "));
    let proc = proc.and_then(|line| line.split(' ').nth(3));
    let expected = |option: &str| proc.unwrap().split(',').any(|has| has == option);
    let mut mount = bound(json!(["bind"]));
    keep(&mut mount, Path::new("/proc/version"), false).unwrap();
    for option in ["noexec", "nosuid", "nodev"] {
        let kept = mount["options"].as_array().unwrap().contains(&json!(option));
        assert_eq!(kept, expected(option), "{option}");
    }
}
