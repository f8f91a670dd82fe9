use nix::mount::MsFlags;

use super::options::MountOptions;

fn parse(options: &[&str]) -> MountOptions {
    MountOptions::parse(&options.iter().map(|o| o.to_string()).collect::<Vec<_>>()).unwrap()
}

#[test]
fn flags_and_data_are_told_apart() {
    let parsed = parse(&[
        "ro",
        "nosuid,nodev",
        "rw",
        "index=off",
        "lowerdir=/a\\,b:/c,upperdir=/u",
        "defaults",
        "x-y=1",
    ]);
    assert_eq!(parsed.flags, MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
    assert_eq!(parsed.data, ["index=off", "lowerdir=/a\\,b:/c", "upperdir=/u"]);
    assert_eq!(
        parse(&["rbind", "ro"]).flags,
        MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY
    );
}

#[test]
fn image_files_are_told_by_their_option() {
    assert!(parse(&["ro", "loop"]).image_file && parse(&["ro", "loop"]).data.is_empty());
    assert!(!parse(&["ro"]).image_file);
    let error = MountOptions::parse(&["offset=512".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("offset=512"), "{error}");
}
