"""The guest's clock follows the host's: steps forwards and back, and after a pause."""

import pytest

from harness.answers import Case

# off_by: how many seconds the container's clock is from the host's, once that is at most 2 or 20 s have passed.
FUNCTIONS = """
off_by() {
    local tries there here
    for ((tries = 0; tries < 20; tries++)); do
        there=$(ctr task exec --exec-id "c$RANDOM$tries" "$ID" date +%s)
        here=$(date +%s)
        ((here - there <= 2 && there - here <= 2)) && { echo "$1: the clock is right"; return; }
        sleep 1
    done
    echo "$1: the clock is off by $((there - here)) s"
}
# The host's clock is put back by what the monotonic clock says, whatever happens.
read -r up _ </proc/uptime; start=$(date +%s.%N)
put_back() { read -r now _ </proc/uptime; date -s "@$(awk "BEGIN {printf \\"%.3f\\", $start + $now - $up}")" >/dev/null; }
trap put_back EXIT
"""

CASES = (
    Case(
        "clock-follows-steps",
        f"""{FUNCTIONS}
        begin $BUSYBOX $ID sh -c 'echo ready; sleep 1000'
        off_by start
        date -s "@$(($(date +%s) + 5000))" >/dev/null; off_by "step forwards"
        date -s "@$(($(date +%s) - 9000))" >/dev/null; off_by "step back"
        put_back; off_by "put back"
        ctr task kill -s KILL $ID; finish >/dev/null""",
        stdout="start: the clock is right\nstep forwards: the clock is right\nstep back: the clock is right\nput back: the clock is right",
        timeout=150,
        alone=True,
    ),
    Case(
        "clock-after-pause",
        f"""{FUNCTIONS}
        begin $BUSYBOX $ID sh -c 'echo ready; sleep 1000'
        ctr task pause $ID; sleep 5; ctr task resume $ID; off_by "after a pause"
        ctr task kill -s KILL $ID; finish >/dev/null""",
        stdout="after a pause: the clock is right",
        alone=True,
    ),
    Case(
        "uptime-does-not-step",
        f"""{FUNCTIONS}
        begin $BUSYBOX $ID sh -c 'echo ready; sleep 1000'
        a=$(ctr task exec --exec-id a $ID cut -d. -f1 /proc/uptime); date -s "@$(($(date +%s) + 5000))" >/dev/null; sleep 3
        b=$(ctr task exec --exec-id b $ID cut -d. -f1 /proc/uptime); ((b - a >= 2 && b - a < 60)) && echo steady
        ctr task kill -s KILL $ID; finish >/dev/null""",
        stdout="steady",
        alone=True,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)
