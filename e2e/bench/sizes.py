"""What a pod's size costs: vCPUs, had or only possible, in time and memory; and the host's memory before, while and after a program uses much."""

import contextlib
import json
import re
import statistics
import subprocess
import time
from pathlib import Path

from common import COMMAND_SECONDS, RUNTIMES, SPARE_ROUNDS, DiskMoved, call, now_us, program_of, remove_containers, still_disk, user_processes
from memory import SETTLE_SECONDS, pss

# More at a time than the host has CPUs take turns, and tell of nothing else.
VCPUS = (1, 2)
POSSIBLE = (1, 2, 8, 32, 128)
ROUNDS = 3
HOLD_SECONDS = 2
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
USED_MIB = 600
USE = f"dd if=/dev/zero bs={USED_MIB}M count=1 2>/dev/null | {{ sleep 3; cat >/dev/null; }}"


def run(settings, identifier, *options):
    """The command that makes a container with these options of `ctr run`; the program follows."""
    return ["ctr", "run", "--runtime", RUNTIMES["bulkhead"], *options, settings.busybox, identifier]


def median_of(settings, measure):
    """Median of ROUNDS measurements, in which no disk moved, after one that warms caches; None when there were too few."""
    measure(0)
    found = []
    for number in range(1, ROUNDS + SPARE_ROUNDS + 1):
        with contextlib.suppress(DiskMoved), still_disk(settings):
            found.append(measure(number))
        if len(found) == ROUNDS:
            return statistics.median(found)
    return None


def pod_pss(before):
    """KiB of the processes that there are since `before`; one may just be gone."""
    total = 0
    for pid in user_processes() - before:
        if program_of(pid) in ("bulkhead-vmm", "containerd-shim-bulkhead-v2"):
            with contextlib.suppress(OSError):
                total += pss(pid)
    return total


def start_ms(settings, vcpus):
    def one(number):
        begin = now_us()
        call(*run(settings, f"vcpus-{vcpus}-{number}", "--rm", "--annotation", f"io.bulkhead.vcpus={vcpus}"), "true")
        return (now_us() - begin) / 1000

    return median_of(settings, one)


def idle_mib(settings, vcpus):
    before, identifier = user_processes(), f"vcpus-{vcpus}-idle"
    call(*run(settings, identifier, "-d", "--null-io", "--annotation", f"io.bulkhead.vcpus={vcpus}"), "sleep", "1000000")
    time.sleep(SETTLE_SECONDS)
    taken = pod_pss(before) / 1024
    remove_containers([identifier])
    return taken


def probed(settings, possible):
    """Of a machine with one vCPU and so many possible ones: milliseconds until its agent answers, and MiB that it takes then."""
    command = [str(settings.probe), "--max-vcpus", str(possible)]
    milliseconds = median_of(settings, lambda _: json.loads(call(*command))["connected_us"] / 1000)
    before = user_processes()
    process = subprocess.Popen([*command, "--hold", str(HOLD_SECONDS)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    taken = 0
    patience = time.monotonic() + COMMAND_SECONDS
    while process.poll() is None and time.monotonic() < patience:
        taken = max(taken, pod_pss(before))
        time.sleep(0.05)
    process.kill()
    process.wait(COMMAND_SECONDS)
    return milliseconds, taken / 1024


@contextlib.contextmanager
def huge_pages(mode):
    """The host uses huge pages `always`, or where it is asked to (`madvise`)."""
    was = re.search(r"\[(\w+)\]", HUGE_PAGES.read_text(encoding="ascii")).group(1)
    HUGE_PAGES.write_text(mode, encoding="ascii")
    try:
        yield
    finally:
        HUGE_PAGES.write_text(was, encoding="ascii")


def before_peak_after(settings, mode):
    """MiB that a pod takes of the host before, while, and after a program has used USED_MIB."""
    existing, identifier = user_processes(), f"use-{mode}"
    call(*run(settings, identifier, "-d", "--null-io"), "sleep", "1000000")
    time.sleep(SETTLE_SECONDS)
    before = peak = pod_pss(existing)
    user = subprocess.Popen(
        ["ctr", "task", "exec", "--exec-id", "use", identifier, "sh", "-c", USE], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    patience = time.monotonic() + COMMAND_SECONDS
    while user.poll() is None and time.monotonic() < patience:
        peak = max(peak, pod_pss(existing))
        time.sleep(0.1)
    user.wait(COMMAND_SECONDS)
    time.sleep(SETTLE_SECONDS)
    after = pod_pss(existing)
    remove_containers([identifier])
    return [kib / 1024 for kib in (before, peak, after)]


def figures(table, settings):
    if "bulkhead" not in settings.runtimes:
        return
    for vcpus in VCPUS:
        table.add(f"start with {vcpus} vCPUs", "ms", bulkhead=start_ms(settings, vcpus))
        table.add("  such a pod alone, idle (PSS)", "MiB", bulkhead=idle_mib(settings, vcpus))
    for possible in POSSIBLE if settings.probe.exists() else ():
        milliseconds, taken = probed(settings, possible)
        table.add(f"vmm start to agent answering, 1 vCPU of {possible} possible", "ms", bulkhead=milliseconds)
        table.add("  such a machine alone (PSS)", "MiB", bulkhead=taken)
    for mode in ("madvise", "always") if HUGE_PAGES.exists() else ():
        with huge_pages(mode):
            sizes = before_peak_after(settings, mode)
        for when, taken in zip(("before", f"while {USED_MIB} MiB are used", "afterwards"), sizes, strict=True):
            table.add(f"memory {when}, huge pages: {mode}", "MiB", bulkhead=taken)
