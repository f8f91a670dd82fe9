"""The guest's clock follows the host's: steps forwards and back, slews, and after a pause."""

import pytest

from harness import shell
from harness.answers import BULKHEAD, Case, fail

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


# Reads a clock that is printed ten times a second, and is the least late of a hundred; in between the host's clock goes faster by as
# much as NTP lets it, for a while in which it gains 40 ms.
SLEW = """
import ctypes, sys, time

class Timex(ctypes.Structure):
    _fields_ = [("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("frequency", ctypes.c_long), ("rest", ctypes.c_char * 256)]

def run_faster(ppm):
    change = Timex(modes=2, frequency=ppm << 16)
    if ctypes.CDLL(None).adjtimex(ctypes.byref(change)) < 0:
        sys.exit("the host's clock cannot be changed")

def lateness():
    printed = int(sys.stdin.readline())
    return (time.time_ns() - printed) / 1e6

def late():
    return min(lateness() for _ in range(100))

def drain(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sys.stdin.readline()

before = late()
run_faster(450)
try:
    drain(90)
finally:
    run_faster(0)
drain(60)
after = late()
print("follows" if after - before < 15 else f"late by {before:.1f} ms and then by {after:.1f} ms")
for _ in sys.stdin: pass
"""


@pytest.mark.bulkhead
@pytest.mark.long
def test_a_slew_of_the_host_s_clock_is_followed(nothing_left):
    script = """
    run $DEBIAN $ID python3 -uc 'import time
for _ in range(1800): print(time.time_ns()); time.sleep(0.1)' | python3 -c "$SLEW"
    """
    answer, _ = shell.bash(script, {**BULKHEAD, "ID": "clock-slewed", "SLEW": SLEW}, 300)
    if answer.stdout != "follows\n":
        fail(str(answer))
