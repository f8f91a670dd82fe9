use super::*;

/// Runs a program as the kernel would: what it answers to an attempt.
fn runs(program: &[BpfInstruction], kind: i32, major: u32, minor: u32, access: i32) -> bool {
    let context = [(access << 16 | kind) as u64, u64::from(major), u64::from(minor)];
    let mut registers = [0u64; 11];
    let mut next = 0usize;
    loop {
        let BpfInstruction {
            code,
            registers: names,
            offset,
            immediate,
        } = program[next];
        let (to, from) = (usize::from(names & 15), usize::from(names >> 4));
        next += 1;
        let mut jump = |taken: bool| {
            if taken {
                next += usize::try_from(offset).unwrap();
            }
        };
        match code {
            op::LOAD_WORD => registers[to] = context[usize::try_from(offset).unwrap() / 4],
            op::MOVE => registers[to] = immediate as u64,
            op::MOVE_REGISTER => registers[to] = registers[from],
            op::AND => registers[to] &= immediate as u64,
            op::SHIFT_RIGHT => registers[to] >>= immediate,
            op::JUMP_IF_EQUAL => jump(registers[to] == immediate as u64),
            op::JUMP_UNLESS_EQUAL => jump(registers[to] != immediate as u64),
            op::EXIT => return registers[0] == 1,
            _ => panic!("opcode {code:#x}"),
        }
    }
}

fn rules(json: &str) -> Vec<Rule> {
    let parsed: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).unwrap();
    parsed.iter().map(rule).collect()
}

#[test]
fn without_rules_nothing_is_allowed_but_what_every_container_has() {
    assert!(!runs(&program(&[]), CHARACTER, 1, 3, READ));
    let program = program(ALWAYS);
    assert!(runs(&program, CHARACTER, 1, 3, READ | WRITE), "/dev/null");
    assert!(runs(&program, CHARACTER, 136, 77, READ | WRITE), "a terminal");
    assert!(runs(&program, BLOCK, 8, 0, MKNOD), "a node may be made");
    assert!(!runs(&program, BLOCK, 8, 0, READ), "but not opened");
    assert!(!runs(&program, CHARACTER, 1, 1, READ), "/dev/mem");
    assert!(!runs(&program, BLOCK, 1, 3, READ), "the type counts");
}

#[test]
fn later_rules_overrule_earlier_ones() {
    let program = program(&rules(
        r#"[{"allow": true, "type": "c", "major": 10, "access": "rwm"},
            {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "w"}]"#,
    ));
    assert!(runs(&program, CHARACTER, 10, 1, READ | WRITE));
    assert!(runs(&program, CHARACTER, 10, 229, READ));
    assert!(!runs(&program, CHARACTER, 10, 229, WRITE));
    assert!(!runs(&program, CHARACTER, 10, 229, READ | WRITE));
}

#[test]
fn access_may_come_from_several_rules() {
    let program = program(&rules(
        r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "b", "major": 7, "minor": 0, "access": "r"},
            {"allow": true, "type": "b", "major": 7, "minor": -1, "access": "w"}]"#,
    ));
    assert!(runs(&program, BLOCK, 7, 0, READ | WRITE));
    assert!(runs(&program, BLOCK, 7, 1, WRITE));
    assert!(!runs(&program, BLOCK, 7, 1, READ | WRITE));
}

#[test]
fn a_privileged_container_may_use_everything() {
    let program = program(&rules(r#"[{"allow": true, "access": "rwm"}]"#));
    assert!(runs(&program, BLOCK, 259, 1_048_575, ALL) && runs(&program, CHARACTER, 1, 1, READ));
}
