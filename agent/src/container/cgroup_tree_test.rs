use super::*;
use nix::sys::stat::mkdirat;
use std::io::Write;

/// Folders in each other that look like groups, each of which holds a process: their number is its pid. Gone at the end.
struct Groups(std::path::PathBuf);

impl Groups {
    fn new(name: &str, depth: usize) -> Groups {
        let base = std::env::temp_dir().join(format!("cgroup-tree-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&base).unwrap();
        let mut here = open(&base, FOLDER, Mode::empty()).unwrap();
        for number in 0..depth {
            let below = CString::new(format!("{number}{}", "x".repeat(100))).unwrap();
            mkdirat(&here, below.as_c_str(), Mode::S_IRWXU).unwrap();
            mkdirat(&here, "beside", Mode::S_IRWXU).unwrap();
            here = openat(&here, below.as_c_str(), FOLDER, Mode::empty()).unwrap();
        }
        Groups(base)
    }

    fn fill(&self) {
        let mut here = open(&self.0, FOLDER, Mode::empty()).unwrap();
        for number in 1.. {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT;
            let file = openat(&here, "cgroup.procs", flags, Mode::S_IRWXU).unwrap();
            writeln!(File::from(file), "{number}").unwrap();
            let below = folders(&here)
                .unwrap()
                .into_iter()
                .find(|name| name.as_c_str() != c"beside");
            let Some(below) = below else { break };
            here = openat(&here, below.as_c_str(), FOLDER, Mode::empty()).unwrap();
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.unwrap(),
        }
    }
}

#[test]
fn processes_are_found_where_a_path_would_be_too_long() {
    let groups = Groups::new("pids", 60);
    groups.fill();
    assert_eq!(pids(&groups.0).unwrap(), (1..=61).collect::<Vec<u32>>());
}

#[test]
fn groups_of_any_depth_are_removed() {
    let groups = Groups::new("remove", 300);
    remove(&groups.0, Instant::now()).unwrap();
    assert!(!groups.0.exists());
}

#[test]
fn a_group_that_stays_is_an_error_in_the_end() {
    let groups = Groups::new("stays", 2);
    groups.fill();
    let error = remove(&groups.0, Instant::now() + Duration::from_millis(5)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ENOTEMPTY));
}
