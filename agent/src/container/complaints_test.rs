use super::*;
use oci_spec::runtime::MountBuilder;

fn spec_with_mount() -> Spec {
    let mount = MountBuilder::default()
        .destination("/data")
        .typ("nosuchfs")
        .source("disk");
    let mut spec = Spec::default();
    spec.set_mounts(Some(vec![mount.build().unwrap()]));
    spec
}

#[test]
fn a_failed_mount_is_named_with_its_cause() {
    let spec = spec_with_mount();
    let mount = &spec.mounts().as_ref().unwrap()[0];
    let log = format!(
        "failed to mount {mount:?}: syscall\nfailed to prepare rootfs err=Mount(Syscall(Nix(ENODEV)))\nfailed to initialize\n"
    );
    assert_eq!(
        from_log(&log, &spec).unwrap(),
        r#"error mounting "disk" to rootfs at "/data": no such device"#
    );
}

#[test]
fn an_error_of_the_standard_library_is_read_too() {
    let log = "failed to open err=Io(Os { code: 20, kind: NotADirectory, message: \"Not a directory\" })\n";
    assert_eq!(errno_in(log), Some(Errno::ENOTDIR));
}

#[test]
fn what_is_not_understood_is_shown_as_it_is() {
    assert_eq!(
        from_log("something else failed\n", &spec_with_mount()).unwrap(),
        "something else failed"
    );
    assert_eq!(from_log("", &spec_with_mount()), None);
    assert_eq!(errno_in("Nix(ENOSUCH) Os { code: x"), None);
}
