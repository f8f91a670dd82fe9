"""What an idle pod takes of the host's memory, by program and by what it is for."""

import re
import subprocess
import time
from array import array
from pathlib import Path

import guest_pages
import smaps
from common import COMMAND_SECONDS, RUNTIMES, available_kib, call, program_of, remove_containers, user_processes

# After 90 seconds a pod gives back no single pages any more: what it takes then it keeps.
SETTLE_SECONDS = 120
SHORT = {"bulkhead-vmm": "monitor", "containerd-shim-bulkhead-v2": "shim", "containerd-shim-runc-v2": "shim"}


def pss(pid):
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE).group(1))


def pod_memory(settings, name):
    """Of one idle pod among several: KiB of PSS by program, KiB of the host's memory in all, and its parts."""
    before, available = user_processes(), available_kib()
    names = [f"idle-{name}-{number}" for number in range(settings.pods)]
    for identifier in names:
        call("ctr", "run", "-d", "--null-io", "--runtime", RUNTIMES[name], settings.pause, identifier)
    time.sleep(SETTLE_SECONDS)
    programs = {}
    for pid in user_processes() - before:
        try:
            program = program_of(pid)
            programs[program] = programs.get(program, 0) + pss(pid)
        except (OSError, AttributeError):
            continue
    taken = available - available_kib()
    # One makes room for a pod that can be looked into.
    remove_containers(names[:1])
    parts = looked_into(settings, name, f"idle-{name}-looked-into")
    remove_containers(names[1:])
    return {program: total / settings.pods for program, total in sorted(programs.items())}, taken / settings.pods, parts


def looked_into(settings, name, identifier):
    """Parts of a pod that has a shell, beside the other ones: (owner, what, KiB of PSS)."""
    before = user_processes()
    command = ["ctr", "run", "-d", "--null-io", "--privileged", "--runtime", RUNTIMES[name], settings.busybox, identifier]
    call(*command, "sleep", "1000000")
    time.sleep(SETTLE_SECONDS)
    found = []
    tables = 0
    monitor = None
    for pid in sorted(user_processes() - before):
        try:
            program, mappings = program_of(pid), smaps.read(pid)
            tables += table_kib(pid)
        except OSError:
            continue
        if not program or not mappings:
            continue
        if program == "bulkhead-vmm":
            monitor = mappings, guest_pages.Snapshot(pid, mappings)
        else:
            owner = SHORT.get(program, "container")
            found += [(owner, what, kib) for what, kib in smaps.parts(mappings).items()]
    if monitor:
        found += machine_parts(identifier, *monitor)
    remove_containers([identifier])
    return merged(found), tables


def machine_parts(identifier, mappings, snapshot):
    """Parts of a monitor and of the guest's memory in it."""
    facts = guest_pages.sections(inside(identifier, "sh", "-c", guest_pages.FACTS).decode(errors="replace"))
    size = guest_pages.ram_size(facts.get("iomem", ""))
    ram, pages = snapshot.find(size)
    if not ram:
        # Without the guest's word all of it is one thing.
        told = [one for run in snapshot.runs for one in run]
        found = [("guest", "memory, not told apart", one.pss) for one in told]
        return found + [("monitor", what, kib) for what, kib in smaps.parts(mappings, told).items()]
    flags, cgroups = (
        words(inside(identifier, "dd", f"if=/proc/{file}", "bs=65536", f"count={-(-size // guest_pages.PAGE * 8 // 65536)}"))
        for file in ("kpageflags", "kpagecgroup")
    )
    pages = guest_pages.weighed(ram, pages)
    found = [(*name.split(": ", 1), kib) for name, kib in guest_pages.attribute(pages, flags, cgroups, facts).items()]
    found += [("monitor", what, kib) for what, kib in smaps.parts(mappings, ram).items()]
    return [("guest", "agent's image (shared)", kib) if what == "agent's image" else (owner, what, kib) for owner, what, kib in found]


def inside(identifier, *command):
    """What a command says in the container."""
    exec_id = f"x{time.monotonic_ns()}"
    done = subprocess.run(
        ["ctr", "task", "exec", "--exec-id", exec_id, identifier, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    return done.stdout


def words(data):
    found = array("Q")
    found.frombytes(data[: len(data) // 8 * 8])
    return found


def table_kib(pid):
    """KiB of page tables of a process, which PSS does not count."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"^VmPTE:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) if found else 0


def merged(parts):
    """The same with one entry for each owner and part."""
    sums = {}
    for owner, what, kib in parts:
        sums[owner, what] = sums.get((owner, what), 0) + kib
    return [{"owner": owner, "what": what, "kib": kib} for (owner, what), kib in sums.items()]


def figures(table, settings):
    memory = {name: pod_memory(settings, name) for name in settings.runtimes}
    totals = {name: sum(programs.values()) / 1024 for name, (programs, _, _) in memory.items()}
    table.add(f"memory: one idle pod of {settings.pods} (PSS)", "MiB", **totals)
    for name, (programs, _, _) in memory.items():
        for program, kib in programs.items():
            table.add(f"  {program}", "MiB", **{name: kib / 1024})
    table.add("  what each takes of the host in all", "MiB", **{name: taken / 1024 for name, (_, taken, _) in memory.items()})
    kept = {"pods": settings.pods}
    for name, (_, _, (parts, tables)) in memory.items():
        table.add(f"memory: the parts of one idle pod of {name}", "MiB", **{name: sum(part["kib"] for part in parts) / 1024})
        for part in parts:
            table.add(f"  {part['owner']}: {part['what']}", "MiB", **{name: part["kib"] / 1024})
        table.add("  besides, not in PSS: page tables of its processes", "MiB", **{name: tables / 1024})
        kept[name] = parts
    table.keep("memory", kept)
