"""Block devices of the host in containers: as nodes, as what is mounted, and given back afterwards."""

import pytest

from harness import shell
from harness.answers import BULKHEAD, Case, Differs
from harness.oci import all_of, container

# $LOOP is a block device of 64 MiB with an ext4 file system, $MINOR its number; all of it goes with the case.
DISK = """
truncate -s 64M $W/image && mkfs.ext4 -q -O ^has_journal $W/image && LOOP=$(losetup -f --show $W/image) || exit 98
trap 'losetup -d $LOOP' EXIT
export LOOP MINOR=${LOOP#/dev/loop}
"""
NODE = '.linux.devices += [{path: "/dev/disk", type: "b", major: 7, minor: ($ENV.MINOR | tonumber), fileMode: 432, uid: 0, gid: 6}]'


def rule(access):
    return f'.linux.resources.devices += [{{allow: true, type: "b", major: 7, minor: ($ENV.MINOR | tonumber), access: "{access}"}}]'


def mount(*options):
    listed = ", ".join(f'"{option}"' for option in options)
    return f'.mounts += [{{destination: "/m", type: "ext4", source: $ENV.LOOP, options: [{listed}]}}]'


WRITE = "echo from the container | dd of=/dev/disk bs=512 seek=2000 conv=notrunc 2>/dev/null && echo written"

CASES = (
    container(
        "disk-as-a-node",
        f"ls -ln /dev/disk | awk '{{print $1, $3, $4}}'; cat /dev/disk | wc -c; dd if=/dev/disk bs=1 skip=1080 count=2 2>/dev/null | od -An -tx1; {WRITE}",
        all_of(NODE, rule("rwm")),
        before=DISK,
        after="dd if=$W/image bs=512 skip=2000 count=1 2>/dev/null | head -n 1",
        stdout="brw-rw---- 0 6\n67108864\n 53 ef\nwritten\nfrom the container",
    ),
    container(
        "disk-that-may-be-read",
        f"cat /dev/disk | wc -c; {WRITE}; echo x >>/dev/disk",
        all_of(NODE, rule("r")),
        before=DISK,
        after="dd if=$W/image bs=512 skip=2000 count=1 2>/dev/null | tr -d '\\0' | wc -c",
        status=1,
        stdout="67108864\n0",
        complains=("Operation not permitted",),
    ),
    container(
        "disk-is-mounted",
        "awk '$2 == \"/m\" {print $3}' /proc/self/mounts; echo from the container >/m/made; mkdir /m/folder; chown 5:6 /m/folder; sync",
        mount("noatime"),
        before=DISK,
        after="mkdir $W/see; mount -o ro $LOOP $W/see && cat $W/see/made && stat -c '%u %g' $W/see/folder; umount $W/see",
        stdout="ext4\nfrom the container\n5 6",
    ),
    container("disk-is-mounted-read-only", "echo x >/m/made; ls -d /m/lost+found", mount("ro"), before=DISK, stdout="/m/lost+found", complains=("Read-only file system",)),
    container("disk-whose-file-system-is-damaged", "echo it ran", mount("rw"), before=f"{DISK}\ndd if=/dev/zero of=$W/image bs=1k count=4 conv=notrunc 2>/dev/null", status=1, stdout="", complains=("/m.*([Ii]nvalid argument|wrong fs type)",)),
    # Made on the host and bound: root of the container is not the owner.
    container(
        "disk-in-a-user-namespace",
        "stat -c '%F %u %g' /dev/loop*; cat /dev/loop* >/dev/null",
        all_of(
            '.linux.namespaces += [{type: "user"}] | .linux.uidMappings = [{containerID: 0, hostID: 100000, size: 65536}] | .linux.gidMappings = .linux.uidMappings',
            NODE.replace('"/dev/disk"', "$ENV.LOOP"),
            rule("rwm"),
        ),
        before=f"chown -hR 100000:100000 $W/root\n{DISK}",
        status=1,
        stdout="block special file 65534 65534",
        complains=("Permission denied",),
    ),
    container("disk-that-is-not-there", "echo it ran", NODE.replace("($ENV.MINOR | tonumber)", "250"), stdout="it ran", differs=Differs("a node of the guest stands for a disk that is plugged, so there must be one", status=1, stdout="^$", stderr="block device 7:250")),
    Case(
        "disk-for-one-after-the-other",
        f"""{DISK}
        for n in 1 2 3; do
            run --device $LOOP $BUSYBOX $ID-$n sh -c "head -c 1 $LOOP | wc -c; echo $n | dd of=$LOOP bs=512 seek=2000 conv=notrunc 2>/dev/null"
            dd if=$W/image bs=512 skip=2000 count=1 2>/dev/null | head -n 1
        done""",
        stdout="1\n1\n1\n2\n1\n3",
    ),
    Case(
        "disk-through-docker",
        f"""{DISK}
        docker run --rm --network none --name $ID --runtime $DRT --device $LOOP:/dev/mine:r bulkhead/busybox sh -c 'cat /dev/mine | wc -c; echo x >/dev/mine'""",
        status=1,
        stdout="67108864",
        complains=("not permitted",),
    ),
    Case(
        # Its list has the loop device by the host's name as well.
        "disk-of-a-privileged-container",
        f"""{DISK}
        docker run --rm --network none --name $ID --runtime $DRT --privileged --device $LOOP:/dev/osd bulkhead/busybox sh -c '
            cat /dev/osd | wc -c; echo from the container | dd of=/dev/osd bs=512 seek=2000 conv=notrunc 2>/dev/null && echo written'
        dd if=$W/image bs=512 skip=2000 count=1 2>/dev/null | head -n 1""",
        stdout="67108864\nwritten\nfrom the container",
    ),
    Case(
        # A loop device is the guest's own there, whatever it is on the host.
        "image-mounted-by-a-privileged-container",
        """
        modprobe loop; ls /dev/loop0 >/dev/null
        docker run --rm --network none --runtime $DRT --privileged bulkhead/busybox sh -c '
            dd if=/dev/zero of=/img bs=1M count=4 2>/dev/null; mke2fs -F /img >/dev/null 2>&1; mkdir /m
            mount -o loop /img /m && echo x >/m/f && ls /m && umount /m'""",
        stdout="f\nlost+found",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)


@pytest.mark.bulkhead
def test_a_pod_has_room_for_its_last_disk_and_no_more(nothing_left):
    """With room for the devices that come once the pod has settled."""
    answer = shell.bash(
        """
        trap 'for loop in $LOOPS; do losetup -d $loop; done' EXIT
        for ((n = 0; n < 27; n++)); do
            truncate -s 1M $W/$n && LOOP=$(losetup -f --show $W/$n) || exit 98
            ((n < 26)) && FITTING+=" --device $LOOP"; LOOPS+=" $LOOP"
        done
        run $FITTING $BUSYBOX $ID sh -c 'ls /sys/block | grep -c vd'
        run $FITTING --device $LOOP $BUSYBOX $ID true; echo "-> $?"
        """,
        {**BULKHEAD, "ID": "disks-at-most"},
        150,
    )[0]
    assert answer.stdout == "26\n-> 1\n" and "26 disks already" in answer.stderr, answer
