"""What all measurements of `make bench` share: how it was called, commands, the disk, processes and cgroups of the host."""

import contextlib
import os
import re
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

RUNTIMES = {"bulkhead": "io.containerd.bulkhead.v2", "runc": "io.containerd.runc.v2"}
COMMAND_SECONDS = 120
# More tries of a round whose figure does not count because the disk moved.
SPARE_ROUNDS = 3
CGROUPS = Path("/sys/fs/cgroup")
# Between two looks at what cannot be waited for.
LOOK_SECONDS = 0.001


@dataclass(frozen=True)
class Settings:
    """How the benchmark was called."""

    runtimes: tuple
    rounds: int
    pods: int
    crowd: int
    stream_mib: int
    # Images: one with the usual small tools, one that only waits, one with Python.
    busybox: str
    pause: str
    python: str
    probe: Path
    # Whether a figure counts only when no disk moved meanwhile.
    still_disk: bool
    log: object


class DiskMoved(Exception):
    """A disk was used during a measurement that asks for none."""


def call(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS, check=False)
    if done.returncode != 0:
        output = (done.stdout + done.stderr).decode(errors="replace").strip()
        sys.exit(f"figures: {' '.join(command)} ended with {done.returncode}: {output}")
    return done.stdout.decode(errors="replace")


def now_us():
    """CLOCK_MONOTONIC, by which the shim's phase lines and the kernel's trace go too."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def disk_counters():
    """I/O counts of every real disk; RAM disks and loops are memory here."""
    counts = []
    for name in sorted(os.listdir("/sys/block")):
        if not name.startswith(("ram", "loop", "zram")):
            fields = Path(f"/sys/block/{name}/stat").read_text(encoding="ascii").split()
            counts.append((name, fields[0], fields[4]))
    return counts


@contextlib.contextmanager
def still_disk(settings):
    """Raises DiskMoved when a disk was used within, where that is asked for."""
    before = disk_counters()
    yield
    if settings.still_disk and disk_counters() != before:
        raise DiskMoved


def counted_rounds(settings, rounds, what, measure):
    """`measure(runtime, number)` for each runtime in turns: by runtime, what it returned in `rounds` rounds.

    Number 0 warms caches and does not count, nor does a round in which the disk moved.
    """
    found = {name: [] for name in settings.runtimes}
    moved = 0
    for number in range(rounds + SPARE_ROUNDS + 1):
        for name in settings.runtimes:
            if len(found[name]) >= rounds:
                continue
            try:
                with still_disk(settings):
                    one = measure(name, number)
            except DiskMoved:
                moved += 1
                continue
            if number > 0:
                found[name].append(one)
    for name, values in found.items():
        if len(values) < rounds:
            sys.exit(f"figures: only {len(values)} of {rounds} rounds of {what} count for {name}: the disk moved in {moved}")
    return found


def user_processes():
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def program_of(pid):
    """Name of the program's file; None when the process is gone."""
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return None


def cgroups_of(identifier):
    return {Path(path, name) for path, names, _ in os.walk(CGROUPS) for name in names if identifier in name}


def wait_until_gone(processes, cgroups):
    """Microseconds at which each was gone: ({pid: when}, {cgroup: when})."""
    ended, removed = {}, {}
    poll = select.poll()
    by_descriptor = {}
    for pid in processes:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            ended[pid] = now_us()
            continue
        by_descriptor[descriptor] = pid
        poll.register(descriptor, select.POLLIN)
    patience = time.monotonic() + COMMAND_SECONDS
    while by_descriptor or len(removed) < len(cgroups):
        for descriptor, _ in poll.poll(LOOK_SECONDS * 1000):
            ended[by_descriptor.pop(descriptor)] = now_us()
            poll.unregister(descriptor)
            os.close(descriptor)
        for path in cgroups:
            if path not in removed and not path.exists():
                removed[path] = now_us()
        if time.monotonic() > patience:
            left = [f"{program_of(pid)} ({pid})" for pid in by_descriptor.values()]
            left += [str(path) for path in cgroups if path not in removed]
            sys.exit(f"figures: still there after {COMMAND_SECONDS} s: {', '.join(left)}")
    return ended, removed


def remove_containers(names):
    """Ends containers that run detached."""
    for identifier in names:
        call("ctr", "task", "kill", "-s", "KILL", identifier)
    time.sleep(1)
    for identifier in names:
        subprocess.run(["ctr", "task", "rm", "-f", identifier], capture_output=True, timeout=COMMAND_SECONDS, check=False)
        call("ctr", "container", "rm", identifier)


def available_kib():
    """What of the host's memory can still be had."""
    return meminfo(Path("/proc/meminfo").read_text(encoding="ascii"))["MemAvailable"]


def meminfo(text):
    return {name: int(value) for name, value in re.findall(r"^(\S+): +(\d+)", text, re.MULTILINE)}


class FileLog:
    """containerd's log in a file."""

    def __init__(self, path):
        self.path = path

    def mark(self):
        """Where the log ends now, for `since`."""
        return self.path.stat().st_size

    def since(self, mark):
        with self.path.open(encoding="utf-8", errors="replace") as log:
            log.seek(mark)
            return log.read()


class Journal:
    """containerd's log in systemd's journal."""

    UNIT = "containerd"

    def mark(self):
        return time.time()

    def since(self, mark):
        command = ["journalctl", "--unit", self.UNIT, "--output", "cat", "--no-pager", "--since", f"@{mark:.6f}"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS, check=False)
        except FileNotFoundError:
            return ""
        return done.stdout.decode(errors="replace")
