"""Root file systems in image files and on block devices of their own, as containerd's blockfile and devmapper snapshotters give them."""

import pytest

from harness.answers import Case

# A containerd of its own, which keeps each snapshot in an image file; own ARGUMENT... is its ctr.
OWN = r"""
exec {lock}>/run/lock/own-containerd && flock $lock
O=$W/own; mkdir -m 711 $O && chmod 711 $W
truncate -s 64M $O/scratch && mkfs.ext4 -q -m 0 $O/scratch
cat >$O/config.toml <<END
version = 3
root = "$O/root"
state = "$O/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.podsandbox.controller.v1.podsandbox"]
[grpc]
  address = "$O/sock"
[plugins."io.containerd.snapshotter.v1.blockfile"]
  scratch_file = "$O/scratch"
  fs_type = "ext4"
END
containerd --config $O/config.toml >$O/log 2>&1 &
CONTAINERD=$!
trap 'kill $CONTAINERD; wait $CONTAINERD; findmnt -rno TARGET | grep "^$O/" | tac | xargs -r umount; rm -rf $O' EXIT
own() { ctr --address $O/sock "$@"; }
for ((i = 0; i < 200; i++)); do own version >/dev/null 2>&1 && break; sleep 0.1; done
ctr images export --local $O/image.tar $BUSYBOX && own images import --local --snapshotter blockfile $O/image.tar >/dev/null || { cat $O/log; exit 98; }
in_file() { own run --rm --snapshotter blockfile --runtime $RT "$@"; }
"""

LOOK = r"""
awk "\$2 == \"/\" {print \$3}" /proc/self/mounts
echo made >/etc/made && cat /etc/made && chown 70000:7 /etc/made && stat -c "%u %g" /etc/made
mknod /node c 1 3 && echo -n x >/node && stat -c %F /node
chmod 6755 /etc/made && echo x >>/etc/made && stat -c %a /etc/made
"""

CASES = (
    Case(
        "image-file-as-root",
        f"{OWN}\nin_file $BUSYBOX $ID sh -c '{LOOK}'",
        stdout="ext4\nmade\n70000 7\ncharacter special file\n6755",
    ),
    # What one run has written and nobody has synced, the next one reads.
    Case(
        "image-file-keeps-what-is-written",
        f"""{OWN}
        own container create --snapshotter blockfile --runtime $RT $BUSYBOX $ID sh -c 'cat /many | wc -l; seq 100000 >>/many' >/dev/null
        for n in 1 2 3; do
            own task start $ID; echo "-> $?"
        done
        own container rm $ID""",
        says=(r"^0\n-> 0\n100000\n-> 0\n200000\n-> 0\n$",),
        complains=("can't open '/many'",),
    ),
    Case(
        "image-file-that-is-cut-off",
        f"""{OWN}
        own container create --snapshotter blockfile --runtime $RT $BUSYBOX $ID echo it ran
        truncate -s 5M "$(ls -t $O/root/io.containerd.snapshotter.v1.blockfile/snapshots/* | head -n 1)"
        own task start $ID; echo "-> $?"
        own container rm $ID""",
        stdout="-> 1",
        complains=("[Ii]nvalid argument|wrong fs type|structure needs cleaning",),
    ),
    Case(
        "image-file-that-is-gone",
        f"""{OWN}
        own container create --snapshotter blockfile --runtime $RT $BUSYBOX $ID echo it ran
        rm "$(ls -t $O/root/io.containerd.snapshotter.v1.blockfile/snapshots/* | head -n 1)"
        own task start $ID; echo "-> $?"
        own container rm $ID""",
        stdout="-> 1",
        complains=("blockfile/snapshots/[0-9]+.*[Nn]o such file",),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)
