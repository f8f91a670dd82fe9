"""How long `ctr run --rm IMAGE true` takes and where the time goes, and what a boot costs in exits, faults and copies.

Bulkhead's shim logs when each step ended. runc's steps are those that the kernel sees from outside: when which program was
started and when it ended.
"""

import contextlib
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path

from common import RUNTIMES, SPARE_ROUNDS, DiskMoved, call, counted_rounds, now_us, still_disk

# The shim's phase lines, in their order, and what lies before each. Mounts and microVM are prepared at the same time: of
# the two, the later one's time is what it took beyond the other.
PHASES = {
    "shim-start": "containerd, until it starts the shim",
    "shim-serving": "shim start",
    "create": "containerd, until it asks to create",
    "mounts": "mounts",
    "vmm": "vmm",
    "kernel": "kernel handed over",
    "agent": "kernel and agent, until it answers",
    "created": "container",
    "start": "containerd, until it asks to start",
    "started": "container's start",
    "exited": "the program",
    "delete": "containerd, until it asks to delete",
    "deleted": "delete",
    "shutdown": "teardown of the pod",
    "end": "containerd and ctr, after the pod",
}
# The same marks of a start with runc, as far as they can be seen from outside.
RUNC_PHASES = {
    "shim-start": "containerd, until it starts the shim",
    "shim-serving": "shim start",
    "create": "containerd and shim, until `runc create`",
    "created": "runc create",
    "start": "containerd and shim, until `runc start`",
    "started": "runc start",
    "exited": "the program, until it has ended",
    "delete": "containerd and shim, until `runc delete`",
    "deleted": "runc delete",
    "shutdown": "end of the shim",
    "end": "containerd and ctr, after the shim",
}
PHASE_LINE = re.compile(r"phase=([a-z-]+) monotonic_us=(\d+) id=([A-Za-z0-9_.-]+)")
PROGRAM = "true"

TRACEFS = Path("/sys/kernel/tracing")
TRACE_LINE = re.compile(r"-(\d+) +\[\d+\] .*? (\d+)\.(\d{6}): (sched_process_exec|sched_process_exit): (.*)$", re.MULTILINE)
TRACED = ("sched_process_exec", "sched_process_exit")


class Trace:
    """Programs that start and end anywhere on the host, in a trace instance of their own; without tracefs there is nothing."""

    def __init__(self, name="bulkhead-bench"):
        self.folder = TRACEFS / "instances" / name

    def __enter__(self):
        try:
            self.folder.mkdir(exist_ok=True)
            self._write("trace_clock", "mono")
            for event in TRACED:
                self._write(f"events/sched/{event}/enable", "1")
        except OSError:
            self.folder = None
        return self

    def __exit__(self, *_):
        if self.folder:
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _write(self, name, value):
        (self.folder / name).write_text(value, encoding="ascii")

    def clear(self):
        if self.folder:
            self._write("trace", "")

    def read(self):
        return (self.folder / "trace").read_text(encoding="utf-8", errors="replace") if self.folder else ""


def program_events(text):
    """(microseconds, pid, path of the program, or None when the process ended) of each event of a trace, in their order."""
    events = []
    for pid, seconds, fraction, event, rest in TRACE_LINE.findall(text):
        path = None
        if event == "sched_process_exec":
            path = re.search(r"filename=(.*?) pid=", rest).group(1)
        events.append((int(seconds) * 1_000_000 + int(fraction), int(pid), path))
    return sorted(events, key=lambda event: event[0])


def runc_marks(events):
    """When each of RUNC_PHASES was over, from what started and ended; what was not seen is left out.

    The shim's program runs once to start (it leaves a server behind), perhaps once more to clean up; runc runs to create, to
    start and to delete, in this order.
    """
    ends = {pid: at for at, pid, path in events if path is None}
    shims = [(at, pid) for at, pid, path in events if path and path.endswith("/containerd-shim-runc-v2")]
    calls = [(at, pid) for at, pid, path in events if path and os.path.basename(path) == "runc"]
    programs = [(at, pid) for at, pid, path in events if path and os.path.basename(path) == PROGRAM]
    marks = {}
    if shims:
        marks["shim-start"] = shims[0][0]
        marks["shim-serving"] = ends.get(shims[0][1])
    if len(shims) > 1:
        marks["shutdown"] = ends.get(shims[1][1])
    if programs:
        marks["exited"] = ends.get(programs[0][1])
    for (begin, end), (at, pid) in zip((("create", "created"), ("start", "started"), ("delete", "deleted")), calls, strict=False):
        marks[begin], marks[end] = at, ends.get(pid)
    return {name: at for name, at in marks.items() if at is not None}


def shim_marks(identifier, log):
    """When each of PHASES was over, from the phase lines of one pod."""
    marks = {}
    for name, microseconds, pod in PHASE_LINE.findall(log):
        if pod == identifier and name in PHASES:
            marks.setdefault(name, int(microseconds))
    return marks


def spans(marks, start, end):
    """(name, milliseconds from the start, milliseconds) of what lies before each mark, in the order of time."""
    found, before = [], start
    for name, then in sorted({**marks, "end": end}.items(), key=lambda one: one[1]):
        if start <= then <= end:
            found.append((name, (before - start) / 1000, (then - before) / 1000))
            before = then
    return found


def start_times(settings):
    """By runtime, one (milliseconds, spans) a round."""
    with Trace() as trace:

        def one(name, number):
            identifier = f"start-{name}-{number}"
            trace.clear()
            mark = settings.log.mark()
            start = now_us()
            call("ctr", "run", "--rm", "--runtime", RUNTIMES[name], settings.busybox, identifier, PROGRAM)
            end = now_us()
            if name == "bulkhead":
                marks = shim_marks(identifier, settings.log.since(mark))
            else:
                marks = runc_marks(program_events(trace.read()))
            return (end - start) / 1000, spans(marks, start, end)

        return counted_rounds(settings, settings.rounds, "starts", one)


def timeline(rounds, texts):
    """The phases of the round whose time is the median (of an even number, the lower one of the two in the middle)."""
    total, phases = sorted(rounds, key=lambda one: one[0])[(len(rounds) - 1) // 2]
    return {
        "total_ms": total,
        "phases": [{"name": name, "text": texts[name], "from_ms": begin, "ms": length} for name, begin, length in phases],
    }


def probe(settings):
    """From the vmm's start until the agent accepts a connection: the probe's answers."""
    answers = []
    for _ in range(settings.rounds + SPARE_ROUNDS):
        try:
            with still_disk(settings):
                answers.append(json.loads(call(str(settings.probe))))
        except DiskMoved:
            continue
        if len(answers) == settings.rounds:
            return answers
    return sys.exit("figures: the disk moved in too many boots")


def figures(table, settings):
    rounds = start_times(settings)
    times = {name: [total for total, _ in values] for name, values in rounds.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    table.add("start: ctr run --rm IMAGE true", "ms", medians.get("bulkhead"), medians["runc"], rounds=times)
    for runtime, texts in (("bulkhead", PHASES), ("runc", RUNC_PHASES)):
        if runtime not in rounds:
            continue
        found = {}
        for _, phases in rounds[runtime]:
            for name, _, length in phases:
                found.setdefault(name, []).append(length)
        if len(found) == 1:
            print(f"no phases of {runtime}: see --containerd-log" if runtime == "bulkhead" else "no phases of runc: there is no tracefs")
            continue
        for name, text in texts.items():
            if name in found:
                table.add(f"  {text}", "ms", **{runtime: statistics.median(found[name])})
    texts = {"bulkhead": PHASES, "runc": RUNC_PHASES}
    table.keep("timelines", {name: timeline(values, texts[name]) for name, values in rounds.items()})
    if "bulkhead" in rounds and settings.probe.exists():
        probe_figures(table, settings)


def probe_figures(table, settings):
    answers = probe(settings)

    def median(read):
        return statistics.median(read(answer) for answer in answers)

    table.add("vmm start to its vCPUs running", "ms", median(lambda answer: answer["booted_us"]) / 1000)
    table.add("vmm start to agent answering", "ms", median(lambda answer: answer["connected_us"]) / 1000)
    exits = median(lambda answer: sum(count for name, count in answer["counters"].items() if name.startswith("exits_")))
    table.add("exits until the agent answers", "", int(exits))
    copied = median(lambda answer: answer["counters"]["bytes_copied_at_boot"])
    table.add("copied into the guest's memory at boot", "MiB", copied / 1024 / 1024)
    # Where there is no debugfs there are none.
    if any(answer["kvm"] for answer in answers):
        for name, text in (
            ("pf_taken", "page faults of the guest's memory until then"),
            ("pf_fixed", "  of which gave it a page"),
            ("exits", "exits to the host's kernel until then"),
        ):
            table.add(text, "", int(median(lambda answer, name=name: answer["kvm"][name])))
