//! Which devices a container may open or make: a small program that the kernel runs for each attempt, attached to the
//! container's cgroup. cgroup v2 has no files for this.
//!
//! The rules of a spec are a list in which later ones overrule earlier ones. The program goes through them backwards: an allowing
//! rule takes its kinds of access off what is still asked for, and nothing left means yes; a denying rule that covers any of it
//! means no; so does the end of the list.

use super::cgroup::{Cgroup, CgroupError};
use crate::sys::{self, BpfInstruction};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::fs::File;

/// Types and kinds of access of `struct bpf_cgroup_dev_ctx`, linux/bpf.h.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MKNOD | READ | WRITE;

/// One rule; `None` stands for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

const fn allow(kind: i32, major: Option<i32>, minor: Option<i32>, access: i32) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// What every container may use, as under runc: making nodes of any device, and opening those that mean no hardware.
const ALWAYS: &[Rule] = &[
    allow(CHARACTER, None, None, MKNOD),
    allow(BLOCK, None, None, MKNOD),
    allow(CHARACTER, Some(1), Some(3), ALL),    // null
    allow(CHARACTER, Some(1), Some(5), ALL),    // zero
    allow(CHARACTER, Some(1), Some(7), ALL),    // full
    allow(CHARACTER, Some(1), Some(8), ALL),    // random
    allow(CHARACTER, Some(1), Some(9), ALL),    // urandom
    allow(CHARACTER, Some(5), Some(0), ALL),    // tty
    allow(CHARACTER, Some(5), Some(2), ALL),    // ptmx
    allow(CHARACTER, Some(136), None, ALL),     // pts
    allow(CHARACTER, Some(10), Some(200), ALL), // net/tun
];

/// Binds the group's processes, now and later, to the rules of the spec and those of every container.
pub fn restrict(cgroup: &Cgroup, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
    let rules: Vec<Rule> = rules.iter().map(rule).chain(ALWAYS.iter().copied()).collect();
    let failed = |verb: &'static str| {
        move |source: std::io::Error| CgroupError::File {
            verb,
            path: cgroup.path().to_owned(),
            source,
        }
    };
    let group = File::open(cgroup.path()).map_err(failed("open"))?;
    let program =
        sys::load_device_program(&program(&rules)).map_err(|errno| failed("make a device filter for")(errno.into()))?;
    sys::attach_device_program(&group, &program).map_err(|errno| failed("attach a device filter to")(errno.into()))
}

fn rule(rule: &LinuxDeviceCgroup) -> Rule {
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => Some(BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
        _ => None,
    };
    // A number below 0 is the client's word for any; one that no device can have matches none.
    let number = |number: Option<i64>| {
        let number = number.filter(|number| *number >= 0);
        number.map(|number| i32::try_from(number).unwrap_or(i32::MAX))
    };
    let access = rule
        .access()
        .as_deref()
        .unwrap_or("rwm")
        .chars()
        .fold(0, |access, letter| match letter {
            'r' => access | READ,
            'w' => access | WRITE,
            'm' => access | MKNOD,
            _ => access,
        });
    Rule {
        allow: rule.allow(),
        kind,
        major: number(rule.major()),
        minor: number(rule.minor()),
        access,
    }
}

/// Opcodes of linux/bpf_common.h and linux/bpf.h, those with an immediate operand.
mod op {
    pub const LOAD_WORD: u8 = 0x61;
    pub const MOVE: u8 = 0xb7;
    pub const MOVE_REGISTER: u8 = 0xbf;
    pub const AND: u8 = 0x57;
    pub const SHIFT_RIGHT: u8 = 0x77;
    pub const JUMP_IF_EQUAL: u8 = 0x15;
    pub const JUMP_UNLESS_EQUAL: u8 = 0x55;
    pub const EXIT: u8 = 0x95;
}

/// Registers: the answer, the context, and those that the program chose.
mod register {
    pub const ANSWER: u8 = 0;
    pub const CONTEXT: u8 = 1;
    pub const KIND: u8 = 2;
    pub const ACCESS: u8 = 3;
    pub const MAJOR: u8 = 4;
    pub const MINOR: u8 = 5;
    pub const SCRATCH: u8 = 6;
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> BpfInstruction {
    BpfInstruction {
        code,
        registers: destination | source << 4,
        offset,
        immediate,
    }
}

fn answer(yes: bool) -> [BpfInstruction; 2] {
    [
        instruction(op::MOVE, register::ANSWER, 0, 0, yes.into()),
        instruction(op::EXIT, 0, 0, 0, 0),
    ]
}

fn program(rules: &[Rule]) -> Vec<BpfInstruction> {
    let mut program = vec![
        // The first word holds the type in its lower half and the access in its upper one.
        instruction(op::LOAD_WORD, register::KIND, register::CONTEXT, 0, 0),
        instruction(op::MOVE_REGISTER, register::ACCESS, register::KIND, 0, 0),
        instruction(op::AND, register::KIND, 0, 0, 0xffff),
        instruction(op::SHIFT_RIGHT, register::ACCESS, 0, 0, 16),
        instruction(op::LOAD_WORD, register::MAJOR, register::CONTEXT, 4, 0),
        instruction(op::LOAD_WORD, register::MINOR, register::CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(block(rule));
    }
    program.extend(answer(false));
    program
}

/// What one rule does; falls through to the next rule if it does not decide.
fn block(rule: &Rule) -> Vec<BpfInstruction> {
    let mut decision = if rule.allow {
        vec![
            instruction(op::AND, register::ACCESS, 0, 0, ALL & !rule.access),
            instruction(op::JUMP_UNLESS_EQUAL, register::ACCESS, 0, 2, 0),
        ]
    } else {
        vec![
            instruction(op::MOVE_REGISTER, register::SCRATCH, register::ACCESS, 0, 0),
            instruction(op::AND, register::SCRATCH, 0, 0, rule.access),
            instruction(op::JUMP_IF_EQUAL, register::SCRATCH, 0, 2, 0),
        ]
    };
    decision.extend(answer(rule.allow));
    let conditions = [
        (register::KIND, rule.kind),
        (register::MAJOR, rule.major),
        (register::MINOR, rule.minor),
    ];
    let mut block = Vec::new();
    for (register, value) in conditions.into_iter().rev() {
        if let Some(value) = value {
            let over = (block.len() + decision.len()) as i16;
            block.insert(0, instruction(op::JUMP_UNLESS_EQUAL, register, 0, over, value));
        }
    }
    block.extend(decision);
    block
}

#[cfg(test)]
#[path = "devices_test.rs"]
mod tests;
