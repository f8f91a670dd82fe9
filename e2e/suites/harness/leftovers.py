"""What containers leave on the host: everything is listed before and after a case, and nothing may be added."""

import os
import time
from pathlib import Path

# Programs of the runtimes, found by name even where they live in the host's own namespaces.
RUNTIME_PROGRAMS = ("containerd-shim", "bulkhead", "runc", "crun")
# Not /run/docker/netns, which Docker itself clears once a minute.
FOLDERS = (
    "/run/containerd/s",
    "/run/containerd/fifo",
    "/run/containerd/runc",
    "/run/containerd/io.containerd.runtime.v2.task",
    "/var/lib/containerd/io.containerd.runtime.v2.task",
    "/run/containerd/io.containerd.grpc.v1.cri",
    "/run/containerd/io.containerd.sandbox.controller.v1.shim",
    "/run/bulkhead",
    "/run/netns",
    "/run/docker/containerd",
)

# What the first container of each client makes and leaves for the next, by design of containerd, Docker and CNI.
ONCE = {"cgroup /sys/fs/cgroup/docker", "cgroup /sys/fs/cgroup/k8s.io", "network interface cni0"} | {
    f"entry {folder}/{name}" for folder in FOLDERS for name in ("k8s.io", "moby", "containers", "sandboxes")
}


def _processes():
    """All but the kernel's threads, which are most of them: nothing else of those is read, as this is done again and again."""
    host = os.readlink("/proc/self/ns/mnt")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = _read(f"/proc/{pid}/stat")
            name, rest = stat[stat.index("(") + 1 :].rsplit(")", 1)
            state, parent = rest.split(None, 2)[:2]
            if "2" in (pid, parent):
                continue
            if os.readlink(f"/proc/{pid}/ns/mnt") == host and not name.startswith(RUNTIME_PROGRAMS):
                continue
            arguments = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
        except OSError:
            continue
        yield f"process {pid} {name} ({state}): {arguments[:200]}"


def _read(path):
    with open(path, "rb", buffering=0) as file:
        return file.read().decode(errors="replace")


def _mounts():
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        yield f"mount {fields[4]} ({fields[fields.index('-') + 1]}), mount id {fields[0]}"


def _entries():
    for folder in FOLDERS:
        for path, folders, files in os.walk(folder):
            # What all pods have in common, which the first one that stays leaves for the others.
            if ".kernel-text" in folders:
                folders.remove(".kernel-text")
            for name in folders + files:
                yield f"entry {path}/{name}"


def _cgroups():
    for path, folders, _ in os.walk("/sys/fs/cgroup"):
        for name in folders:
            yield f"cgroup {path}/{name}"


def _links():
    for name in os.listdir("/sys/class/net"):
        yield f"network interface {name}"


def _loops():
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        yield f"loop device {path.parts[3]}"


def snapshot():
    """The set of everything that a container could leave, one line each."""
    found = set()
    for source in (_processes, _mounts, _entries, _cgroups, _links, _loops):
        found.update(source())
    return found - ONCE


def wait_for_nothing_new(before, seconds=10.0, naming=""):
    """Returns what is there beyond `before` once that no longer shrinks to nothing within the given time.

    naming: only lines that hold this text count.
    """
    end = time.monotonic() + seconds
    while True:
        new = {line for line in snapshot() - before if naming in line}
        if not new or time.monotonic() > end:
            return sorted(new)
        time.sleep(0.2)
