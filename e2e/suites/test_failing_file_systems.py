"""Root file systems and volumes on a file system of the host that is full, becomes read-only, fails or is taken away."""

import pytest

from harness.answers import Case
from harness.oci import container

# $W/v is a small file system; it goes with the case.
SMALL = """
truncate -s 8M $W/image && mkfs.ext4 -q -O ^has_journal -m 0 $W/image && mkdir $W/v && mount -o loop $W/image $W/v || exit 98
trap 'umount -l $W/v' EXIT
"""
VOLUME = "--mount type=bind,src=$W/v,dst=/v,options=rbind:rw"
FILL = """dd if=/dev/zero of=PLACE/f bs=64k 2>&1 | grep -o 'No space left on device'
wc -c <PLACE/f; mkdir PLACE/d; echo x >PLACE/g; rm PLACE/f; echo again >PLACE/g; cat PLACE/g"""


def when_told(command):
    """A container that runs the command when it is sent SIGUSR1."""
    return f"begin {VOLUME} $BUSYBOX $ID sh -c 'trap \"{command}; exit 5\" USR1; ls /v >/dev/null; echo ready; while :; do sleep 0.1; done'"


TELL = "ctr task kill -s USR1 $ID; finish"

CASES = (
    Case(
        # Whoever is not the owner has its access list looked up.
        "volume-without-access-lists",
        """
        mkdir $W/v; mount -t ramfs r $W/v || exit 98
        trap 'umount -l $W/v' EXIT
        chmod 755 $W $W/v; echo hello >$W/v/f; mkdir -m 777 $W/v/d
        run --user 1000 --mount type=bind,src=$W/v,dst=/v,options=rbind:rw --mount type=bind,src=/sys,dst=/hs,options=rbind:ro $BUSYBOX $ID sh -c '
            cat /v/f; ls /v; echo made >/v/d/g; cat /v/d/g; cat /hs/class/net/lo/mtu; echo x >/v/f'""",
        status=1,
        stdout="hello\nd\nf\nmade\n65536",
        complains=("[Pp]ermission denied",),
    ),
    Case("volume-is-full", f"{SMALL}\nrun {VOLUME} $BUSYBOX $ID sh -c \"{FILL.replace('PLACE', '/v')}\"", says=("^No space left on device\n[0-9]+\n", "again\n$"), complains=("",)),
    container(
        "root-is-full",
        FILL.replace("PLACE", "/tmp"),
        '.root.path = ($w + "/v")',
        before=f"{SMALL}\ncp -a $W/root/. $W/v/",
        says=("^No space left on device\n[0-9]+\n", "again\n$"),
        complains=("",),
    ),
    Case(
        "volume-becomes-read-only",
        f"""{SMALL}
        {when_told("echo x >/v/f; mkdir /v/d; ls -A /v")}
        mount -o remount,ro $W/v
        {TELL}""",
        says=("ended with 5\nready\nlost.found\n",),
        complains=("/v/f.*Read-only file system", "/v/d.*Read-only file system"),
    ),
    Case(
        "volume-fails",
        f"""{SMALL}
        head -c 5000000 /dev/urandom >$W/v/big; umount $W/v; mount -o loop $W/image $W/v; ls $W/v >/dev/null
        {when_told("cat /v/big >/dev/null; echo x >/tmp/x && echo written")}
        truncate -s 200k $W/image
        {TELL}""",
        says=("ended with 5\nready\nwritten",),
        complains=("I/O error|Input/output error",),
    ),
    Case(
        "volume-is-removed",
        f"""mkdir $W/v; echo given >$W/v/f
        {when_told("ls -A /v; echo x >/v/g; mkdir /v/d")}
        rm -r $W/v; sleep 1.2
        {TELL}""",
        says=("ended with 5\nready\n$",),
        complains=("/v/g.*(nonexistent directory|No such file or directory)", "/v/d.*No such file or directory"),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)
