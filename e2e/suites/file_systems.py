"""What file systems promise, asked on a root file system and on a volume, beside runc: POSIX calls, random operations, locks.

Not part of the suites: it needs an image of its own. Run by e2e/workloads/run.
"""

import hashlib
from pathlib import Path

import pytest

from harness import shell
from harness.answers import BULKHEAD, Case, Differs

SCRIPTS = Path(__file__).parent / "file_systems"
IMAGE = "docker.io/bulkhead/workloads:latest"
FOLDERS = {"root": "/var/tmp/tested", "volume": "/volume/tested"}
HOLDERS = "the locks are the host's, which knows no process of a guest"
NODES = "device nodes cannot be made on file systems that the file server serves: it lives in a user namespace"

# A test that fails has lines of its own beside the verdict. Some of those with a device node want nothing but its refusal, and pass.
FAILED = r"(?:\g<test>:(?:\t|  ).*\n)*\g<test>: FAILED(?:\n\g<test>:(?:\t|  ).*)*"
FAILING_NODES = {r"(?P<test>mknod::device_files::block): ok": FAILED, r"(?P<test>\S+): ok": rf"\g<test>: ok|{FAILED}"}

# The scripts are part of what decides an answer.
DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SCRIPTS.glob("*.*")))).hexdigest()[:16]
COPY = f"# {DIGEST}\nmkdir -p $W/scripts $W/volume; cp {SCRIPTS}/* $W/scripts/\n"
OPTIONS = (
    "--allow-new-privs --memory-limit 800000000 --mount type=bind,src=$W/scripts,dst=/scripts,options=rbind:ro "
    "--mount type=bind,src=$W/volume,dst=/volume,options=rbind:rw "
)


def inside(name, where, command, *says, environment="", timeout=900.0, differs=None):
    """One container that asks everything itself."""
    script = f"{COPY}run {OPTIONS} --env FOLDER={FOLDERS[where]} {environment} {IMAGE} $ID {command}"
    return Case(f"{name}-{where}", script, says=says, timeout=timeout, differs=differs)


INSIDE = tuple(
    case
    for where in FOLDERS
    for case in (
        inside("pjdfstest", where, "bash /scripts/pjdfstest.sh", r"rename::.*: ok\n(.*\n)*end", environment="--env NODES=without"),
        inside(
            "pjdfstest-nodes",
            where,
            "bash /scripts/pjdfstest.sh",
            r"mknod::.*: ok\n(.*\n)*end",
            environment="--env NODES=with",
            differs=Differs(NODES, lines=FAILING_NODES),
        ),
        inside("fsx", where, "bash /scripts/fsx.sh", "seed 1: 0", "seed 2: 0", "seed 3: 0"),
        inside(
            "locks",
            where,
            f"python3 /scripts/locks.py {FOLDERS[where]}",
            "flock: waits: True",
            "the next waiter gets it: yes",
            differs=Differs(HOLDERS, lines={"posix: who holds it: 1 100 10 the parent": "posix: who holds it: 1 100 10 0"}),
        ),
    )
)

# A holder in one container; another container and the host try, and wait until the holder is killed.
BETWEEN = """
locks() { python3 $W/scripts/locks.py "$@"; }
begin $OPTIONS $IMAGE $ID python3 /scripts/locks.py hold KIND /volume/file 1000
echo "other container: $(run $OPTIONS $IMAGE $ID-2 python3 /scripts/locks.py try KIND /volume/file)"
echo "host: $(locks try KIND $W/volume/file)"
locks wait KIND $W/volume/file >$W/waiter &
sleep 2
echo "the host waits: $(wc -l <$W/waiter)"
ctr task kill -s KILL $ID
wait $CTR
wait
cat $W/waiter
locks hold KIND $W/volume/file 1000 >$W/holder &
HOLDER=$!
until grep -q ready $W/holder; do sleep 0.2; done
echo "container beside the host's: $(run $OPTIONS $IMAGE $ID-3 python3 /scripts/locks.py try KIND /volume/file)"
kill $HOLDER
"""


def between(kind):
    script = COPY + BETWEEN.replace("KIND", kind).replace("$OPTIONS", OPTIONS).replace("$IMAGE", IMAGE)
    return Case(
        f"locks-between-{kind}",
        script,
        stdout="other container: EAGAIN\nhost: EAGAIN\nthe host waits: 0\ngot it\ncontainer beside the host's: EAGAIN",
    )


CASES = INSIDE + tuple(between(kind) for kind in ("flock", "posix", "ofd"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)


# The bound of docs/SPECIFICATION.md, and what the monitor has besides.
DESCRIPTORS = 40_960 + 512

# 200 folders of 1,000 files, of which the first 50 are walked first, while the monitor's descriptors are counted and its heap measured.
WALK = """
mkdir $W/tree; mount -t tmpfs -o nr_inodes=0 tree $W/tree && trap 'umount $W/tree' EXIT
(cd $W/tree; for d in $(seq 200); do mkdir $d; (cd $d; seq 1000 | xargs touch); done)
detached --mount type=bind,src=$W/tree,dst=/tree,options=rbind:ro $BUSYBOX $ID sleep 10000
MONITOR=$(ctr task ls | awk -v id="$ID" '$1 == id {print $2}')
heap() { awk '/^[0-9a-f]+-/ {heap = /\\[heap\\]/} /^Rss:/ && heap {n += $2} END {print n}' /proc/$MONITOR/smaps; }
walk() { # FIRST LAST
    local most=0 kib=0 now
    ctr task exec --exec-id walk$1 $ID sh -c "for d in \\$(seq $1 $2); do find /tree/\\$d -type f -size 0; done | wc -l" &
    while kill -0 $! 2>/dev/null; do
        now=$(ls /proc/$MONITOR/fd | wc -l); ((now <= most)) || most=$now
        now=$(heap); ((now <= kib)) || kib=$now
        sleep 1
    done
    echo "$most $kib"
}
walk 1 50; walk 51 200
ctr task kill -s KILL $ID; stopped; gone
"""


def test_walk_of_a_large_tree_is_bounded(nothing_left):
    answer, _ = shell.bash(WALK, {**BULKHEAD, "ID": "walk"}, 2400)
    listed = answer.stdout.split("\n")[:4]
    assert (listed[0], listed[2]) == ("50000", "150000"), answer
    (few, before), (many, after) = ([int(number) for number in line.split()] for line in listed[1::2])
    print(f"descriptors {few} and {many}, KiB {before} and {after}")
    assert 1000 < few < DESCRIPTORS and many < DESCRIPTORS
    assert 1000 < before and after < before + 8192
