"""Exit statuses, and the ways in which a container does not start: the same status and message as under runc."""

import pytest

from harness.answers import Case, Differs

# A mount of one file of the case's folder onto /x in the container.
MOUNT_X = "--mount type=bind,src=$W/x,dst=/x,options=rbind:ro"

CASES = (
    Case("true", "run $BUSYBOX $ID true", stdout=""),
    Case("status-7", "run $BUSYBOX $ID sh -c 'echo out; echo err >&2; exit 7'", status=7, stdout="out", complains=("err",)),
    Case("status-255", "run $BUSYBOX $ID sh -c 'exit 255'", status=255),
    Case("init-ignores-own-kill", "run $BUSYBOX $ID sh -c 'kill -KILL $$; kill -TERM $$; echo alive'", stdout="alive"),
    Case(
        "child-killed-by-signal",
        "run $BUSYBOX $ID sh -c 'for s in TERM KILL HUP ABRT; do sh -c \"kill -$s \\$\\$\"; echo $?; done'",
        stdout="143\n137\n129\n134",
        differs=Differs("core files are off in a guest unless the specification asks for them", stderr="Aborted\n$"),
    ),
    Case("init-crashes", "run $DEBIAN $ID python3 -c 'import ctypes; ctypes.string_at(0)'", status=139),
    Case(
        "missing-program",
        "run $BUSYBOX $ID /no/such/program",
        status=1,
        stdout="",
        complains=("/no/such/program", "no such file or directory"),
    ),
    Case(
        "missing-in-path",
        "run $BUSYBOX $ID no-such-program",
        status=1,
        complains=("no-such-program", "executable file not found in .?PATH"),
    ),
    Case("not-executable", "run $BUSYBOX $ID /etc/passwd", status=1, complains=("/etc/passwd", "permission denied")),
    Case("folder-as-program", "run $BUSYBOX $ID /etc", status=1, complains=("/etc", "is a directory|permission denied")),
    Case(
        "no-program-format",
        f"echo 'neither script nor ELF' >$W/x; chmod 755 $W/x; run {MOUNT_X} $BUSYBOX $ID /x",
        status=255,
        complains=("exec format error",),
    ),
    Case(
        "missing-interpreter",
        f"printf '#!/no/interpreter\\n' >$W/x; chmod 755 $W/x; run {MOUNT_X} $BUSYBOX $ID /x",
        status=255,
        complains=("no such file or directory",),
    ),
    Case("script-with-interpreter", f"printf '#!/bin/sh\\necho \"$0 $1\"; exit 3\\n' >$W/x; chmod 755 $W/x; run {MOUNT_X} $BUSYBOX $ID /x arg", status=3, stdout="/x arg"),
    Case("cwd-is-made", "run --cwd /new/folder $BUSYBOX $ID pwd", stdout="/new/folder"),
    Case("cwd-is-a-file", "run --cwd /etc/passwd $BUSYBOX $ID pwd", status=1, complains=("/etc/passwd", "not a directory")),
    Case("cwd-relative", "run --cwd etc $BUSYBOX $ID pwd", status=1, complains=("absolute",)),
    Case("unknown-user", "run --user nosuchuser $BUSYBOX $ID id", status=1, complains=("nosuchuser|no users found",)),
    Case("user-by-name", "run --user app $BUSYBOX $ID sh -c 'id; echo $HOME'", says=("uid=1000",)),
    Case("user-by-number", "run --user 4242:4343 $BUSYBOX $ID id", says=("uid=4242 gid=4343",)),
    Case("missing-mount-source", "run --mount type=bind,src=/no/source,dst=/x,options=rbind $BUSYBOX $ID true", status=1, complains=("/no/source", "no such file")),
    Case("mount-onto-file", "mkdir $W/x; run --mount type=bind,src=$W/x,dst=/etc/passwd,options=rbind $BUSYBOX $ID true", status=1, complains=("/etc/passwd", "not a directory")),
    Case("arguments-verbatim", "run $BUSYBOX $ID printf '<%s>' '' 'a b' $'tab\\tnewline\\n' 'ümlaut' '$HOME' '*' \"it's\"", says=("^<><a b><tab\tnewline\n><ümlaut>",)),
    Case("many-arguments", "run $BUSYBOX $ID sh -c 'echo $# ${#*}' sh $(seq 1 15000)", says=("^15000 ",)),
    Case("pid-file", "run --pid-file $W/pid $BUSYBOX $ID true; [[ $(<$W/pid) -gt 1 ]] && echo number", stdout="number"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)
