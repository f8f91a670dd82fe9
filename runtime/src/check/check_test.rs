use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::{Finding, Host, Verdict, run};
use crate::config::Config;

/// A folder that looks like a host on which everything is right.
struct FakeHost {
    host: Host,
    config: Config,
}

impl FakeHost {
    fn new(name: &str) -> FakeHost {
        let root = std::env::temp_dir().join(format!("bulkhead-check-{name}-{}", std::process::id()));
        let config = Config {
            vmm: PathBuf::from("/opt/vmm"),
            kernel: PathBuf::from("/opt/vmlinux"),
            agent_image: PathBuf::from("/opt/agent.erofs"),
            ..Config::default()
        };
        let fake = FakeHost {
            host: Host { root },
            config,
        };
        let mut erofs = vec![0u8; 1024];
        erofs.extend_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
        fake.write("proc/cpuinfo", b"vendor_id\t: AuthenticAMD\nflags\t\t: fpu svm\n");
        fake.write("proc/sys/kernel/osrelease", b"6.12.1-amd64\n");
        fake.write("proc/sys/user/max_user_namespaces", b"15000\n");
        fake.write("proc/self/ns/user", b"");
        fake.write("sys/fs/cgroup/cgroup.controllers", b"cpuset cpu io memory pids\n");
        for device in ["dev/kvm", "dev/net/tun", "dev/vhost-net"] {
            fake.write(device, b"");
        }
        fake.write("run/lock", b"");
        fake.write("opt/vmlinux", b"\x7fELF and more");
        fake.write("opt/agent.erofs", &erofs);
        fake.write("opt/vmm", b"");
        std::fs::set_permissions(fake.host.root.join("opt/vmm"), PermissionsExt::from_mode(0o755)).unwrap();
        fake
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.host.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.host.root.join(path)).unwrap();
    }

    fn finding(&self, name: &str) -> Finding {
        run(&self.host, &self.config)
            .into_iter()
            .find(|f| f.name == name)
            .unwrap()
    }

    fn expect(&self, name: &str, verdict: Verdict, part: &str) {
        let finding = self.finding(name);
        assert_eq!(finding.verdict, verdict, "{finding}");
        assert!(finding.to_string().contains(part), "{part:?} is missing in: {finding}");
    }
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.host.root);
    }
}

#[test]
fn strict_overcommit_is_told() {
    let host = FakeHost::new("overcommit");
    host.write("proc/sys/vm/overcommit_memory", b"2\n");
    host.expect("overcommit", Verdict::Warn, "max_memory_mib");
}

#[test]
fn a_good_host_has_nothing_to_complain_about() {
    let host = FakeHost::new("good");
    for finding in run(&host.host, &host.config) {
        assert_eq!(finding.verdict, Verdict::Ok, "{finding}");
        assert!(finding.to_string().starts_with("OK   "), "{finding}");
    }
}

#[test]
fn kvm_is_told_apart_by_cause() {
    let host = FakeHost::new("kvm");
    host.write("sys/module/kvm_pvm/refcnt", b"");
    host.expect("kvm", Verdict::Fail, "software-only");
    std::fs::remove_dir_all(host.host.root.join("sys/module")).unwrap();
    host.remove("dev/kvm");
    host.expect("kvm", Verdict::Fail, "modprobe kvm_amd");
    host.write("proc/cpuinfo", b"flags\t\t: fpu\n");
    host.expect("kvm", Verdict::Fail, "neither vmx nor svm");
    host.write("dev/kvm", b"");
    host.expect("kvm", Verdict::Fail, "nested virtualization");
}

#[test]
fn files_that_are_something_else_are_named() {
    let host = FakeHost::new("files");
    host.write("opt/vmlinux", b"MZ this is a bzImage");
    host.expect("kernel", Verdict::Fail, "no ELF file");
    host.write("opt/agent.erofs", b"short");
    host.expect("agent", Verdict::Fail, "no erofs image");
    host.remove("opt/vmlinux");
    host.expect("kernel", Verdict::Fail, "\"kernel\" in the config file");
    host.remove("opt/vmm");
    host.expect("vmm", Verdict::Fail, "\"vmm\" in the config file");
    host.write("opt/vmm", b"");
    host.expect("vmm", Verdict::Fail, "no program");
}

#[test]
fn what_pods_can_do_without_is_a_warning() {
    let host = FakeHost::new("warn");
    host.remove("dev/vhost-net");
    host.expect("vhost-net", Verdict::Warn, "modprobe vhost_net");
    host.write("proc/sys/kernel/osrelease", b"5.15.0-generic\n");
    host.expect("idmap", Verdict::Warn, "Linux 6.3");
    host.write("proc/sys/kernel/osrelease", b"5.10.0-22-amd64\n");
    host.expect("idmap", Verdict::Fail, "5.12");
    host.write("proc/sys/user/max_user_namespaces", b"10\n");
    host.expect("userns", Verdict::Warn, "at most 10");
}

#[test]
fn what_pods_cannot_do_without_is_a_failure() {
    let host = FakeHost::new("fail");
    host.write("proc/sys/user/max_user_namespaces", b"0\n");
    host.expect("userns", Verdict::Fail, "sysctl");
    host.write("sys/fs/cgroup/cgroup.controllers", b"cpuset io\n");
    host.expect("cgroup", Verdict::Fail, "cpu and memory");
    host.remove("sys/fs/cgroup/cgroup.controllers");
    host.expect("cgroup", Verdict::Fail, "no cgroup v2");
    host.write("run/bulkhead", b"a file");
    host.expect("state", Verdict::Fail, "no folder");
}
