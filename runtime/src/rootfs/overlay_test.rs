use super::*;

fn layers(options: &[&str]) -> Option<Layers> {
    Layers::of(&options.iter().map(|o| o.to_string()).collect::<Vec<_>>())
}

#[test]
fn the_folders_of_a_snapshotter_are_found() {
    let found = layers(&[
        "index=off",
        "workdir=/s/3/work",
        "upperdir=/s/3/fs",
        "lowerdir=/s/2/fs:/s/1/fs:/s/2/fs",
        "userxattr",
    ])
    .unwrap();
    let folders: Vec<&str> = found.folders().into_iter().filter_map(Path::to_str).collect();
    assert_eq!(folders, ["/s/1/fs", "/s/2/fs", "/s/3"]);
    assert_eq!(found.rest, ["index=off", "userxattr"]);
    assert_eq!(found.upper.unwrap().work, "work");
}

#[test]
fn a_view_has_lower_folders_alone() {
    let found = layers(&["lowerdir=/s/2/fs:/s/1/fs"]).unwrap();
    assert_eq!((found.lower.len(), found.upper), (2, None));
}

#[test]
fn folders_that_are_named_in_another_way_are_not_guessed_at() {
    for options in [
        &["upperdir=/s/3/fs", "workdir=/s/3/work"][..],
        &["lowerdir=/a\\:b:/c"],
        &["lowerdir=/a::/b"],
        &["lowerdir=a"],
        &["lowerdir+=/a"],
        &["lowerdir=/a", "upperdir=/b/fs"],
        &["lowerdir=/a", "upperdir=/b/fs", "workdir=/c/work"],
    ] {
        assert_eq!(layers(options), None, "{options:?}");
    }
}
