use super::*;
use nix::errno::Errno;
use serde_json::{Value, json};

fn profile(json: &Value) -> LinuxSeccomp {
    serde_json::from_value(json.clone()).unwrap()
}

/// What `ask` sees in a thread that has the filter. The rest of a thread's life needs `necessary` calls.
fn filtered<T: Send>(mut json: Value, ask: impl FnOnce() -> T + Send) -> T {
    let necessary = json!({"action": "SCMP_ACT_ALLOW", "names": [
        "exit", "futex", "gettid", "getpid", "madvise", "mmap", "mprotect", "munmap", "rseq", "rt_sigprocmask", "set_robust_list",
        "sigaltstack", "write", "sched_yield",
    ]});
    json["syscalls"].as_array_mut().unwrap().push(necessary);
    let profile = profile(&json);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            load(&profile).unwrap();
            ask()
        });
        thread.join().unwrap()
    })
}

fn call(number: libc::c_long, argument: libc::c_long) -> nix::Result<i64> {
    crate::sys::testing::call(number, argument)
}

const FCHMODAT2: libc::c_long = 452;
const STATMOUNT: libc::c_long = 457;

#[test]
fn calls_newer_than_the_profile_do_not_exist_and_older_ones_are_refused() {
    let answers = filtered(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [
            {"names": ["getuid", "faccessat2"], "action": "SCMP_ACT_ALLOW"},
        ]}),
        || [libc::SYS_getgid, libc::SYS_getuid, FCHMODAT2, 999].map(|number| call(number, 0).err()),
    );
    assert_eq!(
        answers,
        [Some(Errno::EPERM), None, Some(Errno::ENOSYS), Some(Errno::ENOSYS)]
    );
}

#[test]
fn calls_newer_than_the_library_act_as_the_profile_says() {
    let answers = filtered(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [
            {"names": ["fchmodat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
            {"names": ["statmount", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 74},
        ]}),
        || [FCHMODAT2, STATMOUNT - 1, STATMOUNT, STATMOUNT + 1].map(|number| call(number, 0).err()),
    );
    let expected = [Errno::EOPNOTSUPP, Errno::EACCES, Errno::EBADMSG, Errno::ENOSYS];
    assert_eq!(answers, expected.map(Some));
}

#[test]
fn a_profile_that_allows_the_rest_refuses_what_it_names_alone() {
    let answers = filtered(
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getuid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}),
        || [libc::SYS_getuid, libc::SYS_getgid, 999].map(|number| call(number, 0).err()),
    );
    assert_eq!(answers, [Some(Errno::EOPNOTSUPP), None, Some(Errno::ENOSYS)]);
}

#[test]
fn a_masked_comparison_takes_value_as_the_mask() {
    // All but the lowest hexadecimal digit of dup's argument must be 0x7ffffff0: no such descriptor, if the call may be made.
    let argument = json!({"index": 0, "value": 0xffff_fff0u64, "valueTwo": 0x7fff_fff0u64, "op": "SCMP_CMP_MASKED_EQ"});
    let answers = filtered(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["dup"], "action": "SCMP_ACT_ALLOW", "args": [argument]}]}),
        || [0x7fff_fff3, 0x7fff_ff03].map(|argument| call(libc::SYS_dup, argument).err()),
    );
    assert_eq!(answers, [Some(Errno::EBADF), Some(Errno::EPERM)]);
}

#[test]
fn comparisons_of_the_same_argument_are_alternatives() {
    let equal = |value: u64| json!({"index": 0, "value": value, "op": "SCMP_CMP_EQ"});
    let answers = filtered(
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["dup"], "action": "SCMP_ACT_ALLOW", "args": [equal(70001), equal(70002)]},
        ]}),
        || [70001, 70002, 70003].map(|argument| call(libc::SYS_dup, argument).err()),
    );
    assert_eq!(answers, [Some(Errno::EBADF), Some(Errno::EBADF), Some(Errno::EPERM)]);
}

#[test]
fn what_cannot_act_is_refused_with_its_reason() {
    let refused = |json: Value| compile(&profile(&json)).unwrap_err();
    let notify =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_NOTIFY"}]});
    assert!(refused(notify).contains("SCMP_ACT_NOTIFY"));
    assert!(refused(json!({"defaultAction": "SCMP_ACT_NOTIFY"})).contains("SCMP_ACT_NOTIFY"));
    assert!(refused(json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 65536})).contains("65536"));
    let argument = json!({"index": 6, "value": 0, "op": "SCMP_CMP_EQ"});
    let no_argument = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "args": [argument]},
    ]});
    assert!(refused(no_argument).contains("rule for mount"));
}
