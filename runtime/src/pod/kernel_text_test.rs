use std::io::Write;

use super::*;

fn place(folder: &Path, parameters: &str) -> Place {
    let kernel = folder.join("vmlinux");
    if !kernel.exists() {
        std::fs::write(&kernel, "a kernel").unwrap();
    }
    let config = Config {
        vmm: kernel.clone(),
        kernel,
        state_dir: folder.to_owned(),
        kernel_parameters: parameters.to_owned(),
        ..Config::default()
    };
    Place::of(&config, 1).unwrap()
}

fn saved(text: &str) -> File {
    let mut scratch = scratch().unwrap();
    scratch.write_all(text.as_bytes()).unwrap();
    scratch
}

fn read(mut file: File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_first_text_is_kept_and_its_writer_cannot_change_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = place(folder.path(), "");
    assert!(place.open().unwrap().is_none());
    let mut theirs = saved("text");
    assert_eq!(read(place.keep(theirs.try_clone().unwrap()).unwrap()), "text");
    theirs.rewind().unwrap();
    theirs.write_all(b"evil").unwrap();
    assert_eq!(read(place.open().unwrap().unwrap()), "text");
    assert_eq!(read(place.keep(saved("later")).unwrap()), "text");
    assert_eq!(std::fs::read_dir(&place.folder).unwrap().count(), 1);
    // The way by which a process opens once more what it was given.
    let given = place.open().unwrap().unwrap();
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&given));
    let refused = File::options().write(true).open(again).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    place.remove().unwrap();
    place.remove().unwrap();
    assert!(place.open().unwrap().is_none());
}

#[test]
fn kernels_with_other_parameters_have_other_texts_and_few_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let places: Vec<Place> = (0..=KEPT + 1)
        .map(|n| place(folder.path(), &format!("n={n}")))
        .collect();
    for (number, place) in places.iter().enumerate() {
        assert!(place.open().unwrap().is_none());
        assert_eq!(
            read(place.keep(saved(&number.to_string())).unwrap()),
            number.to_string()
        );
    }
    let left = places.iter().filter(|place| place.open().unwrap().is_some()).count();
    assert!((1..=KEPT).contains(&left), "{left}");
    assert!(places.last().unwrap().open().unwrap().is_some());
}
