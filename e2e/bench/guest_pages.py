"""What the pages are that a microVM has taken of its host.

The host knows which pages of the guest's memory it has given (/proc/PID/pagemap of the monitor); the guest knows what it uses each
page for (/proc/kpageflags and /proc/kpagecgroup, read from a privileged container). Put together they attribute each page. The
host's part is read first, so that asking the guest does not change it.
"""

import re
from array import array
from collections import Counter
from pathlib import Path

from common import meminfo

PAGE = 4096
PAGE_KIB = PAGE // 1024
PRESENT = 1 << 63
FRAME = (1 << 55) - 1
# Ranges below this size are no guest's memory, bytes.
LARGE = 32 << 20

# Bits of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h).
LRU, SLAB, BUDDY, ANON, SWAPBACKED, NOPAGE, PGTABLE, RESERVED = 5, 7, 10, 12, 14, 20, 26, 32

# Names of what is found, in the order in which they are shown.
TEXT = "guest: kernel text"
READ_ONLY = "guest: kernel's read-only data"
DATA = "guest: kernel's data"
MEMMAP = "guest: a structure for each page (memmap)"
EARLY = "guest: reserved at boot (hash tables, per-CPU data and others)"
SLABS = "guest: slab"
TABLES = "guest: page tables"
STACKS = "guest: kernel stacks"
VMALLOC = "guest: other vmalloc and per-CPU data"
AGENT = "guest: agent's memory"
CONTAINER = "guest: container's memory"
CACHE = "guest: page cache and tmpfs"
FREE = "guest: free again, not given back"
OTHER = "guest: other (device rings, buffers and others)"
NAMES = (TEXT, READ_ONLY, DATA, MEMMAP, EARLY, SLABS, TABLES, STACKS, VMALLOC, AGENT, CONTAINER, CACHE, FREE, OTHER)

# What the guest is asked, by a shell in a privileged container; each answer follows a line with its name.
FACTS = r"""
for name in iomem meminfo vmstat zoneinfo; do echo "== $name"; cat /proc/$name; done
echo "== vmalloc"; cat /proc/vmallocinfo 2>/dev/null
echo "== cgroup"; mkdir -p /tmp/cgroup && mount -t cgroup2 cgroup2 /tmp/cgroup &&
    stat -c %i "/tmp/cgroup$(sed -n s/^0:://p /proc/self/cgroup)"
echo "== end"
"""
IMAGE_RANGES = {"Kernel code": TEXT, "Kernel rodata": READ_ONLY, "Kernel data": DATA, "Kernel bss": DATA}


class Snapshot:
    """Which pages of its large ranges of memory a monitor has; taken before the guest is asked anything.

    The guest's RAM is such a range, between pages that nobody can touch; the kernel divides it into mappings where the host was asked
    to treat parts of it differently.
    """

    def __init__(self, pid, mappings):
        self.runs = [run for run in runs(mappings) if size(run) >= LARGE]
        self.pages = []
        with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
            for run in self.runs:
                pagemap.seek(run[0].start // PAGE * 8)
                entries = array("Q")
                entries.frombytes(pagemap.read(size(run) // PAGE * 8))
                self.pages.append(present(entries))

    def find(self, wanted):
        """The mappings of the range of exactly `wanted` bytes, and its pages; ([], []) when not exactly one is that large."""
        fitting = [(run, pages) for run, pages in zip(self.runs, self.pages, strict=True) if size(run) == wanted]
        return fitting[0] if len(fitting) == 1 else ([], [])


def runs(mappings):
    """Mappings that can be written to, those together of which one begins where the other ends."""
    found = []
    for one in mappings:
        if not one.permissions.startswith("rw"):
            continue
        if found and found[-1][-1].end == one.start:
            found[-1].append(one)
        else:
            found.append([one])
    return found


def size(run):
    return run[-1].end - run[0].start


def present(entries):
    """Numbers of the pages that are there. A frame that stands in several places is the page of zeros, which costs nothing."""
    frames = Counter(entry & FRAME for entry in entries if entry & PRESENT)
    return [number for number, entry in enumerate(entries) if entry & PRESENT and (frames[entry & FRAME] == 1 or not entry & FRAME)]


def sections(text):
    """The answers to FACTS by name."""
    found, lines = {}, []
    for line in text.splitlines():
        if line.startswith("== "):
            lines = found.setdefault(line[3:], [])
        else:
            lines.append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def ram_size(iomem):
    """Bytes up to the end of RAM below the hole for devices, which is one mapping of the monitor."""
    ends = [int(end, 16) + 1 for end in re.findall(r"^[0-9a-f]+-([0-9a-f]+) : System RAM$", iomem, re.MULTILINE)]
    return max((end for end in ends if end <= 3 << 30), default=0)


def image_ranges(iomem):
    """(first page, page after the last, name) of each part of the kernel's image."""
    found = []
    for start, end, name in re.findall(r"^ *([0-9a-f]+)-([0-9a-f]+) : (.*)$", iomem, re.MULTILINE):
        if name in IMAGE_RANGES:
            found.append((int(start, 16) // PAGE, int(end, 16) // PAGE + 1, IMAGE_RANGES[name]))
    return found


def name_of(flags, from_image, in_container):
    """What a page is by its flags; None for the kernel's own pages that have none."""

    def has(bit):
        return flags >> bit & 1

    if has(BUDDY):
        return FREE
    if from_image:
        return from_image
    if has(SLAB):
        return SLABS
    if has(PGTABLE):
        return TABLES
    if has(ANON):
        return CONTAINER if in_container else AGENT
    if has(LRU) or has(SWAPBACKED):
        return CACHE
    if has(RESERVED):
        return EARLY
    return OTHER if has(NOPAGE) else None


def weighed(mappings, pages):
    """The pages of a range, each with its weight: 1, or less where pods share what its mapping holds."""
    start = mappings[0].start
    found = []
    for one in mappings:
        first, after = ((address - start) // PAGE for address in (one.start, one.end))
        inside = [page for page in pages if first <= page < after]
        found += [(page, one.pss / (len(inside) * PAGE_KIB)) for page in inside]
    return found


def attribute(pages, flags, cgroups, facts):
    """KiB by name of the pages that the host has given; `pages` are those of `weighed`."""
    ranges = image_ranges(facts["iomem"])
    own = int(facts["cgroup"].split()[-1]) if facts.get("cgroup", "").split() else None
    counts = Counter()
    for page, weight in pages:
        if page < len(flags):
            part = next((name for first, after, name in ranges if first <= page < after), None)
            counts[name_of(flags[page], part, own is not None and page < len(cgroups) and cgroups[page] == own)] += weight
        else:
            counts[OTHER] += weight
    kib = Counter({name: count * PAGE_KIB for name, count in counts.items()})
    memory, vmstat = meminfo(facts["meminfo"]), counters(facts["vmstat"])

    def move(name, source, wanted):
        """What the guest counts but does not mark on the page itself; never more than there is."""
        moved = min(wanted, kib[source])
        kib[source] -= moved
        kib[name] += moved

    move(MEMMAP, EARLY, vmstat.get("nr_memmap_boot_pages", vmstat.get("nr_memmap_boot", 0)) * PAGE_KIB)
    move(MEMMAP, None, vmstat.get("nr_memmap_pages", vmstat.get("nr_memmap", 0)) * PAGE_KIB)
    move(FREE, None, listed_pages(facts.get("zoneinfo", "")) * PAGE_KIB)
    move(STACKS, None, memory.get("KernelStack", 0))
    move(VMALLOC, None, max(0, vmalloc_kib(facts.get("vmalloc", "")) - memory.get("KernelStack", 0)))
    kib[OTHER] += kib.pop(None, 0)
    return {name: kib[name] for name in NAMES if kib[name]}


def counters(text):
    return {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}


def listed_pages(text):
    """Free pages on the lists of the CPUs, which carry no mark."""
    return sum(int(count) for count in re.findall(r"^ +count: +(\d+)$", text, re.MULTILINE))


def vmalloc_kib(text):
    """KiB of pages behind all areas of /proc/vmallocinfo, the stacks among them."""
    return sum(int(pages) for pages in re.findall(r"\bpages=(\d+) vmalloc", text)) * PAGE_KIB
