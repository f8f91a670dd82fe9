"""Signals and the life of a task: kill, pause, exec, delete, in the orders that go wrong."""

import pytest

from harness import shell
from harness.answers import BULKHEAD, Case, fail

TRAP = "sh -c 'trap \"echo got-term; exit 5\" TERM; trap \"echo got-usr1\" USR1; echo ready; while :; do sleep 0.1; done'"
SLEEP = "sh -c 'echo ready; exec sleep 1000'"

CASES = (
    Case("term-handled", f"begin $BUSYBOX $ID {TRAP}; ctr task kill -s SIGTERM $ID; finish", stdout="ended with 5\nready\ngot-term"),
    Case("usr1-then-term", f"begin $BUSYBOX $ID {TRAP}; ctr task kill -s USR1 $ID; await got-usr1; ctr task kill $ID; finish", stdout="ended with 5\nready\ngot-usr1\ngot-term"),
    Case("kill", f"begin $BUSYBOX $ID {SLEEP}; ctr task kill -s SIGKILL $ID; finish", stdout="ended with 137\nready"),
    Case("term-ignored-by-init", f"begin $BUSYBOX $ID {SLEEP}; ctr task kill -s TERM $ID; sleep 0.5; ctr task kill -s 9 $ID; finish", stdout="ended with 137\nready"),
    Case("signal-to-ctr-is-passed-on", f"begin $BUSYBOX $ID {TRAP}; sleep 2; kill -TERM $(pgrep -x ctr -P $CTR || echo $CTR); finish", says=("got-term",)),
    Case("realtime-signal", "begin $BUSYBOX $ID sh -c 'trap \"echo got-rt; exit 6\" 34; echo ready; while :; do sleep 0.1; done'; ctr task kill -s 34 $ID; finish", says=("got-rt", "ended with 6")),
    Case(
        "kill-all",
        """begin $BUSYBOX $ID sh -c 'sleep 1000 & trap "echo got-usr1; exit 4" USR1; echo ready; while :; do sleep 0.1; done'
        ctr task kill -a -s USR1 $ID; finish""",
        stdout="ended with 4\nready\ngot-usr1",
        # Whether the shell still tells of its job's end.
        complains=("",),
    ),
    Case("double-kill", "detached $BUSYBOX $ID sleep 1000; ctr task kill -s KILL $ID; stopped; tell ctr task kill -s KILL $ID; gone", says=("-> 1",), complains=("not found|already finished",)),
    Case("kill-twice-at-once", "detached $BUSYBOX $ID sleep 1000; ctr task kill -s KILL $ID 2>/dev/null & ctr task kill -s KILL $ID 2>/dev/null; wait; stopped; gone", stdout=""),
    Case(
        "kill-during-start",
        """
        detached $BUSYBOX $ID sleep 1000 2>$W/err &
        for ((n = 0; n < 200; n++)); do ctr task kill -s KILL $ID 2>/dev/null && break; done
        wait
        stopped
        ctr task ls | awk -v id=$ID '$1 == id {print $3}'
        gone""",
        stdout="STOPPED",
    ),
    Case(
        "ctr-killed-during-start",
        """
        ctr run -d --null-io --runtime $RT $BUSYBOX $ID sleep 1000 & sleep 1.2; kill -KILL $!; wait 2>/dev/null; sleep 3
        for n in 1 2 3 4 5; do
            ctr task kill -s KILL $ID 2>/dev/null; ctr task rm -f $ID >/dev/null 2>&1; ctr container rm $ID 2>/dev/null
            ctr container ls -q | grep -q -F $ID || break
        done
        ctr task ls -q | grep -c -F $ID; ctr container ls -q | grep -c -F $ID; true""",
        stdout="0\n0",
        complains=("",),
    ),
    Case("unknown-signal-number", "detached $BUSYBOX $ID sleep 1000; tell ctr task kill -s 99 $ID; ctr task kill -s KILL $ID; stopped; gone", says=("-> 1",), complains=("invalid argument|unknown|invalid",)),
    Case("delete-while-running", "detached $BUSYBOX $ID sleep 1000; tell ctr task rm $ID; tell ctr container rm $ID; ctr task kill -s KILL $ID; stopped; gone", says=("-> 1\n-> 1",), complains=("running", "non stopped container|must be stopped|failed precondition")),
    Case("delete-by-force", "detached $BUSYBOX $ID sleep 1000; tell ctr task rm -f $ID; ctr container rm $ID", says=("-> (0|137)",)),
    Case("start-twice", "detached $BUSYBOX $ID sleep 1000; tell ctr task start $ID; ctr task kill -s KILL $ID; stopped; gone", says=("-> 1",), complains=("already exists",)),
    Case("same-id-twice", "detached $BUSYBOX $ID sleep 1000; tell detached $BUSYBOX $ID true; ctr task kill -s KILL $ID; stopped; gone", says=("-> 1",), complains=("already exists",)),
    Case(
        "task-again-in-same-container",
        """
        listen; detached $BUSYBOX $ID sh -c 'echo x >>/runs; exit $(wc -l </runs)'; stopped; ctr task rm $ID
        ctr task start -d --null-io $ID; stopped; ctr task rm $ID; ctr container rm $ID
        heard 2; grep -o '"exit_status":[0-9]*' $W/heard""",
        says=('"exit_status":1\n(.*\n)*"exit_status":2\n',),
    ),
    Case(
        "status-of-stopped-task",
        "listen; detached $BUSYBOX $ID sh -c 'exit 42'; stopped; tell ctr task rm $ID; ctr container rm $ID; heard; grep -o '\"exit_status\":[0-9]*' $W/heard",
        says=(' /tasks/exit \n"exit_status":42',),
    ),
    Case(
        "pause-and-resume",
        """
        begin $BUSYBOX $ID sh -c 'echo ready; n=0; while :; do n=$((n + 1)); echo $n >/next; mv /next /count; sleep 0.05; done'
        ctr task pause $ID
        ctr task ls | awk -v id=$ID '$1 == id {print $3}'
        tell ctr task exec --exec-id x1 $ID true
        tell ctr task resume $ID
        ctr task ls | awk -v id=$ID '$1 == id {print $3}'
        a=$(ctr task exec --exec-id x2 $ID cat /count); b=$(ctr task exec --exec-id x3 $ID cat /count)
        ((b > a)) && echo counts
        ctr task kill -s KILL $ID; finish""",
        stdout="PAUSED\n-> 1\n-> 0\nRUNNING\ncounts\nended with 137\nready",
        complains=("paused",),
    ),
    Case("kill-while-paused", f"begin $BUSYBOX $ID {SLEEP}; ctr task pause $ID; ctr task kill -s KILL $ID; ctr task resume $ID 2>/dev/null; finish", stdout="ended with 137\nready"),
    Case(
        "orphans-are-ended-with-init",
        "run $BUSYBOX $ID sh -c 'sleep 1000 & sleep 1000 & echo started; exit 2'",
        status=2,
        stdout="started",
    ),
    Case(
        "zombies-are-reaped",
        """
        begin $BUSYBOX $ID sh -c 'n=0; while [ $n -lt 20 ]; do sh -c "sleep 0.1 &"; n=$((n + 1)); done; sleep 1; echo ready; while :; do sleep 0.1; done'
        for n in 1 2 3; do ctr task exec --exec-id x$n $ID sh -c 'sleep 0.1 &'; done
        sleep 0.5
        ctr task exec --exec-id y $ID sh -c 'grep -l "^State:.Z" /proc/[0-9]*/status 2>/dev/null | wc -l'
        ctr task kill -s KILL $ID; finish""",
        stdout="0\nended with 137\nready",
    ),
    Case(
        "events-in-order",
        "listen; begin $BUSYBOX $ID sh -c 'echo ready; exec sleep 1000'; ctr task exec --exec-id x1 $ID true; ctr task pause $ID; ctr task resume $ID; ctr task kill -s KILL $ID; finish >/dev/null; heard 2",
        says=("/tasks/create *\n */tasks/start", "/tasks/paused *\n */tasks/resumed", "/tasks/exit *$"),
    ),
    Case(
        "events-tell-status-and-pid",
        """
        listen; run $BUSYBOX $ID sh -c 'exit 9'; heard >/dev/null
        grep -o '"exit_status":[0-9]*' $W/heard
        pids=$(grep -o '"pid":[0-9]*' $W/heard | sort -u | wc -l); echo "different pids: $pids" """,
        says=('"exit_status":9', "different pids: 1"),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)


@pytest.mark.bulkhead
def test_the_deletion_is_told_once_and_last(nothing_left):
    script = """
        listen; run $BUSYBOX $ID sh -c 'exit 42'
        for ((n = 0; n < 100; n++)); do grep -q ' /tasks/delete ' $W/events && break; sleep 0.1; done
        sleep 0.5; kill $EVENTS; grep ' /tasks/' $W/events | grep -o ' /tasks/[a-z]*\\|"exit_status":[0-9]*' """
    answer, _ = shell.bash(script, {**BULKHEAD, "ID": "deletion-is-told"}, 60)
    if answer.stdout.split() != ["/tasks/create", "/tasks/start", "/tasks/exit", '"exit_status":42', "/tasks/delete", '"exit_status":42']:
        fail(str(answer))
