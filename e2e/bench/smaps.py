"""What a process's memory is, from the kernel's account of its mappings (/proc/PID/smaps)."""

import re
from dataclasses import dataclass, field
from pathlib import Path

HEADER = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+) *(.*)$")
COUNT = re.compile(r"^(\w+): +(\d+) kB$")
# glibc starts each further arena of the heap on such an address.
ARENA = 64 << 20


@dataclass
class Mapping:
    """One mapping: addresses, permissions, the file or name behind it, and its counts in KiB."""

    start: int
    end: int
    permissions: str
    inode: int
    name: str
    counts: dict = field(default_factory=dict)

    @property
    def size(self):
        return self.end - self.start

    @property
    def pss(self):
        return self.counts.get("Pss", 0)

    @property
    def anonymous(self):
        """KiB that belong to the process alone, also where a file was mapped and written to."""
        return min(self.counts.get("Anonymous", 0), self.pss)


def read(pid):
    return parse(Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace"))


def parse(text):
    mappings = []
    for line in text.splitlines():
        if header := HEADER.match(line):
            start, end, permissions, inode, name = header.groups()
            mappings.append(Mapping(int(start, 16), int(end, 16), permissions, int(inode), name.removesuffix(" (deleted)")))
        elif (count := COUNT.match(line)) and mappings:
            mappings[-1].counts[count.group(1)] = int(count.group(2))
    return mappings


def kind(mapping, before):
    """What a mapping holds, by its name and by the mapping before it."""
    name = mapping.name
    if name.startswith("[stack"):
        return "stacks"
    if name == "[heap]":
        return "heap"
    if not name or name.startswith("[anon"):
        guarded = before and before.end == mapping.start and before.permissions == "---p" and not before.name
        return "stacks" if guarded and mapping.start % ARENA else "heap"
    if name.startswith("anon_inode:kvm-vcpu"):
        return "vCPUs' pages shared with KVM"
    if name.startswith(("anon_inode:", "/memfd:", "/dev/", "/anon_hugepage")):
        return "other"
    if name.startswith("["):
        return "program"
    if name.endswith("agent.erofs"):
        return "agent's image"
    if name.endswith("vmlinux"):
        return "guest kernel's file"
    return "program"


def parts(mappings, left_out=()):
    """(KiB of PSS by kind) of all mappings but those left out. A file's pages that were written to are `data`."""
    found = {}

    def add(name, kib):
        if kib:
            found[name] = found.get(name, 0) + kib

    before = None
    for mapping in mappings:
        if mapping not in left_out:
            what = kind(mapping, before)
            private = mapping.anonymous if what == "program" else 0
            add("data", private)
            add(what, mapping.pss - private)
        before = mapping
    return found
