"""How long it takes from `ctr task kill -s KILL` until nothing of a running container is left."""

import statistics
import subprocess
import sys

from common import COMMAND_SECONDS, RUNTIMES, cgroups_of, counted_rounds, now_us, program_of, user_processes, wait_until_gone

# What is waited for, and what the figure is called.
PARTS = {
    "kill": "ctr task kill has returned",
    "monitor": "the monitor is gone",
    "deleted": "task and container are deleted",
    "shim": "the shim is gone",
    "cgroup": "the cgroups are gone",
}


def teardown(settings, name, number):
    """Milliseconds from the start of `ctr task kill` until each of PARTS, and `total` until the last of all."""
    identifier = f"teardown-{name}-{number}"
    before = user_processes()
    # This ctr deletes task and container as soon as the task has ended.
    client = subprocess.Popen(
        ["ctr", "run", "--rm", "--runtime", RUNTIMES[name], settings.busybox, identifier, "sh", "-c", "echo up; exec sleep 3600"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    client.stdout.readline()
    processes = {pid: program_of(pid) or "" for pid in user_processes() - before}
    cgroups = cgroups_of(identifier)
    start = now_us()
    killer = subprocess.Popen(["ctr", "task", "kill", "-s", "KILL", identifier], stdin=subprocess.DEVNULL)
    ended, removed = wait_until_gone({killer.pid, *processes}, cgroups)
    client.wait(COMMAND_SECONDS)
    client.stdout.close()
    if killer.wait(COMMAND_SECONDS) != 0:
        sys.exit(f"figures: {' '.join(killer.args)} ended with {killer.returncode}")
    at = {"kill": ended.pop(killer.pid), "deleted": ended.pop(client.pid)}
    for part, beginning in (("monitor", "bulkhead-vmm"), ("shim", "containerd-shim")):
        found = [when for pid, when in ended.items() if processes[pid].startswith(beginning)]
        if found:
            at[part] = max(found)
    if removed:
        at["cgroup"] = max(removed.values())
    total = max(*at.values(), *ended.values())
    return {part: (when - start) / 1000 for part, when in {**at, "total": total}.items()}


def figures(table, settings):
    rounds = counted_rounds(settings, settings.rounds, "teardowns", lambda name, number: teardown(settings, name, number))

    def medians(part):
        return {
            name: statistics.median(one[part] for one in values) for name, values in rounds.items() if all(part in one for one in values)
        }

    table.add("teardown: ctr task kill until nothing is left", "ms", **medians("total"))
    for part, text in PARTS.items():
        if found := medians(part):
            table.add(f"  until {text}", "ms", **found)
