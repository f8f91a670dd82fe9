"""Locks on a volume's files, between two pods and between a pod and the host; inside one container: test_ctr_files."""

import pytest

from harness.answers import Case

pytestmark = pytest.mark.in_turns

# python PROGRAM...: in the host; volume: options of ctr for it. hold ID STATEMENT: a container that has made the lock.
FUNCTIONS = r"""
mkdir $W/v; head -c 4096 /dev/zero >$W/v/f
PROLOGUE='
import fcntl, os, sys, time
f = open(sys.argv[1] + "/f", "r+b")
def tried(*arguments):
    try:
        fcntl.lockf(f, *arguments) if len(arguments) > 1 else fcntl.flock(f, *arguments)
        return "locked"
    except BlockingIOError:
        return "busy"
EX, SH, NB, UN = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB, fcntl.LOCK_UN
'
VOLUME="--mount type=bind,src=$W/v,dst=/v,options=rbind:rw"
host() { python3 -c "$PROLOGUE$1" $W/v; }
execute() { ctr task exec --exec-id "x$RANDOM$RANDOM" "$1" python3 -c "$PROLOGUE$2" /v; }
appears() { for ((n = 0; n < 300; n++)); do [[ -e $W/v/$1 ]] && return; sleep 0.1; done; echo "no $1"; }
hold() { detached $VOLUME $DEBIAN $1 python3 -c "$PROLOGUE$2
open('/v/$1', 'w'); time.sleep(1000)" /v; appears $1; }
end() { ctr task kill -s KILL $1; for ((n = 0; n < 60; n++)); do [[ $(ctr task ls | awk -v id=$1 '$1 == id {print $3}') == STOPPED ]] && break; sleep 0.1; done
    ctr task rm -f $1 >/dev/null; ctr container rm $1; }
"""

CASES = (
    Case(
        "locks-between-pods-and-host",
        FUNCTIONS
        + """
        hold $ID-1 'tried(EX, 10, 100); tried(EX)'
        host 'print(tried(EX | NB, 1, 105), tried(EX | NB, 1, 110), tried(SH | NB))'
        hold $ID-2 'print(tried(SH, 10, 200))'
        execute $ID-2 'print(tried(EX | NB, 1, 109), tried(SH | NB, 1, 200), tried(EX | NB, 1, 200), tried(EX | NB))'
        host 'print(tried(SH | NB, 1, 200), tried(EX | NB, 1, 200))'
        end $ID-1
        host 'print(tried(EX | NB, 1, 105), tried(EX | NB))'
        end $ID-2
        host 'print(tried(EX | NB, 0, 0))'""",
        stdout="busy locked busy\nbusy locked busy busy\nlocked busy\nlocked locked\nlocked",
        timeout=120,
    ),
    Case(
        "lock-of-the-host-is-waited-for",
        FUNCTIONS
        + """
        host 'tried(EX); open(sys.argv[1] + "/held", "w"); time.sleep(600)' & holder=$!
        appears held
        hold $ID ''
        execute $ID 'print(tried(EX | NB)); open("/v/waits", "w"); print(tried(EX))' & waiter=$!
        appears waits; sleep 1; pkill -P $holder; wait $waiter; echo "waiter $?"
        end $ID""",
        stdout="busy\nlocked\nwaiter 0",
        complains=("",),
        timeout=120,
    ),
    Case(
        "killed-waiter-goes-away",
        FUNCTIONS
        + """
        exec 9<>$W/v/f; flock 9
        hold $ID ''
        ctr task exec --exec-id waiter $ID sh -c 'touch /v/waits; exec flock /v/f true' & waiter=$!
        appears waits; sleep 1
        ctr task exec --exec-id killer $ID sh -c 'pkill -x flock'; wait $waiter; echo "waiter $?"
        ctr task exec --exec-id looks $ID pgrep -x flock; echo "found $?"
        exec 9>&-
        ctr task exec --exec-id again $ID flock -n /v/f echo free
        end $ID""",
        stdout="waiter 143\nfound 1\nfree",
        complains=("",),
        timeout=120,
    ),
    Case(
        # Each adds one to the number in the file a hundred times, under the lock: none may be lost, whatever is cached where.
        "counter-under-a-lock",
        FUNCTIONS
        + """
        count='
for n in range(100):
    tried(EX, 1)
    f.seek(0); number = int.from_bytes(f.read(4), "big"); f.seek(0); f.write((number + 1).to_bytes(4, "big")); f.flush()
    tried(UN, 1)
'
        hold $ID-1 ''; hold $ID-2 ''
        execute $ID-1 "$count" & execute $ID-2 "$count" & host "$count" & wait
        host 'print(int.from_bytes(f.read(4), "big"))'
        end $ID-1; end $ID-2""",
        stdout="300",
        timeout=180,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)
