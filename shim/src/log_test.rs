use std::io::Read;

use nix::sys::stat::Mode;

use super::*;

fn pipe() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    (folder, path)
}

#[test]
fn dates_are_right() {
    assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00.000000000Z");
    assert_eq!(rfc3339(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
    assert_eq!(rfc3339(1_795_414_205, 0), "2026-11-23T06:10:05.000000000Z");
    assert_eq!(rfc3339(4_107_542_399, 0), "2100-02-28T23:59:59.000000000Z");
}

#[test]
fn a_line_stays_one_line() {
    let text = line("info", "p1", "a \"b\"\nlevel=fatal", "");
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    assert!(text.contains(r#"msg="a \"b\"\nlevel=fatal""#), "{text}");
    assert_eq!(quoted("a.b/c"), "a.b/c");
    assert_eq!(quoted("a b"), "\"a b\"");
    assert_eq!(quoted(""), "\"\"");
}

#[test]
fn nobody_reading_neither_blocks_nor_fails_and_the_loss_is_told() {
    let (_folder, path) = pipe();
    let file = open(&path).unwrap();
    let mut reader = File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(&path)
        .unwrap();
    let mut pipe = Pipe {
        file: Arc::new(file),
        dropped: Arc::default(),
    };
    let text = line("info", "p1", &"x".repeat(1000), "");
    for _ in 0..200 {
        assert_eq!(pipe.write(text.as_bytes()).unwrap(), text.len());
    }
    let dropped = pipe.dropped.load(Ordering::Relaxed);
    assert!(dropped > 0);
    let mut content = vec![0; 1 << 20];
    let count = reader.read(&mut content).unwrap();
    assert!(count > 1000);
    pipe.write_all(text.as_bytes()).unwrap();
    let count = reader.read(&mut content).unwrap();
    let seen = String::from_utf8_lossy(&content[..count]).into_owned();
    assert!(seen.contains(&format!("{dropped} lines")), "{seen}");
}

#[test]
fn long_lines_are_cut() {
    let (_folder, path) = pipe();
    let mut pipe = Pipe {
        file: Arc::new(open(&path).unwrap()),
        dropped: Arc::default(),
    };
    pipe.write_all(&[b'x'; 100_000]).unwrap();
    let mut content = vec![0; 200_000];
    let count = (&*pipe.file).read(&mut content).unwrap();
    assert_eq!(count, MAX_LINE);
    assert_eq!(content[count - 1], b'\n');
}

#[test]
fn only_a_pipe_is_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    assert!(open(&path).is_none());
    std::fs::write(&path, "").unwrap();
    assert!(open(&path).is_none());
}
