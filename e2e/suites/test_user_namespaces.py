"""Containers in user namespaces of their own, whose ids stand for high ones that only the pod has."""

import pytest

from harness import shell
from harness.answers import BULKHEAD, Case, fail
from harness.facts import Fact, Group, each_fact, each_group
from harness.oci import all_of, container, mount, refused

pytestmark = pytest.mark.in_turns

MAPS = "--uidmap 0:100000:65536 --gidmap 0:200000:65536"

FACTS = (
    Fact("maps", "id -u; tr -s ' ' </proc/self/uid_map; tr -s ' ' </proc/self/gid_map", "^0\n 0 100000 65536\n 0 200000 65536"),
    Fact("owners", "stat -c '%u %g' / /bin/busybox; ls -ln /etc/passwd | awk '{print $3, $4}'", "^0 0\n0 0\n0 0"),
    Fact("own-files", "echo made >/made; chown 5:6 /made; stat -c '%u %g' /made; chown 1234 /bin/busybox; stat -c %u /bin/busybox", "^5 6\n1234"),
    Fact("unknown-owner", "touch /x; chown 70000 /x 2>&1 | sed 's/.*: //'; stat -c %u /x", "^Invalid argument\n0"),
    Fact("sysfs", "awk '$2 == \"/sys\" {print $3, $4}' /proc/self/mounts; stat -c '%u %g' /sys /sys/kernel; ls /sys/class/net; echo x >/sys/kernel/x; umount /sys; true", "^sysfs ro,nosuid.*\n65534 65534\n65534 65534\nlo"),
    Fact("devices", "stat -c '%u %g' /dev /dev/null; echo x >/dev/null && echo written", "^0 0\n65534 65534\nwritten"),
    Fact("stream-again", "echo again >/dev/stdout", "^again"),
    Fact("capabilities", "grep CapEff /proc/self/status; hostname x; mount -t tmpfs x /tmp; true", "CapEff"),
    Fact("setuid", "cp /bin/busybox /tmp/su-id && chown 0:0 /tmp/su-id && chmod 4755 /tmp/su-id && stat -c '%a %u' /tmp/su-id", "^4755 0"),
)
GROUPS = (
    Group("user-namespace", MAPS, FACTS),
    Group("user-namespace-shifted-by-the-mount", f"--remap-labels {MAPS}", FACTS),
)


def mapped(destination, source, host, *options):
    lines = f"[{{containerID: 0, hostID: {host}, size: 65536}}]"
    listed = ", ".join(f'"{option}"' for option in options)
    return f'.mounts += [{{destination: "{destination}", type: "bind", source: ($w + "/{source}"), options: [{listed}], uidMappings: {lines}, gidMappings: {lines}}}]'


NAMESPACE = '.linux.namespaces += [{type: "user"}] | .linux.uidMappings = [{containerID: 0, hostID: 100000, size: 65536}] | .linux.gidMappings = .linux.uidMappings'
OWNED = "chown -hR 100000:100000 $W/root; mkdir $W/v; echo given >$W/v/given; chown 5:6 $W/v/given; chown 0:0 $W/v"
CLOSED = f"{OWNED}; mount -t tmpfs -o noexec,nosuid,mode=755 v $W/v && trap 'umount $W/v' EXIT"
SEEN = "stat -c '%u %g' /v /v/given; echo x >/v/made; chown 7:8 /v/given; touch /v/theirs; chown 65535 /v/theirs; stat -c '%u %g' /v/given /v/theirs"
ON_DISK = "cd $W/v; stat -c '%n %u %g' given made theirs"

CASES = (
    Case(
        "user-namespace-owners-on-the-disk",
        f"""
        for way in "" --remap-labels; do
            detached $way {MAPS} $BUSYBOX $ID sh -c 'echo x >/made-by-root; mkdir /home/app/d; chown 1000:1001 /home/app/d; sleep 1000'
            for ((n = 0; n < 100; n++)); do found=$(find /var/lib/containerd -path '*/home/app/d'); [[ -n $found && $(stat -c %u $found) != 100000 ]] && break; sleep 0.1; done
            stat -c '%u %g' $found $(dirname $found)/../../made-by-root
            gone; ctr snapshot ls | grep -oE "^$ID\\S*" | xargs -r -n 1 ctr snapshot rm
        done""",
        stdout="101000 201001\n100000 200000\n101000 201001\n100000 200000",
        complains=("",),
    ),
    Case(
        "user-namespace-exec",
        f"""
        detached {MAPS} $BUSYBOX $ID sleep 1000
        ctr task exec --exec-id root $ID sh -c 'id -u; id -g; echo out >/dev/stdout; echo x >/tmp/root; stat -c "%u %g" /tmp/root'
        ctr task exec --exec-id user --user 5:7 $ID sh -c 'id -u; id -g; echo out >/dev/stdout; echo x >/tmp/user; stat -c "%u %g" /tmp/user; grep CapEff /proc/self/status'
        ctr task exec --exec-id nobody --user 70000 $ID true; echo $?
        gone""",
        says=("^0\n0\nout\n0 0\n5\n7\nout\n5 7\nCapEff:\t0+\n1$",),
        complains=("70000",),
    ),
    container("user-namespace-from-a-specification", "id -u; stat -c '%u %g' /bin/busybox /sys; ls -d /sys/kernel; touch /x; stat -c '%u %g' /x", NAMESPACE, before=OWNED, after="stat -c '%u %g' $W/root/x", stdout="0\n0 0\n65534 65534\n/sys/kernel\n0 0\n100000 100000"),
    container("user-namespace-makes-the-working-directory", "pwd; stat -c '%u %g' . ..; touch x && echo written", all_of(NAMESPACE, '.process.cwd = "/made/deep"'), before=OWNED, stdout="/made/deep\n0 0\n0 0\nwritten"),
    container("user-namespace-without-mappings", "echo ran", '.linux.namespaces += [{type: "user"}]', status=1, stdout="", complains=("[mM]appings|mapping",)),
    container("mount-with-mappings", SEEN, all_of(NAMESPACE, mapped("/v", "v", 100000, "bind")), before=OWNED, after=ON_DISK, stdout="0 0\n5 6\n7 8\n65535 0\ngiven 7 8\nmade 0 0\ntheirs 65535 0"),
    container("mount-shifted-recursively", SEEN, all_of(NAMESPACE, mapped("/v", "v", 100000, "rbind", "ridmap")), before=OWNED, after=ON_DISK, stdout="0 0\n5 6\n7 8\n65535 0\ngiven 7 8\nmade 0 0\ntheirs 65535 0"),
    container("mount-shifted-like-the-namespace", SEEN, all_of(NAMESPACE, '.mounts += [{destination: "/v", type: "bind", source: ($w + "/v"), options: ["bind", "idmap"]}]'), before=OWNED, after=ON_DISK, stdout="0 0\n5 6\n7 8\n65535 0\ngiven 7 8\nmade 0 0\ntheirs 65535 0"),
    container("mount-with-high-mappings-alone", "stat -c '%u %g' /v /v/given; touch /v/made", mapped("/v", "v", 100000, "bind"), before="mkdir $W/v; touch $W/v/given; chown 5:6 $W/v/given", after="stat -c '%u %g' $W/v/given", status=1, stdout="100000 100000\n100005 100006\n5 6", complains=("Value too large",)),
    container("mount-with-mappings-of-a-tmpfs", "echo ran", '.mounts += [{destination: "/t", type: "tmpfs", source: "t", options: ["size=1m"], uidMappings: [{containerID: 0, hostID: 1000, size: 1}], gidMappings: [{containerID: 0, hostID: 1000, size: 1}]}]', status=1, stdout="", complains=("bind",)),
    container(
        # The kernel locks what comes from outside.
        "user-namespace-keeps-the-flags-of-a-source",
        "for place in /v /fixed; do awk -v at=$place '$2 == at {print $4}' /proc/self/mounts | tr , '\\n' | grep -xE 'ro|nosuid|nodev|noexec' | sort; done",
        all_of(NAMESPACE, mount("/v", "bind", "$w/v", "rbind", "rw"), mount("/fixed", "bind", "$w/v", "bind", "ro")),
        before=CLOSED,
        stdout="noexec\nnosuid\nnoexec\nnosuid\nro",
    ),
    refused("user-namespace-cannot-lift-the-flags-of-a-source", all_of(NAMESPACE, mount("/v", "bind", "$w/v", "bind", "exec")), "/v", "operation not permitted", before=CLOSED),
    container(
        "user-namespace-of-several-lines",
        "id; tr -s ' ' </proc/self/uid_map; stat -c '%u %g' /bin/busybox; touch /x; chown 1500:7 /x; stat -c '%u %g' /x; ulimit -Hn; ulimit -l",
        all_of(
            '.linux.namespaces += [{type: "user"}] | .linux.uidMappings = [{containerID: 0, hostID: 100000, size: 1000}, {containerID: 1000, hostID: 300000, size: 1000}]',
            '.linux.gidMappings = [{containerID: 0, hostID: 100000, size: 5}, {containerID: 5, hostID: 200000, size: 5}]',
            '.process.rlimits = [{type: "RLIMIT_NOFILE", soft: 1000, hard: 1048576}, {type: "RLIMIT_MEMLOCK", soft: 18446744073709551615, hard: 18446744073709551615}]',
        ),
        before="chown -hR 100000:100000 $W/root",
        after="stat -c '%u %g' $W/root/x",
        says=("^uid=0.*\n 0 100000 1000\n 1000 300000 1000\n0 0\n1500 7\n1048576\nunlimited\n300500 200002",),
    ),
    container("mount-with-mappings-alone", "stat -c '%u %g' /v /v/given; touch /v/made", mapped("/v", "v", 1000, "bind"), before="mkdir $W/v; touch $W/v/given; chown 5:6 $W/v/given", after="stat -c '%u %g' $W/v/given", status=1, stdout="1000 1000\n1005 1006\n5 6", complains=("Value too large",)),
)


@each_fact(GROUPS)
def test_fact(group, fact, asker):
    asker.check(group, fact)


@each_group(GROUPS)
def test_ending(group, asker):
    asker.check_ending(group)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)


def expect(name, script, stdout, complains=""):
    answer, _ = shell.bash(script, {**BULKHEAD, "ID": name}, 150)
    if (answer.status, answer.stdout) != (0, stdout) or complains not in answer.stderr:
        fail(str(answer))


@pytest.mark.bulkhead
def test_the_pod_has_ranges_for_them_and_gives_them_back(nothing_left):
    expect(
        "user-namespace-ranges",
        f"""
        detached {MAPS} $BUSYBOX $ID sleep 1000
        record=$(cat /run/bulkhead/*/$ID/pod.json)
        jq -r '.host_id_ranges | length' <<<$record
        awk '{{print $1, $3}}' /proc/$(jq .vmm.pid <<<$record)/uid_map
        ls /run/bulkhead/.ids | wc -l
        gone; ls /run/bulkhead/.ids 2>/dev/null | wc -l""",
        "3\n0 65536\n100000 65536\n200000 65536\n4294901760 160\n3\n0\n",
    )


@pytest.mark.bulkhead
def test_too_many_ids_leave_the_host_s_or_are_refused(nothing_left):
    expect(
        "user-namespace-all",
        """
        detached --uidmap 0:0:4000000000 --gidmap 0:0:4000000000 $BUSYBOX $ID sleep 1000; jq -c .host_id_ranges /run/bulkhead/*/$ID/pod.json; gone
        ctr snapshot ls | grep -oE "^$ID\\S*" | xargs -r -n 1 ctr snapshot rm""",
        "[]\n",
    )


@pytest.mark.bulkhead
def test_ids_that_the_pod_did_not_begin_with_are_refused(nothing_left):
    expect(
        "user-namespace-later",
        f"""
        GROUP="--annotation io.containerd.bulkhead.v2.group=$ID"
        detached $GROUP $BUSYBOX $ID sleep 1000
        run $GROUP {MAPS} $BUSYBOX $ID-2 true && echo ran
        ctr container rm $ID-2 2>/dev/null; ctr snapshot ls | grep -oE "^$ID-2\\S*" | xargs -r -n 1 ctr snapshot rm; gone""",
        "",
        "id 100000, for which the container's user namespace or a mount has one of its own, is not among those that the pod began with",
    )
