#!/usr/bin/env python3
"""The figures of `make bench`. Runs inside the test host, whose clock counts instructions, as root.

Both runtimes are measured in the same boot, in turns. A figure counts only when the virtual disk stood still meanwhile:
the clock leaps over waits for it. Memory is the proportional set size (PSS) of everything that a pod adds to the host.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNTIMES = {"bulkhead": "io.containerd.bulkhead.v2", "runc": "io.containerd.runc.v2"}
SHIM = Path("/usr/local/bin/containerd-shim-bulkhead-v2")
PROBE = Path("/usr/local/libexec/bulkhead/bulkhead-vmm-probe")
BUSYBOX = "docker.io/bulkhead/busybox:latest"
PAUSE = "docker.io/bulkhead/pause:latest"
DEBIAN = "docker.io/bulkhead/debian:latest"
FILES = "/repo/e2e/bench/files.py"
# Work of files.py in its order: its name, whether caches are dropped before, and what the figure is called.
FILE_WORK = (
    ("write", False, "write 16 MiB, fsync"),
    ("read", True, "read 16 MiB, cold"),
    ("read", False, "read 16 MiB again, the first time"),
    ("read", False, "read 16 MiB, cached"),
    ("read-4k", True, "1,000 random reads of 4 KiB, cold"),
    ("read-4k", False, "1,000 random reads of 4 KiB, cached"),
    ("walk", True, "walk of 520 names, cold"),
    ("walk", False, "walk of 520 names, cached"),
    ("read-small", True, "read 500 small files, cold"),
    ("read-small", False, "read 500 small files, cached"),
    ("create", False, "create 500 small files"),
    ("delete", False, "delete 500 small files"),
    ("compile", True, "compile 40 modules of Python, cold"),
    ("compile", False, "compile 40 modules of Python, cached"),
)
CONTAINERD_LOG = Path("/var/log/containerd.log")
COMMAND_SECONDS = 120
# More tries of a round whose figure does not count because the disk moved.
SPARE_ROUNDS = 3

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
PHASE_LINE = re.compile(r"phase=([a-z-]+) monotonic_us=(\d+) id=([A-Za-z0-9_.-]+)")


def disk_counters():
    """I/O counts of every real disk; RAM disks and loops are memory here."""
    counts = []
    for name in sorted(os.listdir("/sys/block")):
        if not name.startswith(("ram", "loop", "zram")):
            fields = Path(f"/sys/block/{name}/stat").read_text(encoding="ascii").split()
            counts.append((name, fields[0], fields[4]))
    return counts


def call(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS, check=False)
    if done.returncode != 0:
        output = (done.stdout + done.stderr).decode(errors="replace").strip()
        sys.exit(f"figures: {' '.join(command)} ended with {done.returncode}: {output}")
    return done.stdout.decode(errors="replace")


class DiskMoved(Exception):
    """The virtual disk was used during a measurement."""


def timed(*command):
    """Start and end of the command on CLOCK_MONOTONIC, microseconds."""
    before = disk_counters()
    start = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    call(*command)
    end = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    if disk_counters() != before:
        raise DiskMoved
    return start // 1000, end // 1000


def phases_of(identifier, start, end, log):
    """Milliseconds that lie before each phase line of one start."""
    at = {"end": end}
    for name, microseconds, pod in PHASE_LINE.findall(log):
        if pod == identifier and name in PHASES:
            at.setdefault(name, int(microseconds))
    found, before = {}, start
    for name, then in sorted(at.items(), key=lambda one: one[1]):
        found[name] = (then - before) / 1000
        before = then
    return found


def start_times(runtimes, rounds):
    """`ctr run --rm IMAGE true`: milliseconds of each round by runtime, and Bulkhead's phases by name."""
    times = {name: [] for name in runtimes}
    phases = {}
    attempts = 0
    # The first of each warms caches and does not count.
    for number in range(-1, rounds + SPARE_ROUNDS):
        for name in runtimes:
            if len(times[name]) >= rounds:
                continue
            identifier = f"start-{name}-{number + 1}"
            offset = CONTAINERD_LOG.stat().st_size
            try:
                start, end = timed("ctr", "run", "--rm", "--runtime", RUNTIMES[name], BUSYBOX, identifier, "true")
            except DiskMoved:
                attempts += 1
                continue
            if number < 0:
                continue
            times[name].append((end - start) / 1000)
            if name == "bulkhead":
                with CONTAINERD_LOG.open(encoding="utf-8", errors="replace") as log:
                    log.seek(offset)
                    for phase, value in phases_of(identifier, start, end, log.read()).items():
                        phases.setdefault(phase, []).append(value)
    for name, values in times.items():
        if len(values) < rounds:
            sys.exit(f"figures: only {len(values)} of {rounds} starts of {name} count: the disk moved in {attempts} rounds")
    return times, phases


def pss(pid):
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE).group(1))


def user_processes():
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def pod_memory(name, pods):
    """KiB of PSS that one idle pod of `pods` adds, by program."""
    before = user_processes()
    names = [f"idle-{name}-{number}" for number in range(pods)]
    for identifier in names:
        call("ctr", "run", "-d", "--null-io", "--runtime", RUNTIMES[name], PAUSE, identifier)
    time.sleep(5)
    programs = {}
    for pid in user_processes() - before:
        try:
            program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
            programs[program] = programs.get(program, 0) + pss(pid)
        except (OSError, AttributeError):
            continue
    for identifier in names:
        call("ctr", "task", "kill", "-s", "KILL", identifier)
    time.sleep(1)
    for identifier in names:
        subprocess.run(["ctr", "task", "rm", "-f", identifier], capture_output=True, timeout=COMMAND_SECONDS, check=False)
        call("ctr", "container", "rm", identifier)
    return {program: total / pods for program, total in sorted(programs.items())}


def probe(rounds):
    """From the vmm's start until the agent accepts a connection: milliseconds, and KVM exits until then."""
    if not PROBE.exists():
        return {}
    answers = []
    for _ in range(rounds + SPARE_ROUNDS):
        before = disk_counters()
        answer = json.loads(call(str(PROBE)))
        if disk_counters() == before:
            answers.append(answer)
        if len(answers) == rounds:
            break
    else:
        sys.exit("figures: the disk moved in too many boots")
    return {
        "booted_ms": statistics.median(answer["booted_us"] for answer in answers) / 1000,
        "agent_ms": statistics.median(answer["connected_us"] for answer in answers) / 1000,
        "exits": statistics.median(
            sum(count for name, count in answer["counters"].items() if name.startswith("exits_")) for answer in answers
        ),
    }


def file_times(name, rounds):
    """Milliseconds of each kind of file work in a container's root file system, in the order of FILE_WORK."""
    identifier = f"files-{name}"
    mount = "type=bind,src=/repo,dst=/repo,options=rbind:ro"
    call("ctr", "run", "-d", "--null-io", "--privileged", "--mount", mount, "--runtime", RUNTIMES[name], DEBIAN, identifier, "sleep", "3600")
    numbers = itertools.count()

    def inside(kind):
        return call("ctr", "task", "exec", "--exec-id", f"x{next(numbers)}", identifier, "python3", FILES, kind)

    inside("prepare")
    rows = [[] for _ in FILE_WORK]
    for _ in range(rounds):
        for (kind, cold, _text), row in zip(FILE_WORK, rows, strict=True):
            if cold:
                inside("forget")
                Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
            row.append(int(inside(kind)) / 1000)
    call("ctr", "task", "kill", "-s", "KILL", identifier)
    time.sleep(1)
    subprocess.run(["ctr", "task", "rm", "-f", identifier], capture_output=True, timeout=COMMAND_SECONDS, check=False)
    call("ctr", "container", "rm", identifier)
    return [statistics.median(row) for row in rows]


class Table:
    """Prints figures as they come, one a line, and keeps them."""

    def __init__(self):
        self.figures = []
        print(f"{'figure':48} {'bulkhead':>12} {'runc':>12} {'ratio':>7}")

    def add(self, name, unit, bulkhead=None, runc=None, **more):
        ratio = bulkhead / runc if bulkhead is not None and runc else None
        self.figures.append({"name": name, "unit": unit, "bulkhead": bulkhead, "runc": runc, "ratio": ratio, **more})

        def show(value, suffix=""):
            return "-" if value is None else f"{value:.1f}{suffix}" if isinstance(value, float) else f"{value}{suffix}"

        ratio = "-" if ratio is None else f"{ratio:.2f}"
        print(f"{name:48} {show(bulkhead, ' ' + unit):>12} {show(runc, ' ' + unit):>12} {ratio:>7}", flush=True)


def start_figures(table, runtimes, arguments):
    times, phases = start_times(runtimes, arguments.rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    table.add("start: ctr run --rm IMAGE true", "ms", medians.get("bulkhead"), medians["runc"], rounds=times)
    for name, text in PHASES.items():
        if name in phases:
            table.add(f"  {text}", "ms", statistics.median(phases[name]))
    probed = probe(arguments.rounds) if "bulkhead" in runtimes else {}
    if probed:
        table.add("vmm start to its vCPUs running", "ms", probed["booted_ms"])
        table.add("vmm start to agent answering", "ms", probed["agent_ms"])
        table.add("exits until the agent answers", "", int(probed["exits"]))


def memory_figures(table, runtimes, arguments):
    memory = {name: pod_memory(name, arguments.pods) for name in runtimes}
    totals = {name: sum(programs.values()) / 1024 for name, programs in memory.items()}
    table.add(f"memory: one idle pod of {arguments.pods} (PSS)", "MiB", totals.get("bulkhead"), totals["runc"])
    for name, programs in memory.items():
        for program, kib in programs.items():
            table.add(f"  {program}", "MiB", **{name: kib / 1024})


def file_figures(table, runtimes, arguments):
    times = {name: file_times(name, min(arguments.rounds, 3)) for name in runtimes}
    for number, (_, _, text) in enumerate(FILE_WORK):
        ours = times["bulkhead"][number] if "bulkhead" in times else None
        table.add(f"files: {text}", "ms", ours, times["runc"][number])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pods", type=int, default=10)
    parser.add_argument("--only", choices=("start", "memory", "files"), help="one group of figures")
    arguments = parser.parse_args()
    runtimes = list(RUNTIMES) if SHIM.exists() else ["runc"]

    table = Table()
    groups = {"start": start_figures, "memory": memory_figures, "files": file_figures}
    for name, group in groups.items():
        if arguments.only in (None, name):
            group(table, runtimes, arguments)
    arguments.output.write_text(json.dumps(table.figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
