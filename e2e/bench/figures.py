#!/usr/bin/env python3
"""The figures of `make bench`. Runs as root where containerd, runc and Bulkhead are: in the test host, or on a machine with KVM.

All runtimes are measured in turns. With --still-disk a time counts only when no disk was used meanwhile: the test host's clock
leaps over waits for its own. Memory is the proportional set size (PSS) of everything that a pod adds to the host.
"""

import argparse
import json
import os
import platform
import re
import subprocess
from pathlib import Path

import container_files
import crowd
import memory
import sizes
import starts
import streams
import teardown
from common import RUNTIMES, FileLog, Journal, Settings

GROUPS = {
    "start": starts.figures,
    "teardown": teardown.figures,
    "streams": streams.figures,
    "crowd": crowd.figures,
    "memory": memory.figures,
    "sizes": sizes.figures,
    "files": container_files.figures,
}


class Table:
    """Prints figures as they come, one a line, and keeps them, and what else the picture is made from, in a file."""

    def __init__(self, output, document):
        self.output = output
        self.figures = []
        self.document = {**document, "figures": self.figures}
        print(f"{'figure':48} {'bulkhead':>12} {'runc':>12} {'ratio':>7}")

    def add(self, name, unit, bulkhead=None, runc=None, **more):
        ratio = bulkhead / runc if bulkhead is not None and runc else None
        self.figures.append({"name": name, "unit": unit, "bulkhead": bulkhead, "runc": runc, "ratio": ratio, **more})

        def show(value):
            return "-" if value is None else f"{value:.1f} {unit}" if isinstance(value, float) else f"{value} {unit}".strip()

        ratio = "-" if ratio is None else f"{ratio:.2f}"
        print(f"{name:48} {show(bulkhead):>12} {show(runc):>12} {ratio:>7}", flush=True)

    def keep(self, name, value):
        self.document[name] = value

    def write(self):
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(self.document, indent=2) + "\n", encoding="utf-8")


def version(*command):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    except OSError:
        return None
    found = re.search(r"v?(\d+\.\d+\.\d+\S*)", done.stdout.decode(errors="replace"))
    return found.group(1) if found else None


def about(arguments):
    """Where the figures were read."""
    processor = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "clock": arguments.clock,
        "processor": processor.group(1) if processor else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "containerd": version("containerd", "--version"),
        "runc": version("runc", "--version"),
    }


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="file for the figures, JSON")
    parser.add_argument("--only", choices=tuple(GROUPS), action="append", help="one group of figures; may be repeated")
    parser.add_argument("--rounds", type=int, default=7, help="times that each is measured, at least 1; some are bounded at 3")
    parser.add_argument("--pods", type=int, default=10, help="idle pods among which the memory of one is taken, at least 1")
    parser.add_argument("--crowd", type=int, default=20, help="containers that start at once")
    parser.add_argument("--stream-mib", type=int, default=256, help="size of what goes through a standard stream, MiB")
    parser.add_argument("--prefix", type=Path, default=Path("/usr/local"), help="where Bulkhead is installed")
    parser.add_argument("--busybox", default="docker.io/bulkhead/busybox:latest", help="image with sh, dd, cat, sleep, stat and mount")
    parser.add_argument("--pause", default="docker.io/bulkhead/pause:latest", help="image whose program waits and does nothing")
    parser.add_argument("--python", default="docker.io/bulkhead/debian:latest", help="image with python3 and sleep")
    parser.add_argument(
        "--containerd-log",
        type=Path,
        help="containerd's log; by default the journal of the unit containerd. The phases of a start are in it when the shim logs at "
        'debug level (log_level = "debug" in /etc/bulkhead/bulkhead.toml)',
    )
    parser.add_argument("--still-disk", action="store_true", help="times count only when no disk was used meanwhile")
    parser.add_argument("--clock", default="the machine's own", help="what the times go by, for the picture")
    return parser.parse_args()


def main():
    arguments = options()
    shim = arguments.prefix / "bin/containerd-shim-bulkhead-v2"
    settings = Settings(
        runtimes=tuple(RUNTIMES) if shim.exists() else ("runc",),
        rounds=arguments.rounds,
        pods=arguments.pods,
        crowd=arguments.crowd,
        stream_mib=arguments.stream_mib,
        busybox=arguments.busybox,
        pause=arguments.pause,
        python=arguments.python,
        probe=arguments.prefix / "libexec/bulkhead/bulkhead-vmm-probe",
        still_disk=arguments.still_disk,
        log=FileLog(arguments.containerd_log) if arguments.containerd_log else Journal(),
    )
    table = Table(arguments.output, {"host": about(arguments)})
    for name, group in GROUPS.items():
        if not arguments.only or name in arguments.only:
            group(table, settings)
            # After each: what comes later may fail.
            table.write()


if __name__ == "__main__":
    main()
