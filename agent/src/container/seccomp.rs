//! Seccomp profiles of the OCI specification (config-linux.md, "Seccomp"): compiled by libseccomp and loaded for the calling thread.
//!
//! In front of what libseccomp makes lies a short program of our own, for two things it cannot do. Calls that are newer than the
//! library act as the profile says. And a call that is newer than everything in the profile fails with ENOSYS, as under runc, where the
//! profile refuses what it does not name: programs try new calls first and fall back on old ones only after ENOSYS.

use crate::sys;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::libc::{self, sock_filter};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek};
use syscalls::x86_64::Sysno;

/// From this number on a call has the same number on all architectures (Linux, scripts/syscall.tbl).
const SHARED_NUMBERS: u32 = 424;
/// From so many rules on a search by halves finds them faster than one after the other.
const MANY_RULES: usize = 32;
/// SCMP_FLTATR_CTL_OPTIMIZE: search by halves.
const BY_HALVES: u32 = 2;
/// Offsets in struct seccomp_data (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// AUDIT_ARCH_X86_64 and AUDIT_ARCH_I386 (linux/audit.h).
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;

/// Compiles `profile` and loads it. The caller has CAP_SYS_ADMIN or cannot gain privileges (no_new_privs).
pub fn load(profile: &LinuxSeccomp) -> Result<(), String> {
    let failed = |what: String| format!("seccomp: {what}");
    let program = compile(profile).map_err(failed)?;
    sys::load_seccomp_filter(&program, flags(profile))
        .map_err(|errno| failed(format!("cannot load the filter: {errno}")))
}

fn flags(profile: &LinuxSeccomp) -> libc::c_ulong {
    let bit = |flag: &LinuxSeccompFilterFlag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    };
    profile.flags().iter().flatten().map(bit).fold(0, |all, bit| all | bit)
}

/// The whole program.
fn compile(profile: &LinuxSeccomp) -> Result<Vec<sock_filter>, String> {
    let mut program = prologue(profile)?;
    program.extend(library_program(profile)?);
    match program.len() <= libc::BPF_MAXINSNS as usize {
        true => Ok(program),
        false => Err(format!(
            "the profile needs {} instructions, the kernel takes {}",
            program.len(),
            libc::BPF_MAXINSNS
        )),
    }
}

/// What libseccomp makes of the rules that it understands.
fn library_program(profile: &LinuxSeccomp) -> Result<Vec<sock_filter>, String> {
    let failed = |error: libseccomp::error::SeccompError| error.to_string();
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut filter = ScmpFilterContext::new(default).map_err(failed)?;
    for &arch in profile.architectures().iter().flatten() {
        filter
            .add_arch(architecture(arch))
            .map_err(|error| format!("architecture {arch:?}: {error}"))?;
    }
    let calls = || profile.syscalls().iter().flatten();
    if calls().map(|call| call.names().len()).sum::<usize>() > MANY_RULES {
        filter.set_ctl_optimize(BY_HALVES).map_err(failed)?;
    }
    for call in calls() {
        let action = action(call.action(), call.errno_ret())?;
        // The library refuses rules that change nothing.
        if action != default {
            add_rules(&mut filter, call, action)?;
        }
    }
    let image = nix::sys::memfd::memfd_create("seccomp", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| format!("memory for the filter: {errno}"))?;
    filter.export_bpf(&image).map_err(failed)?;
    let (mut image, mut bytes) = (File::from(image), Vec::new());
    image
        .rewind()
        .and_then(|()| image.read_to_end(&mut bytes))
        .map_err(|error| format!("memory for the filter: {error}"))?;
    let (instructions, _) = bytes.as_chunks();
    Ok(instructions.iter().map(instruction).collect())
}

fn instruction(&[code0, code1, jt, jf, k0, k1, k2, k3]: &[u8; 8]) -> sock_filter {
    sock_filter {
        code: u16::from_ne_bytes([code0, code1]),
        jt,
        jf,
        k: u32::from_ne_bytes([k0, k1, k2, k3]),
    }
}

fn add_rules(filter: &mut ScmpFilterContext, call: &LinuxSyscall, action: ScmpAction) -> Result<(), String> {
    let comparisons: Vec<ScmpArgCompare> = call.args().iter().flatten().map(comparison).collect();
    let arguments: HashSet<usize> = call.args().iter().flatten().map(LinuxSeccompArg::index).collect();
    for name in call.names() {
        // One that is newer than the library is dealt with before, one that nobody knows does not exist.
        let Ok(number) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let added = if arguments.len() == comparisons.len() {
            filter.add_rule_conditional(action, number, &comparisons).map(drop)
        } else {
            // Several comparisons of one argument are alternatives, as under runc.
            let mut each = comparisons.iter();
            each.try_for_each(|one| {
                filter
                    .add_rule_conditional(action, number, std::slice::from_ref(one))
                    .map(drop)
            })
        };
        added.map_err(|error| format!("rule for {name}: {error}"))?;
    }
    Ok(())
}

fn comparison(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let (operator, datum) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        // What the mask "value" leaves of the argument is compared with "valueTwo".
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0))
        }
    };
    // The library checks that there is such an argument.
    ScmpArgCompare::new(u32::try_from(arg.index()).unwrap_or(u32::MAX), operator, datum)
}

fn errno_of(errno: Option<u32>) -> Result<u16, String> {
    let errno = errno.unwrap_or(libc::EPERM.cast_unsigned());
    u16::try_from(errno).map_err(|_| format!("errnoRet {errno} is not between 0 and 65535"))
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, String> {
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno_of(errno)?.into()),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(errno_of(errno)?),
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(
                "SCMP_ACT_NOTIFY cannot be used: the listener is a program of the host, which cannot act in a guest"
                    .into(),
            );
        }
    })
}

/// What the kernel does when a filter ends with it (linux/seccomp.h, SECCOMP_RET_*).
fn verdict(action: ScmpAction) -> u32 {
    match action {
        ScmpAction::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        ScmpAction::Trap => libc::SECCOMP_RET_TRAP,
        ScmpAction::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno.cast_unsigned(),
        ScmpAction::Trace(data) => libc::SECCOMP_RET_TRACE | u32::from(data),
        ScmpAction::Log => libc::SECCOMP_RET_LOG,
        ScmpAction::Allow => libc::SECCOMP_RET_ALLOW,
        _ => libc::SECCOMP_RET_KILL_THREAD,
    }
}

fn architecture(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

/// Number of a call that the library does not know, on every architecture.
fn newer_than_library(name: &str) -> Option<u32> {
    let number = name
        .parse::<Sysno>()
        .ok()
        .and_then(|call| u32::try_from(call.id()).ok())?;
    (number >= SHARED_NUMBERS && ScmpSyscall::from_name(name).is_err()).then_some(number)
}

/// The program before the library's: empty, or ends by going on into what follows.
fn prologue(profile: &LinuxSeccomp) -> Result<Vec<sock_filter>, String> {
    let mut known = Vec::new();
    for call in profile.syscalls().iter().flatten() {
        let verdict = verdict(action(call.action(), call.errno_ret())?);
        // Conditions are left to the library, which then does not know the call either: it is refused like all that is not named.
        let unconditional = call.args().as_ref().is_none_or(Vec::is_empty);
        let numbers = call.names().iter().filter_map(|name| newer_than_library(name));
        known.extend(numbers.filter(|_| unconditional).map(|number| (number, verdict)));
    }
    let refuses_the_rest = !matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog
    );
    let mut program = Vec::new();
    for (arch, token) in [(ScmpArch::X8664, X86_64), (ScmpArch::X86, I386)] {
        let mut section = vec![load_word(NUMBER)];
        for &(number, verdict) in &known {
            section.extend([skip_unless_equal(number), end_with(verdict)]);
        }
        if let Some(newest) = newest_call(profile, arch).filter(|_| refuses_the_rest) {
            section.extend([
                skip_unless_above(newest),
                end_with(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
            ]);
        }
        if section.len() > 1 {
            program.extend([load_word(ARCHITECTURE), skip_next_if_equal(token), go_on(section.len())]);
            program.extend(section);
        }
    }
    Ok(program)
}

/// Highest number that the profile names.
fn newest_call(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let number = |name: &String| {
        let by_library = ScmpSyscall::from_name_by_arch(name, arch).ok();
        // Negative ones are the library's own, for calls that this architecture does not have.
        let by_library = by_library.and_then(|call| u32::try_from(call.as_raw_syscall()).ok());
        by_library.or_else(|| newer_than_library(name))
    };
    let calls = profile.syscalls().iter().flatten();
    calls.flat_map(|call| call.names()).filter_map(number).max()
}

const fn statement(code: u32, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

fn load_word(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn end_with(verdict: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, verdict)
}

fn skip_unless_equal(value: u32) -> sock_filter {
    jump(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, 1)
}

fn skip_unless_above(value: u32) -> sock_filter {
    jump(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, value, 0, 1)
}

fn skip_next_if_equal(value: u32) -> sock_filter {
    jump(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 1, 0)
}

/// Goes on after `skipped` further instructions.
fn go_on(skipped: usize) -> sock_filter {
    // A section has two instructions for each call that a kernel has.
    statement(libc::BPF_JMP | libc::BPF_JA, u32::try_from(skipped).unwrap_or(u32::MAX))
}

#[cfg(test)]
#[path = "seccomp_test.rs"]
mod tests;
