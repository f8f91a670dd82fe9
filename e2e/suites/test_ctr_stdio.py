"""Streams: no byte is lost, the ends are seen, a slow side slows the other; and terminals."""

import pytest

from harness import shell
from harness.answers import BULKHEAD, Case

# 100 MiB in which no two places are alike, made once.
BIG = "[[ -s /var/tmp/big ]] || { seq 1 14000000 | head -c 104857600 >/var/tmp/big.$$; mv /var/tmp/big.$$ /var/tmp/big; }"
BIG_MD5 = "58d93139063c0ccacf60944f4087fd18"

# ctr asks for the end of stdin only when it comes after the task's creation; under runc, an earlier end is never seen.
UNTIL_IT_RUNS = 'until ctr task ls | grep -q "^$ID .*RUNNING"; do sleep 0.2; done; sleep 1'

CASES = (
    Case("stdin-closes-before-end", f"(printf 'a\\nb\\n'; {UNTIL_IT_RUNS}) | run $BUSYBOX $ID sh -c 'read x; echo got $x; cat; echo eof; sleep 0.3; echo later'", stdout="got a\nb\neof\nlater"),
    Case("stdin-unread", "head -c 3000000 /dev/zero | run $BUSYBOX $ID sh -c 'exit 3'", status=3, stdout=""),
    Case("stdout-without-newline", "run $BUSYBOX $ID printf 'no newline'", stdout="no newline"),
    Case("stdout-closed-early", "run $BUSYBOX $ID sh -c 'echo first; exec >&- 2>&-; sleep 0.5; exit 4'", status=4, stdout="first"),
    Case("streams-stay-apart", "run $BUSYBOX $ID sh -c 'seq 1 20000; seq 20001 40000 >&2' 2>$W/err | md5sum; md5sum <$W/err", says=("[0-9a-f]{32}",)),
    Case("binary-data", f"python3 -c 'import sys; sys.stdout.buffer.write(bytes(range(256)) * 400)' >$W/bytes; (cat $W/bytes; {UNTIL_IT_RUNS}) | run $BUSYBOX $ID cat | cmp - $W/bytes && echo same", stdout="same"),
    Case("big-stdin", f"{BIG}; run $BUSYBOX $ID md5sum </var/tmp/big", stdout=f"{BIG_MD5}  -", timeout=180),
    Case("big-stdout", f"{BIG}; run --mount type=bind,src=/var/tmp/big,dst=/big,options=rbind:ro $BUSYBOX $ID cat /big | md5sum", stdout=f"{BIG_MD5}  -", timeout=180),
    Case("big-through-cat", f"{BIG}; run $BUSYBOX $ID cat </var/tmp/big | md5sum", stdout=f"{BIG_MD5}  -", timeout=180),
    Case("slow-reader", "run $BUSYBOX $ID seq 1 300000 | (sleep 2; head -c 100000 >/dev/null; sleep 1; md5sum)", says=("[0-9a-f]{32}",)),
    Case("slow-writer", f"(echo a; {UNTIL_IT_RUNS}; echo b; sleep 1; echo c) | run $BUSYBOX $ID cat", stdout="a\nb\nc"),
    Case("many-short-lines", "run $BUSYBOX $ID sh -c 'n=0; while [ $n -lt 3000 ]; do echo $n; n=$((n + 1)); done' | md5sum", says=("[0-9a-f]{32}",)),
    Case("terminal-size", "ctr run -t --rm --runtime $RT $BUSYBOX $ID sh -c 'sleep 1; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal'", terminal=(41, 103), stdout="41 103\nterminal"),
    Case(
        "terminal-resized",
        "ctr run -t --rm --runtime $RT $BUSYBOX $ID sh -c 'sleep 1; trap \"stty size; exit 8\" WINCH; echo ready; while :; do sleep 0.1; done'",
        terminal=(24, 80),
        dialogue=(("ready", (50, 132)),),
        status=8,
        says=("50 132",),
    ),
    Case(
        "terminal-interrupt",
        "ctr run -t --rm --runtime $RT $BUSYBOX $ID sh -c 'trap \"echo got-int; exit 9\" INT; echo ready; while :; do sleep 0.1; done'",
        terminal=(24, 80),
        dialogue=(("ready", b"\x03"),),
        status=9,
        says=("got-int",),
    ),
    # Typed words have a backslash in them, so that their echo is not taken for what the programs say.
    Case(
        "terminal-job-control",
        "ctr run -t --rm --runtime $RT $DEBIAN $ID bash --norc --noprofile --noediting",
        terminal=(24, 120),
        dialogue=(
            ("# $", b"PS1='ready> '\n"),
            ("\nready> $", b"""sh -c 'trap "echo resu\\med" CONT; echo go\\ing; while :; do sleep 0.1; done'\n"""),
            ("going\r+\n", b"\x1a"),
            ("Stopped[^>]*ready> $", b"jobs -s | wc -l; fg >/dev/null\n"),
            ("resumed\r+\n", b"\x03"),
            ("\nready> $", b"echo status $?; exit 6\n"),
        ),
        status=6,
        says=("Stopped", "\n1\r*\n", "resumed", "status 130"),
    ),
    Case(
        "terminal-session",
        "ctr run -t --rm --runtime $RT $BUSYBOX $ID sh",
        terminal=(24, 80),
        dialogue=(("# " + shell.ASKS, b"PS1='> '\n"), ("\n> " + shell.ASKS, b"echo 1$((1 + 1))3; tty\n"), ("123[^>]*> " + shell.ASKS, b"exit 6\n")),
        status=6,
        says=("\n123\n", "/dev/pts/0|/dev/console"),
    ),
    Case(
        "exec-on-terminal",
        "begin $BUSYBOX $ID sh -c 'echo ready; exec sleep 1000'; ctr task exec -t --exec-id a $ID sh -c 'sleep 1; stty size; tty; exit 5'; echo \"-> $?\"; ctr task kill -s KILL $ID; finish >/dev/null",
        terminal=(33, 99),
        says=("33 99", "/dev/pts/", "-> 5"),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)


@pytest.mark.long
@pytest.mark.parametrize(
    "case",
    (
        Case("two-gigabytes-out", "run $BUSYBOX $ID sh -c 'head -c 2147483648 /dev/zero' | wc -c", stdout="2147483648", timeout=2400),
        Case("gigabyte-in", "head -c 1073741824 /dev/zero | run $BUSYBOX $ID wc -c", stdout="1073741824", timeout=2400),
    ),
    ids=lambda case: case.name,
)
def test_gigabytes(case, beside_runc):
    beside_runc(case)


@pytest.mark.bulkhead
@pytest.mark.parametrize(
    ("script", "stdout"),
    [
        ("echo x | run $BUSYBOX $ID cat", "x\n"),
        ("run $BUSYBOX $ID wc -c <$BIG", "300000\n"),
    ],
    ids=["word", "file"],
)
def test_stdin_that_ends_before_the_task_runs(script, stdout, nothing_left):
    """The end of stdin is seen although ctr never asks for it: ctr has closed the fifo. (runc's shim holds it open.)"""
    answer, _ = shell.bash("BIG=$W/big; head -c 300000 /dev/zero >$BIG; " + script, {**BULKHEAD, "ID": "early-end"}, 60)
    assert (answer.status, answer.stdout) == (0, stdout), answer
