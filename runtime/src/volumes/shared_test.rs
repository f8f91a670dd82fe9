use std::os::unix::fs::symlink;
use std::sync::Barrier;

use super::*;

/// A share, and the sources of volumes beside it.
struct Fake {
    folder: tempfile::TempDir,
    shared: Arc<SharedVolumes>,
}

impl Fake {
    fn new() -> Fake {
        let folder = tempfile::tempdir().unwrap();
        for name in [VOLUMES, "data", "other"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let shared = Arc::new(SharedVolumes::new(folder.path()));
        Fake { folder, shared }
    }

    fn source(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Takes a volume for a container; a link stands in for the mount.
    fn take(&self, name: &str, manner: Manner<'_>) -> (u64, Undo) {
        let mut undo = Undo::default();
        let source = self.source(name);
        let like = Like::of(&source, &manner, false).unwrap();
        let make = |target: &Path, undo: &mut Undo| mount(&source, target, undo);
        (self.shared.take(like, &mut undo, make).unwrap(), undo)
    }

    fn mounted(&self) -> usize {
        std::fs::read_dir(self.source(VOLUMES)).unwrap().count()
    }
}

fn mount(source: &Path, target: &Path, undo: &mut Undo) -> Result<Option<Received>> {
    symlink(source, target).unwrap();
    let at = target.to_owned();
    undo.push("link", move || {
        std::fs::remove_file(&at).unwrap();
        Ok(())
    });
    Ok(None)
}

const PLAIN: Manner<'_> = Manner {
    recursive: true,
    access: Access::Write,
    map: None,
};

const READ: Manner<'_> = Manner {
    access: Access::Read,
    ..PLAIN
};

#[test]
fn who_reads_has_the_mount_of_one_that_writes() {
    let fake = Fake::new();
    let (alone, _first) = fake.take("data", READ);
    let (written, _second) = fake.take("data", PLAIN);
    assert_ne!(alone, written);
    assert_eq!(fake.take("data", READ).0, written);
}

#[test]
fn containers_have_the_same_mount_until_the_last_one_goes() {
    let fake = Fake::new();
    let (first, mut one) = fake.take("data", PLAIN);
    let (second, mut two) = fake.take("data", PLAIN);
    assert_eq!(first, second);
    one.run().unwrap();
    assert_eq!(fake.take("data", PLAIN).0, first);
    assert_eq!(fake.mounted(), 1);
    two.run().unwrap();
}

#[test]
fn a_mount_goes_with_its_last_container_and_its_number_does_not_come_again() {
    let fake = Fake::new();
    let (first, mut one) = fake.take("data", PLAIN);
    let (_, mut two) = fake.take("data", PLAIN);
    two.run().unwrap();
    one.run().unwrap();
    assert_eq!(fake.mounted(), 0);
    let (again, _undo) = fake.take("data", PLAIN);
    assert_ne!(again, first);
}

#[test]
fn what_would_look_or_act_differently_is_another_mount() {
    let fake = Fake::new();
    let manners = [
        READ,
        Manner {
            access: Access::ReadAll,
            ..PLAIN
        },
        PLAIN,
        Manner {
            recursive: false,
            ..PLAIN
        },
    ];
    let taken: Vec<_> = manners.map(|manner| fake.take("data", manner)).into();
    let _other = fake.take("other", PLAIN);
    assert_eq!(fake.mounted(), taken.len() + 1);
    let of = |receives| Like::of(&fake.source("data"), &PLAIN, receives).unwrap();
    assert!(of(true).serves(&of(true)));
    assert!(!of(true).serves(&of(false)));
}

#[test]
fn a_source_that_was_replaced_is_another_mount() {
    let fake = Fake::new();
    let (first, _one) = fake.take("data", PLAIN);
    std::fs::rename(fake.source("data"), fake.source("old")).unwrap();
    std::fs::create_dir(fake.source("data")).unwrap();
    assert_ne!(fake.take("data", PLAIN).0, first);
    // It goes by what it is, not by its name.
    assert_eq!(fake.take("old", PLAIN).0, first);
}

#[test]
fn what_was_mounted_is_what_counts() {
    let fake = Fake::new();
    let like = Like::of(&fake.source("data"), &PLAIN, false).unwrap();
    let mut undo = Undo::default();
    let late = fake.source("other");
    let number = fake
        .shared
        .take(like, &mut undo, |target, undo| mount(&late, target, undo));
    assert_eq!(fake.take("other", PLAIN).0, number.unwrap());
}

#[test]
fn a_mount_that_fails_leaves_nothing() {
    let fake = Fake::new();
    let like = Like::of(&fake.source("data"), &PLAIN, false).unwrap();
    let mut undo = Undo::default();
    let failing = |target: &Path, undo: &mut Undo| {
        mount(Path::new("/"), target, undo)?;
        Err(Error::internal("no"))
    };
    let error = fake.shared.take(like, &mut undo, failing).unwrap_err();
    assert_eq!(error.to_string(), "no");
    assert_eq!(fake.mounted(), 0);
}

#[test]
fn containers_that_are_made_at_once_have_the_same_mount() {
    let fake = Fake::new();
    let source = fake.source("data");
    let both = Barrier::new(2);
    let take = || {
        let mut undo = Undo::default();
        let like = Like::of(&source, &PLAIN, false).unwrap();
        let make = |target: &Path, undo: &mut Undo| {
            both.wait();
            mount(&source, target, undo)
        };
        (fake.shared.take(like, &mut undo, make).unwrap(), undo)
    };
    let (one, two) = std::thread::scope(|scope| {
        let two = scope.spawn(take);
        (take(), two.join().unwrap())
    });
    assert_eq!(one.0, two.0);
    assert_eq!(fake.mounted(), 1);
}

#[test]
fn the_mounts_below_a_source_count() {
    let table = "21 1 8:1 / / rw - ext4 /dev/a rw\n\
        30 21 0:25 / /my\\040data/in rw - tmpfs t rw\n\
        31 21 0:26 / /my\\040database rw - tmpfs t rw\n\
        210 21 0:27 / /else rw - tmpfs t rw\n";
    let lines: Vec<_> = table.lines().map(|line| line.as_bytes().to_vec()).collect();
    let bound = |path: &str, below| {
        let source = Source {
            path: path.into(),
            device: 1,
            inode: 2,
            mount: 21,
        };
        bound_mounts(mount_table::parse(table.as_bytes()), &source, below)
    };
    assert_eq!(bound("/my data", false), lines[..1]);
    assert_eq!(bound("/my data", true), lines[..2]);
    assert_eq!(bound("/", true), lines);
}
