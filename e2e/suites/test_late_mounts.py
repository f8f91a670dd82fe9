"""What the host mounts in a volume, and unmounts, while containers have it."""

import pytest

from harness.answers import Case

# $W/v passes on what is mounted in it. $W/image is a small file system with a file of somebody's.
SHARED = r"""
mkdir $W/v && mount --bind $W/v $W/v && mount --make-shared $W/v || exit 98
trap 'umount -R $W/v || umount -lR $W/v' EXIT
truncate -s 8M $W/image && mkfs.ext4 -q $W/image && mkdir $W/v/late && mount -o loop $W/image $W/v/late || exit 98
echo content >$W/v/late/f; chown 1234:65534 $W/v/late/f; umount $W/v/late
plug() { mount -o loop $W/image $W/v/$1; }
# unplug FOLDER: a container looks at it now and then, which keeps runc's host from unmounting it at that moment.
unplug() {
    local tries
    for ((tries = 1; tries <= 10; tries++)); do
        umount $W/v/$1 && break
        sleep 0.05
    done
    ((tries <= 10)) && echo unmounted
}
# released: waits until the host has let go of the file system.
released() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        [[ -n $(losetup -j $W/image) ]] || { echo released; return; }
        sleep 0.1
    done
    losetup -j $W/image
}
"""
# In containers: shows FILE, gone FILE.
LOOK = "shows() { until test -e /v/$1; do sleep 0.1; done; echo $1 shows; }; gone() { while test -e /v/$1; do sleep 0.1; done; echo $1 is gone; }; "


def volume(script, options="rbind:rslave"):
    """A container that has the volume and is ready."""
    return f"""begin --mount type=bind,src=$W/v,dst=/v,options={options} $BUSYBOX $ID sh -c '{LOOK}
        echo ready; {script}'"""


CASES = (
    Case(
        "late-mount-shows-and-goes",
        f"""{SHARED}
        {volume('shows late/f; cat /v/late/f; stat -c "%u %g" /v/late/f; echo x >/v/late/g; stat -c "%u %g" /v/late/g; gone late/f; ls -A /v/late; shows late/f; ls /v/late')}
        plug late; await "late/f shows"; sleep 0.3; unplug late; released
        await "f is gone"; plug late; stat -c '%u %g' $W/v/late/g; finish; unplug late; released""",
        stdout="unmounted\nreleased\n0 0\nended with 0\nready\nlate/f shows\ncontent\n1234 65534\n0 0\nlate/f is gone\nlate/f shows\nf\ng\nlost+found\nunmounted\nreleased",
    ),
    Case(
        "late-mount-below-another",
        f"""{SHARED}
        mount -t tmpfs t $W/v/late && mkdir $W/v/late/in
        {volume("test -d /v/late/in && echo there before; shows late/in/f; gone late/in/f; shows late/in/f; gone late/in; ls -A /v/late; shows late/other")}
        plug late/in; await "in/f shows"; sleep 0.3; unplug late/in; released
        await "in/f is gone"; plug late/in; sleep 1.5; umount $W/v/late/in $W/v/late; released
        await "late/in is gone"; mount -t tmpfs t $W/v/late; touch $W/v/late/other; finish; unplug late""",
        stdout="unmounted\nreleased\nreleased\nended with 0\nready\nthere before\nlate/in/f shows\nlate/in/f is gone\nlate/in/f shows\nlate/in is gone\nlate/other shows\nunmounted",
    ),
    Case(
        "late-mount-in-a-plain-bind",
        f"""{SHARED}
        mkdir $W/v/old; mount -t tmpfs t $W/v/old; touch $W/v/old/f
        {volume("ls /v/old; shows late/f; ls /v/old; gone late/f", "bind:rslave")}
        plug late; await "late/f shows"; sleep 0.3; unplug late; released; finish; unplug old""",
        stdout="unmounted\nreleased\nended with 0\nready\nlate/f shows\nlate/f is gone\nunmounted",
    ),
    Case(
        "late-mount-where-one-may-only-read",
        f"""{SHARED}
        {volume("shows late/f; cat /v/late/f; echo x >/v/g; gone late/f", "rbind:ro:rslave")}
        plug late; await "late/f shows"; sleep 0.5; unplug late; finish""",
        stdout="unmounted\nended with 0\nready\nlate/f shows\ncontent\nlate/f is gone",
        complains=("/v/g.*Read-only file system",),
    ),
    Case(
        "late-mount-in-a-folder-that-is-renamed",
        f"""{SHARED}
        mkdir -p $W/v/a/in
        {volume("shows a/in/f; mv /v/a /v/b; mkdir /v/a; ln -s /etc /v/a/in; echo renamed; gone b/in/f; ls -A /v/b/in; test -e /etc/passwd && echo other files stay")}
        plug a/in; await renamed; sleep 0.3; unplug b/in; released; finish""",
        stdout="unmounted\nreleased\nended with 0\nready\na/in/f shows\nrenamed\nb/in/f is gone\nother files stay",
    ),
    Case(
        # Its mounts go with the folder, before anybody could unmount them.
        "late-mount-on-a-folder-that-is-removed",
        f"""{SHARED}
        {volume("shows late/f; echo seen; sleep 4; ls -A /v")}
        plug late; await seen; sleep 0.3; umount $W/v/late && rmdir $W/v/late && echo removed; released; finish""",
        stdout="removed\nreleased\nended with 0\nready\nlate/f shows\nseen",
    ),
    Case(
        # What happens to a folder's name is nothing to the mounts below it.
        "late-mount-stays-when-others-come",
        f"""{SHARED}
        mkdir -p $W/v/a/in $W/v/other
        {volume("shows a/in/f; cd /v/a/in; mv /v/a /v/b; echo renamed; shows other/f; cat f; echo new >g; cat /v/b/in/g")}
        plug a/in; await renamed; mount -t tmpfs t $W/v/other; touch $W/v/other/f; finish; unplug b/in; unplug other""",
        stdout="ended with 0\nready\na/in/f shows\nrenamed\nother/f shows\ncontent\nnew\nunmounted\nunmounted",
    ),
    Case(
        "late-mount-does-not-show-in-private",
        f"""{SHARED}
        mount -t tmpfs t $W/v/late && touch $W/v/late/before
        {volume("shows go; sleep 1.5; ls -A /v/late /v/new", "rbind:rprivate")}
        unplug late; mkdir $W/v/new; plug new; touch $W/v/go; finish; unplug new; released""",
        stdout="unmounted\nended with 0\nready\ngo shows\n/v/late:\nbefore\n\n/v/new:\nunmounted\nreleased",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)
