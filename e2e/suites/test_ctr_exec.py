"""Further processes in a running container: their statuses, streams, users, and what is refused."""

import pytest

from harness.answers import Case

BEGIN = "begin $BUSYBOX $ID sh -c 'echo ready; exec sleep 1000'"
END = "ctr task kill -s KILL $ID; finish >/dev/null"
EXEC = "ctr task exec --exec-id"
GO = "sh -c 'echo going; exec sleep 1000'"
# For an exec that ends with its container: the foreground `ctr run` would delete the task, and the exec's ctr then finds no
# process to delete and leaves its fifos behind.
STAYS = "detached $BUSYBOX $ID sleep 1000; CTR=$$"
KILLED = "ctr task kill -s KILL $ID; joined a; stopped; gone"

CASES = (
    Case(
        "exec-statuses",
        f"""{BEGIN}
        tell {EXEC} a $ID true; tell {EXEC} b $ID sh -c 'exit 9'; tell {EXEC} c $ID sh -c 'kill -KILL $$'; tell {EXEC} d $ID sh -c 'kill -TERM $$'
        {END}""",
        stdout="-> 0\n-> 9\n-> 137\n-> 143",
        complains=("",),
    ),
    Case(
        "exec-that-cannot-start",
        f"""{BEGIN}
        tell {EXEC} a $ID /no/such/program; tell {EXEC} b $ID no-such-program; tell {EXEC} c $ID /etc/passwd
        tell {EXEC} a $ID echo same-id-again
        {END}""",
        stdout="-> 1\n-> 1\n-> 1\nsame-id-again\n-> 0",
        complains=("/no/such/program.*no such file or directory", "no-such-program.*not found in .?PATH", "/etc/passwd.*permission denied"),
    ),
    Case(
        "exec-streams",
        f"""{BEGIN}
        echo given | {EXEC} a $ID cat; {EXEC} b $ID sh -c 'echo out; echo err >&2' 2>$W/e; cat $W/e
        head -c 3000000 /dev/zero | {EXEC} c $ID sh -c 'wc -c; seq 1 100000 | md5sum'
        {END}""",
        says=("^given\nout\nerr\n3000000\n",),
    ),
    Case(
        "exec-identity",
        f"""{BEGIN}
        {EXEC} a --user 1000:2000 --cwd /etc $ID sh -c 'id -u; id -g; pwd; grep -E "^(Cap|NoNew|Seccomp:)" /proc/self/status'
        {EXEC} b $ID sh -c 'id -u; cat /proc/self/cgroup | wc -l; tr "\\0" "\\n" </proc/self/environ | sort; cat /proc/1/comm; readlink /proc/self/ns/pid | cut -c1-4'
        {END}""",
        says=("^1000\n2000\n/etc\n",),
    ),
    Case(
        "exec-session-keyring",
        """
        describe='import ctypes; libc = ctypes.CDLL(None); key = libc.syscall(250, 0, -3, 0); text = ctypes.create_string_buffer(500); libc.syscall(250, 6, key, text, 500); print(key, text.value.decode())'
        begin $DEBIAN $ID sh -c 'python3 -c "$1"; echo ready; exec sleep 1000' sh "$describe"
        of_init=$(head -n 1 $W/out); of_exec=$(ctr task exec --exec-id a $ID python3 -c "$describe")
        [[ $of_init == "$of_exec" ]] && echo the same; echo "${of_exec#* }"
        ctr task kill -s KILL $ID; finish >/dev/null""",
        stdout="the same\nkeyring;0;0;3f1b0000;_ses.ID",
    ),
    Case("exec-twice-the-same-id", f"{STAYS}; aside a {GO}; tell {EXEC} a $ID true; {KILLED}", says=("-> 1\na ended with 137",), complains=("already exists",)),
    Case("exec-is-ended-with-init", f"{STAYS}; aside a {GO}; {KILLED}", stdout="a ended with 137"),
    Case("exec-is-killed", f"{BEGIN}; aside a {GO}; tell ctr task kill --exec-id a -s TERM $ID; joined a; {END}", stdout="-> 0\na ended with 143"),
    Case("exec-leaves-daemon", f"{BEGIN}; tell {EXEC} a $ID sh -c 'sleep 777 >/dev/null 2>&1 & exit 0'; {EXEC} b $ID sh -c 'ps | grep -c \"[s]leep 777\"'; {END}", stdout="-> 0\n1"),
    Case("exec-after-exit", "detached $BUSYBOX $ID true; stopped; tell ctr task exec --exec-id a $ID true; gone", says=("-> 1",), complains=("stopped|not running|not found",)),
    Case("exec-in-nothing", "tell ctr task exec --exec-id a no-such-container true", says=("-> 1",), complains=("no-such-container.*not found",)),
    Case(
        "exec-ten-at-once",
        f"""{BEGIN}
        for n in 0 1 2 3 4 5 6 7 8 9; do ({EXEC} x$n $ID sh -c "sleep 0.3; echo $n; exit $n"; echo "$n ended with $?") >$W/o$n 2>/dev/null & done
        wait $(jobs -p | tail -n +2)
        cat $W/o?
        {END}""",
        says=("^0\n0 ended with 0\n1\n1 ended with 1\n", "9\n9 ended with 9$"),
        complains=("",),
    ),
    Case("task-ps", f"{STAYS}; aside a {GO}; ctr task ps $ID | tail -n +2 | wc -l; {KILLED}", stdout="2\na ended with 137"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)
