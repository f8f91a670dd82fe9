#!/usr/bin/env python3
"""What the benchmark reads and draws, without a host: python3 -m unittest discover -s e2e/bench."""

import re
import unittest
import xml.etree.ElementTree as ElementTree
from array import array

import guest_pages
import memory
import picture
import smaps
import starts

SMAPS = """\
00400000-00500000 r-xp 00000000 00:10 77 /usr/bin/containerd-shim-x
Size:               1024 kB
Pss:                 200 kB
Anonymous:             0 kB
00500000-00510000 rw-p 00100000 00:10 77 /usr/bin/containerd-shim-x
Size:                 64 kB
Pss:                  40 kB
Anonymous:            24 kB
01000000-01100000 rw-p 00000000 00:00 0 [heap]
Pss:                 500 kB
Anonymous:           500 kB
7f0000000000-7f0002000000 rw-p 00000000 00:00 0
Pss:                 1000 kB
7f0002000000-7f0002001000 ---p 00000000 00:00 0
Pss:                   0 kB
7f0002001000-7f0002201000 rw-p 00000000 00:00 0
Pss:                  12 kB
7f0003000000-7f0003200000 r--s 00000000 00:10 99 /share/agent.erofs (deleted)
Pss:                  30 kB
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]
Pss:                   8 kB
"""

TRACE = """\
# tracer: nop
          <idle>-12   [000] d..2.  1000.000000: sched_process_exec: filename=/usr/local/bin/ctr pid=12 old_pid=12
 containerd-shi-13   [000] .....  1000.100000: sched_process_exec: filename=/usr/bin/containerd-shim-runc-v2 pid=13 old_pid=13
 containerd-shi-14   [000] .....  1000.140000: sched_process_exec: filename=/usr/bin/containerd-shim-runc-v2 pid=14 old_pid=14
 containerd-shi-13   [000] .....  1000.150000: sched_process_exit: comm=containerd-shi pid=13 prio=120
            runc-15   [000] .....  1000.200000: sched_process_exec: filename=/usr/bin/runc pid=15 old_pid=15
            runc-16   [000] .....  1000.250000: sched_process_exec: filename=/proc/self/exe pid=16 old_pid=16
            runc-15   [000] .....  1000.300000: sched_process_exit: comm=runc pid=15 prio=120
            runc-17   [000] .....  1000.320000: sched_process_exec: filename=/usr/bin/runc pid=17 old_pid=17
            true-16   [000] .....  1000.330000: sched_process_exec: filename=/bin/true pid=16 old_pid=16
            true-16   [000] .....  1000.340000: sched_process_exit: comm=true pid=16 prio=120
            runc-17   [000] .....  1000.345000: sched_process_exit: comm=runc pid=17 prio=120
            runc-18   [000] .....  1000.400000: sched_process_exec: filename=/usr/bin/runc pid=18 old_pid=18
            runc-18   [000] .....  1000.420000: sched_process_exit: comm=runc pid=18 prio=120
 containerd-shi-14   [000] .....  1000.450000: sched_process_exit: comm=containerd-shi pid=14 prio=120
"""

IOMEM = """\
00001000-0009ffff : System RAM
00100000-1fffffff : System RAM
  01000000-01002fff : Kernel code
  01400000-01400fff : Kernel rodata
  01600000-01600fff : Kernel data
  01800000-01800fff : Kernel bss
c0000000-c01fffff : Persistent Memory (legacy)
"""


class Starts(unittest.TestCase):
    def test_the_steps_of_runc_are_read_from_what_started_and_ended(self):
        marks = starts.runc_marks(starts.program_events(TRACE))
        self.assertEqual(
            {name: at - 1_000_000_000 for name, at in marks.items()},
            {
                "shim-start": 100_000,
                "shim-serving": 150_000,
                "create": 200_000,
                "created": 300_000,
                "start": 320_000,
                "exited": 340_000,
                "started": 345_000,
                "delete": 400_000,
                "deleted": 420_000,
                "shutdown": 450_000,
            },
        )

    def test_what_was_not_seen_is_no_step(self):
        self.assertEqual(starts.runc_marks([]), {})
        self.assertEqual(starts.spans({}, 0, 5000), [("end", 0, 5)])

    def test_steps_lie_one_after_the_other_by_their_time(self):
        log = 'level=debug phase=vmm monotonic_us=3000 id=a\nphase=mounts monotonic_us=2000 id=a\nphase=vmm monotonic_us=1 id="b"\n'
        found = starts.spans(starts.shim_marks("a", log), 1000, 10_000)
        self.assertEqual(found, [("mounts", 0, 1), ("vmm", 1, 1), ("end", 2, 7)])

    def test_the_timeline_is_that_of_the_median_round(self):
        rounds = [(30.0, [("end", 0, 30.0)]), (10.0, [("end", 0, 10.0)]), (20.0, [("end", 0, 20.0)])]
        self.assertEqual(starts.timeline(rounds, starts.PHASES)["phases"][0]["ms"], 20.0)


class Memory(unittest.TestCase):
    def test_mappings_are_told_apart_by_what_is_behind_them(self):
        self.assertEqual(
            smaps.parts(smaps.parse(SMAPS)),
            {"program": 216, "data": 24, "heap": 1500, "stacks": 20, "agent's image": 30},
        )

    def test_a_mapping_that_is_left_out_counts_nowhere(self):
        mappings = smaps.parse(SMAPS)
        large = next(one for one in mappings if one.size == 32 << 20)
        self.assertEqual(smaps.parts(mappings, [large])["heap"], 500)

    def test_equal_parts_of_one_owner_are_added_up(self):
        self.assertEqual(memory.merged([("shim", "heap", 1), ("shim", "heap", 2)]), [{"owner": "shim", "what": "heap", "kib": 3}])

    def test_the_page_of_zeros_is_no_page_of_the_guest(self):
        there = guest_pages.PRESENT
        self.assertEqual(guest_pages.present(array("Q", [there | 7, 0, there | 9, there | 7])), [2])

    def test_each_page_has_one_name_and_none_is_lost(self):
        flags = array("Q", [0] * 0x2000)
        flags[0x1000] = 1 << guest_pages.RESERVED
        flags[0x1001] = 1 << guest_pages.BUDDY
        flags[0x10] = 1 << guest_pages.SLAB
        flags[0x11] = flags[0x12] = 1 << guest_pages.ANON | 1 << guest_pages.LRU
        flags[0x13] = 1 << guest_pages.LRU
        flags[0x14] = flags[0x15] = 1 << guest_pages.RESERVED
        cgroups = array("Q", [1] * 0x2000)
        cgroups[0x12] = 42
        facts = {
            "iomem": IOMEM,
            "meminfo": "KernelStack: 4 kB\n",
            "vmstat": "nr_memmap_pages 0\nnr_memmap_boot_pages 1\n",
            "zoneinfo": "  pagesets\n    cpu: 0\n              count:    1\n              high:     9\n",
            "vmalloc": "0x1-0x2 8192 dup_task_struct+0x1 pages=1 vmalloc\n0x3-0x4 8192 bpf_prog_alloc+0x2 pages=1 vmalloc\n",
            "cgroup": "42\n",
        }
        pages = [0x1000, 0x1001, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x20, 0x21, 0x22, 0x23]
        found = guest_pages.attribute([(page, 1) for page in pages], flags, cgroups, facts)
        self.assertEqual(sum(found.values()), 4 * len(pages))
        self.assertEqual(found.pop(guest_pages.FREE), 8)
        once = ("TEXT", "SLABS", "AGENT", "CONTAINER", "CACHE", "MEMMAP", "EARLY", "STACKS", "VMALLOC", "OTHER")
        self.assertEqual(found, {getattr(guest_pages, name): 4 for name in once})

    def test_the_guest_s_ram_is_a_range_of_several_mappings_between_guards(self):
        ram, end = 0x7F0000200000, 0x7F0020200000
        mappings = [
            smaps.Mapping(ram - 4096, ram, "---p", 0, ""),
            smaps.Mapping(ram, ram + 4096, "rw-p", 0, ""),
            smaps.Mapping(ram + 4096, end, "rw-p", 0, ""),
            smaps.Mapping(end, end + 4096, "---p", 0, ""),
            smaps.Mapping(end + 4096, end + 8192, "rw-p", 0, ""),
        ]
        snapshot = guest_pages.Snapshot("self", mappings)
        self.assertEqual(snapshot.runs, [mappings[1:3]])
        snapshot.pages = [[5]]
        self.assertEqual(snapshot.find(end - ram), (mappings[1:3], [5]))
        self.assertEqual(snapshot.find(4096), ([], []))

    def test_pages_that_pods_share_weigh_what_their_mapping_does(self):
        shared = smaps.Mapping(0x10000, 0x12000, "rw-p", 0, "", {"Pss": 2})
        own = smaps.Mapping(0x12000, 0x20000, "rw-p", 0, "", {"Pss": 8})
        self.assertEqual(guest_pages.weighed([shared, own], [0, 1, 2, 9]), [(0, 0.25), (1, 0.25), (2, 1), (9, 1)])

    def test_the_guest_s_ram_ends_below_its_devices(self):
        self.assertEqual(guest_pages.ram_size(IOMEM), 512 << 20)
        self.assertEqual(guest_pages.ram_size(""), 0)


DOCUMENT = {
    "host": {"processor": "a <fast> one", "cpus": 1, "kernel": "6.12", "clock": "instructions"},
    "figures": [
        {"name": "start", "unit": "ms", "bulkhead": 5.0, "runc": 4.0, "ratio": 1.25},
        {"name": "  exits", "unit": "", "bulkhead": 7},
    ],
    "timelines": {
        "bulkhead": {
            "total_ms": 5.0,
            "phases": [
                {"name": "shim-start", "text": "before", "from_ms": 0, "ms": 1.0},
                {"name": "agent", "text": "boot", "from_ms": 1.0, "ms": 3.0},
                {"name": "end", "text": "after", "from_ms": 4.0, "ms": 1.0},
            ],
        },
        "runc": {"total_ms": 4.0, "phases": [{"name": "new & unknown", "text": "new & unknown", "from_ms": 0, "ms": 4.0}]},
    },
    "memory": {
        "pods": 10,
        "bulkhead": [{"owner": "guest", "what": "slab", "kib": 4096}, {"owner": "monitor", "what": "heap", "kib": 2048}],
        "runc": [{"owner": "shim", "what": "heap", "kib": 6000.5}, {"owner": "shim", "what": "stacks", "kib": 4}],
    },
}


class Picture(unittest.TestCase):
    def drawings(self, page):
        return [ElementTree.fromstring(one) for one in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]

    def test_both_drawings_are_well_formed_and_nothing_is_loaded(self):
        page = picture.page(DOCUMENT)
        self.assertEqual(len(self.drawings(page)), 2)
        self.assertIsNone(re.search(r"https?:|src=|href=|url\(|@import|<script", page))
        self.assertIn("a &lt;fast&gt; one", page)

    def test_it_is_readable_light_and_dark(self):
        self.assertIn("prefers-color-scheme: dark", picture.page(DOCUMENT))

    def test_the_bars_of_one_runtime_are_as_long_together_as_its_total(self):
        drawing = self.drawings(picture.page(DOCUMENT))[0]
        parts = [box for box in drawing.iter("rect") if "part" in box.get("class", "").split()]
        self.assertEqual(len(parts), 4)
        lengths = [float(box.get("width")) for box in parts]
        self.assertAlmostEqual(sum(lengths[:3]) / lengths[3], 5 / 4, places=2)

    def test_steps_that_nobody_has_described_are_drawn_with_their_name(self):
        self.assertIn("new &amp; unknown", picture.page(DOCUMENT))

    def test_what_is_missing_is_left_out(self):
        for document in ({}, {"figures": []}, {"memory": {"pods": 3}}, {"timelines": {"runc": DOCUMENT["timelines"]["runc"]}}):
            self.assertIn("</html>", picture.page(document))

    def test_small_parts_of_an_owner_are_one(self):
        found = picture.memory_parts([{"owner": "shim", "what": str(number), "kib": 1} for number in range(5)])
        self.assertEqual([part.text for _, part in found], ["shim: 5 small ones"])

    def test_axes_have_few_round_steps(self):
        for most in (0.3, 1, 7, 48.2, 580, 99_000):
            step = picture.axis_step(most)
            self.assertTrue(1 <= most / step <= 10, (most, step))


if __name__ == "__main__":
    unittest.main()
