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
fn options_that_need_a_helper_are_refused() {
    let error = MountOptions::parse(&["loop".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("\"loop\""), "{error}");
}
