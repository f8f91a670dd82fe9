"""How long work on files takes in a container's root file system. What runs inside is files.py."""

import itertools
import statistics
from pathlib import Path

from common import RUNTIMES, call, remove_containers

HERE = Path(__file__).resolve().parent
INSIDE = "/benchmark"
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


def file_times(settings, name, rounds):
    """Milliseconds of each kind of file work in a container's root file system, in the order of FILE_WORK."""
    identifier = f"files-{name}"
    mount = f"type=bind,src={HERE},dst={INSIDE},options=rbind:ro"
    command = ["ctr", "run", "-d", "--null-io", "--privileged", "--mount", mount, "--runtime", RUNTIMES[name], settings.python, identifier]
    call(*command, "sleep", "3600")
    numbers = itertools.count()

    def inside(kind):
        return call("ctr", "task", "exec", "--exec-id", f"x{next(numbers)}", identifier, "python3", f"{INSIDE}/files.py", kind)

    inside("prepare")
    rows = [[] for _ in FILE_WORK]
    for _ in range(rounds):
        for (kind, cold, _text), row in zip(FILE_WORK, rows, strict=True):
            if cold:
                inside("forget")
                Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
            row.append(int(inside(kind)) / 1000)
    remove_containers([identifier])
    return [statistics.median(row) for row in rows]


def figures(table, settings):
    times = {name: file_times(settings, name, min(settings.rounds, 3)) for name in settings.runtimes}
    for number, (_, _, text) in enumerate(FILE_WORK):
        table.add(f"files: {text}", "ms", **{name: values[number] for name, values in times.items()})
