"""Whose the monitor and a pod's files are on the host: a range of ids for each pod, or the host's where files cannot be mapped."""

import pytest

from harness import shell
from harness.answers import BULKHEAD, fail

pytestmark = pytest.mark.bulkhead

# record ID: the pod's record. ids ID: its first id on the host, or null.
FUNCTIONS = """
record() { cat /run/bulkhead/*/"$1"/pod.json; }
ids() { record "$1" | jq ".host_id_ranges[0]"; }
vmm() { record "$1" | jq .vmm.pid; }
execute() { ctr task exec --exec-id "x$RANDOM$RANDOM" "$@"; }
config() { echo "$1" >$W/bulkhead.toml; echo --runtime-config-path $W/bulkhead.toml; }
ended() { ctr task kill -s KILL "$1"; for ((n = 0; n < 60; n++)); do [[ $(ctr task ls | awk -v id="$1" '$1 == id {print $3}') == STOPPED ]] && break; sleep 0.1; done
    ctr task rm -f "$1" >/dev/null; ctr container rm "$1"; }
"""


def expect(name, script, stdout, complains=""):
    answer, _ = shell.bash(FUNCTIONS + script, {**BULKHEAD, "ID": name}, 150)
    if (answer.status, answer.stdout) != (0, stdout) or complains not in answer.stderr:
        fail(str(answer))


def test_pods_have_different_ids_and_give_them_back(nothing_left):
    expect(
        "ids-differ",
        """
        detached $BUSYBOX $ID-1 sleep 1000; detached $BUSYBOX $ID-2 sleep 1000
        one=$(ids $ID-1) two=$(ids $ID-2); ((one > 65535 && two > one + 65535)) && echo apart
        for pod in $ID-1 $ID-2; do
            awk -v base=$(ids $pod) '/^(Uid|Gid):/ {print $1, $2 - base, $5 - base}' /proc/$(vmm $pod)/status
        done
        bulkhead ps | awk -v id=$ID-1 -v base=$one '$2 == id && $NF == base {print "listed"}'
        ended $ID-1; detached $BUSYBOX $ID-3 sleep 1000; (($(ids $ID-3) == one)) && echo again
        ended $ID-2; ended $ID-3""",
        "apart\nUid: 0 0\nGid: 0 0\nUid: 0 0\nGid: 0 0\nlisted\nagain\n",
    )


def test_owners_are_the_same_on_the_disk(nothing_left):
    expect(
        "ids-owners",
        """
        mkdir $W/volume; echo given >$W/volume/given; chown 1234:2345 $W/volume/given; chmod 600 $W/volume/given
        detached --mount type=bind,src=$W/volume,dst=/volume,options=rbind:rw $DEBIAN $ID sleep 1000
        execute --user 0:0 $ID sh -c 'cat /volume/given; stat -c "%u:%g %a" /volume/given /etc/passwd; cd /root
            echo x >plain; echo y >owned; chown 1000:2000 owned; cp /bin/true program; setcap cap_net_raw+ep program
            cp owned /volume/out; chown 7:8 /volume/out; rm /etc/hostname; mv /etc/passwd /etc/passwd.old'
        execute --user 1000:1000 $ID sh -c 'touch /tmp/theirs; touch /root/no 2>/dev/null || echo refused'
        stat -c '%n %u:%g' $W/volume/out | sed "s,$W/,,"
        upper=$(dirname $(find /var/lib/containerd -path '*/fs/root/owned'))
        cd $upper; stat -c '%n %u:%g' plain owned ../tmp/theirs ../etc/passwd.old; getcap -n program
        ended $ID""",
        "given\n1234:2345 600\n0:0 644\nrefused\nvolume/out 7:8\nplain 0:0\nowned 1000:2000\n../tmp/theirs 1000:1000\n"
        "../etc/passwd.old 0:0\nprogram cap_net_raw=ep\n",
    )


def test_high_ids_of_a_specification_have_a_place(nothing_left):
    expect(
        "ids-high",
        """
        mkdir -m 777 $W/volume
        run --mount type=bind,src=$W/volume,dst=/volume,options=rbind:rw --user 1000650000:1000660000 $BUSYBOX $ID \
            sh -c 'echo x >/volume/f; echo y >/tmp/g; stat -c "%u:%g" /volume/f /tmp/g'
        stat -c %u:%g $W/volume/f""",
        "1000650000:1000660000\n1000650000:1000660000\n1000650000:1000660000\n",
    )


# Gives a file an access control list, or prints the users of the one that it has.
ACCESS_LIST = """
import os, struct, sys
ENTRY, NAME, NONE = "<HHI", "system.posix_acl_access", 0xffffffff
if sys.argv[2:] == ["set"]:
    entries = (1, 6, NONE), (2, 4, 70000), (2, 6, 1000650000), (4, 4, NONE), (16, 6, NONE), (32, 4, NONE)
    os.setxattr(sys.argv[1], NAME, struct.pack("<I", 2) + b"".join(struct.pack(ENTRY, *entry) for entry in entries))
print(*(user for tag, _, user in struct.iter_unpack(ENTRY, os.getxattr(sys.argv[1], NAME)[4:]) if tag == 2))
"""


def test_a_further_container_s_high_ids_have_a_place_too(nothing_left):
    expect(
        "ids-later",
        f"""
        GROUP="--annotation io.containerd.bulkhead.v2.group=$ID"
        mkdir -m 777 $W/volume; cat >$W/volume/acl.py <<'END'
{ACCESS_LIST}
END
        detached $GROUP --user 70000:70000 $DEBIAN $ID sleep 1000
        run $GROUP --mount type=bind,src=$W/volume,dst=/volume,options=rbind:rw --user 1000650000:70000 $DEBIAN $ID-2 sh -c '
            cd /volume; mkdir d; echo x >d/f; chgrp 70000 d/f; stat -c "%u:%g" d d/f; python3 acl.py d/f set
            python3 -c "import os; f = os.open(\\".\\", os.O_TMPFILE | os.O_RDWR); s = os.fstat(f); print(s.st_uid, s.st_gid)"'
        cd $W/volume; stat -c "%n %u:%g" d d/f; python3 acl.py d/f
        ended $ID""",
        "1000650000:70000\n1000650000:70000\n70000 1000650000\n1000650000 70000\n"
        "d 1000650000:70000\nd/f 1000650000:70000\n70000 1000650000\n",
    )


def test_an_exec_with_an_id_that_no_container_has_is_refused(nothing_left):
    expect(
        "ids-exec",
        """
        detached --user 70000:70000 $BUSYBOX $ID sleep 1000
        execute --user 70000:70000 $ID sh -c 'echo x >/tmp/f; stat -c %u:%g /tmp/f'
        execute --user 0:0 $ID sh -c 'touch /x; for id in 70000 70001 4294901760; do chown $id /x 2>&1 | sed "s/.*: //"; stat -c %u /x; done'
        execute --user 70001 $ID true && echo ran
        ended $ID""",
        "70000:70000\n70000\nInvalid argument\n70000\nInvalid argument\n70000\n",
        "user or group 70001 is not among the ids that the container's files can belong to",
    )


def test_what_is_read_only_is_so_for_the_monitor_too(nothing_left):
    expect(
        "ids-read-only",
        """
        mkdir -p $W/volume/below; mount -t tmpfs below $W/volume/below
        mount() { echo --mount type=bind,src=$W/volume,dst=/$1,options=rbind:$1; }
        detached $(mount ro) $(mount rro) $BUSYBOX $ID sleep 1000
        awk '$5 ~ "/@volumes/" {sub(".*/@volumes/[0-9]*", "top", $5); split($6, options, ","); print $5, options[1]}' /proc/$(vmm $ID)/mountinfo | sort
        ended $ID; umount $W/volume/below""",
        "top ro\ntop ro\ntop/below ro\ntop/below rw\n",
    )


@pytest.mark.parametrize("way", ("config", "annotation"))
def test_the_host_s_ids_can_be_asked_for(way, nothing_left):
    options = {"config": "$(config 'id_mapping = \"never\"')", "annotation": "--annotation io.bulkhead.id_mapping=never"}
    expect(
        f"ids-never-{way}",
        f"""
        detached {options[way]} $BUSYBOX $ID sleep 1000
        ids $ID; awk '/^Uid:/ {{print $2}}' /proc/$(vmm $ID)/status; execute $ID sh -c 'touch /x; chown 70000 /x; stat -c %u /x'
        ended $ID""",
        "null\n0\n70000\n",
    )


# A root that is an overlay already, as Docker gives it: no kernel maps that.
OVERLAY = """
mkdir $W/lower $W/upper $W/work $W/root; cp -a /bin/busybox $W/lower/sh; mkdir $W/lower/proc $W/lower/dev $W/lower/sys
mount -t overlay overlay -o lowerdir=$W/lower,upperdir=$W/upper,workdir=$W/work $W/root
"""


def test_files_that_cannot_be_mapped_leave_the_host_s_ids(nothing_left):
    expect(
        "ids-fallback",
        f"""{OVERLAY}
        detached --rootfs $W/root $ID /sh -c 'echo x >/made; exec /sh -c "while :; do :; done"'
        ids $ID; grep -q "$ID: runs with the host's user ids: cannot map .*/root: Invalid argument" /var/log/containerd.log && echo told
        ended $ID; umount $W/root""",
        "null\ntold\n",
    )


def test_files_that_cannot_be_mapped_can_be_refused(nothing_left):
    expect(
        "ids-always",
        f"""{OVERLAY}
        run $(config 'id_mapping = "always"') --rootfs $W/root $ID /sh -c true && echo ran
        ctr container rm $ID 2>/dev/null; umount $W/root""",
        "",
        'host ids of its own is required (id_mapping = "always"): cannot map ',
    )
