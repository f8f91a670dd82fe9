use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::{POD_SHM, SharedVolumes, Volume, forget_shift, prepare, refuse_shift};
use crate::error::Error;
use crate::identity::Shift;
use crate::ids::ContainerId;
use crate::pod::Undo;
use crate::rootfs::Access;

#[test]
fn only_binds_are_volumes() {
    let of = |value| Volume::of(&value, Path::new("/bundle"));
    assert_eq!(
        of(json!({ "type": "tmpfs", "source": "shm", "destination": "/dev/shm", "options": ["ro"] })),
        None
    );
    assert_eq!(of(json!({ "destination": "/x" })), None);
    let volume = of(json!({
        "type": "none", "source": "data", "destination": "/d", "options": ["rbind", "ro", "rslave"],
    }));
    let expected = Volume {
        source: PathBuf::from("/bundle/data"),
        destination: "/d".into(),
        recursive: true,
        access: Access::Read,
        receives: true,
    };
    assert_eq!(volume, Some(expected));
    let plain = of(json!({ "type": "bind", "source": "/s", "destination": "/d" })).unwrap();
    assert_eq!(
        (plain.source, plain.recursive, plain.receives),
        (PathBuf::from("/s"), false, false)
    );
}

#[test]
fn the_last_word_says_who_may_write() {
    for (options, expected) in [
        (json!(["bind", "ro", "rw"]), Access::Write),
        (json!(["bind", "rw", "ro"]), Access::Read),
        (json!(["bind", "rro", "rw"]), Access::ReadAll),
        (json!(["bind", "rrw", "rro"]), Access::ReadAll),
        (json!(["bind", "ro", "rrw"]), Access::Write),
        (json!(["bind"]), Access::Write),
    ] {
        let mount = json!({ "source": "/s", "destination": "/d", "options": options });
        let volume = Volume::of(&mount, Path::new("/b")).unwrap();
        assert_eq!(volume.access, expected, "{options}");
    }
}

#[test]
fn a_missing_source_reads_as_with_runc() {
    let mut spec = json!({ "mounts": [{ "type": "bind", "source": "/nonexistent/x", "destination": "/data" }] });
    let id = ContainerId::try_from("c").unwrap();
    let error = prepare(
        &mut spec,
        &id,
        Path::new("/b"),
        &Arc::new(SharedVolumes::new(Path::new("/f"))),
        None,
        &mut Undo::default(),
    )
    .unwrap_err()
    .to_string();
    assert!(
        error.contains(r#"error mounting "/nonexistent/x" to rootfs at "/data""#),
        "{error}"
    );
    assert!(error.ends_with("no such file or directory"), "{error}");
}

fn mounted_at_shm(source: &str) -> Result<serde_json::Value, Error> {
    let mut spec = json!({
        "annotations": { "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "s1" },
        "mounts": [{ "type": "bind", "source": source, "destination": "/dev/shm", "options": ["rbind"] }],
    });
    let id = ContainerId::try_from("c").unwrap();
    let shared = Arc::new(SharedVolumes::new(Path::new("/f")));
    prepare(&mut spec, &id, Path::new("/b"), &shared, None, &mut Undo::default())?;
    Ok(spec["mounts"][0]["source"].take())
}

#[test]
fn shared_memory_of_a_pod_is_the_guests() {
    for source in ["/run/cri/sandboxes/s1/shm", POD_SHM] {
        assert_eq!(mounted_at_shm(source).unwrap(), "/dev/shm");
    }
}

#[test]
fn a_volume_at_the_place_of_shared_memory_is_a_volume() {
    for source in ["/nonexistent/kubernetes.io~empty-dir/shm", "/nonexistent/s2/shm"] {
        let error = mounted_at_shm(source).unwrap_err().to_string();
        assert!(error.contains(source), "{error}");
    }
}

#[test]
fn owners_are_shown_as_asked_for() {
    let line = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 10 }]);
    let namespace = Shift::of(&json!({ "uidMappings": line(1), "gidMappings": line(2) })).unwrap();
    let shift = |mount: serde_json::Value, namespace: Option<&Shift>| {
        let volume = Volume::of(&mount, Path::new("/b")).unwrap();
        volume.shift(&mount, namespace)
    };
    let plain = json!({ "type": "bind", "destination": "/d" });
    assert_eq!(shift(plain, namespace.as_ref()).unwrap(), None);
    let asked = json!({ "type": "bind", "destination": "/d", "options": ["rbind", "ridmap"] });
    assert_eq!(shift(asked.clone(), namespace.as_ref()).unwrap(), namespace);
    let error = shift(asked, None).unwrap_err().to_string();
    assert!(error.contains("\"/d\"") && error.contains("\"ridmap\""), "{error}");
    let mapped = json!({ "type": "bind", "destination": "/d", "uidMappings": line(5), "gidMappings": line(6) });
    assert_eq!(
        shift(mapped.clone(), namespace.as_ref()).unwrap(),
        Shift::of(&mapped).unwrap()
    );
    let error = shift(
        json!({ "type": "bind", "destination": "/d", "uidMappings": line(5) }),
        None,
    )
    .unwrap_err();
    assert!(error.to_string().contains("\"/d\""), "{error}");
}

#[test]
fn only_binds_show_other_owners() {
    for asked in [
        json!({ "type": "tmpfs", "destination": "/t", "options": ["idmap"] }),
        json!({ "type": "tmpfs", "destination": "/t", "gidMappings": [{ "containerID": 0, "hostID": 1, "size": 1 }] }),
    ] {
        let error = refuse_shift(&asked).unwrap_err().to_string();
        assert!(error.contains("\"/t\"") && error.contains("bind"), "{error}");
    }
    refuse_shift(&json!({ "type": "tmpfs", "destination": "/t", "uidMappings": [], "options": ["ro"] })).unwrap();
}

#[test]
fn the_guest_is_not_asked_to_shift_owners_again() {
    let mut mount =
        json!({ "options": ["rbind", "idmap", "ro"], "uidMappings": [], "gidMappings": [], "source": "/s" });
    forget_shift(mount.as_object_mut().unwrap());
    assert_eq!(mount, json!({ "options": ["rbind", "ro"], "source": "/s" }));
}

#[test]
fn a_message_names_the_users_path() {
    let names = [("/s/@volumes/10", "/ten"), ("/s/@volumes/1", "/one")];
    let error = Error::internal("cannot mount /s/@volumes/1 and \"/s/@volumes/10\"");
    let error = names
        .iter()
        .fold(error, |error, (ours, theirs)| error.naming(ours, theirs));
    assert_eq!(error.to_string(), "cannot mount /one and \"/ten\"");
}
