"""The Linux section of a specification and its hooks: namespaces, cgroup, devices, kernel parameters, paths, seccomp."""

import pytest

from harness.answers import Case, Differs
from harness.facts import Fact, each_fact, each_group
from harness.oci import ROOT, Spec, added, all_of, container, mount, refused

pytestmark = pytest.mark.in_turns

OWN_CGROUP = '.linux.namespaces += [{type: "cgroup"}]'
CGROUP = all_of(OWN_CGROUP, mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro"))
OTHER_TIME = '.linux.namespaces += [{type: "time"}] | .linux.timeOffsets = {boottime: {secs: 200000000, nanosecs: 0}, monotonic: {secs: 5, nanosecs: 0}}'


def node(path, kind, major, minor, mode=0o600, owner=(0, 0)):
    return f'.linux.devices += [{{path: "{path}", type: "{kind}", major: {major}, minor: {minor}, fileMode: {mode}, uid: {owner[0]}, gid: {owner[1]}}}]'


def rule(allow, kind, major, minor, access):
    return f'.linux.resources.devices += [{{allow: {allow}, type: "{kind}", major: {major}, minor: {minor}, access: "{access}"}}]'


# $MINOR is the number of a loop device of 1 MiB, which goes with the case.
LOOP = """
truncate -s 1M $W/image && LOOP=$(losetup -f --show $W/image) || exit 98
trap 'losetup -d $LOOP' EXIT
export MINOR=${LOOP#/dev/loop}
"""
LOOP_NODE = '.linux.devices += [{path: "/dev/disk", type: "b", major: 7, minor: ($ENV.MINOR | tonumber), fileMode: 384, uid: 0, gid: 0}]'
ANY_LOOP = '.linux.resources.devices += [{allow: %s, type: "b", major: 7, access: "%s"}]'

BOUNDS = Spec(
    "linux-bounds",
    "",
    (
        Fact("cgroup-of-its-own", "cat /proc/self/cgroup; head -n 1 /sys/fs/cgroup/cgroup.procs", "^0::/\n1"),
        Fact("unified-keys", "cat /sys/fs/cgroup/memory.high /sys/fs/cgroup/memory.low", "^50331648\n1048576"),
        Fact("memory", "cat /sys/fs/cgroup/memory.max", "^67108864"),
        Fact("processes", "cat /sys/fs/cgroup/pids.max", "^44"),
        Fact("huge-pages", "cat /sys/fs/cgroup/hugetlb.2MB.max /sys/fs/cgroup/hugetlb.2MB.rsvd.max", "^4194304\n4194304"),
        Fact("groups-below", "cat /sys/fs/cgroup/cgroup.max.depth /sys/fs/cgroup/cgroup.max.descendants", "^max\nmax", "^64\n4096", "the agent goes through a container's groups"),
        Fact("processor", "cat /sys/fs/cgroup/cpu.max", "^20000 50000"),
        Fact("processor-weight", "cat /sys/fs/cgroup/cpu.weight", "^[0-9]+$"),
        Fact("cgroup-is-closed", "mkdir /sys/fs/cgroup/x; echo 1 >/sys/fs/cgroup/pids.max; true", "Read-only.*\n.*Read-only"),
        Fact("device-is-made", "ls -ln /dev/extra | awk '{print $1, $3, $4, $5, $6}'; head -c 1 /dev/extra | wc -c", "crw-r----- 7 8 1, 5\n1"),
        Fact("device-in-a-folder", "ls -l /dev/some/where/null | awk '{print $1, $5, $6}'; echo x >/dev/some/where/null && echo written", "crw-rw-rw- 1, 3\nwritten"),
        Fact("device-that-is-a-fifo", "stat -c %F /dev/pipe; (echo x >/dev/pipe &); cat /dev/pipe", "^fifo\nx"),
        Fact("device-that-is-unbuffered", "ls -l /dev/unbuffered | awk '{print $1, $5, $6}'", "1, 7"),
        Fact("devices-that-are-always-there", "for d in null zero full random urandom tty; do stat -c '%n %a' /dev/$d; done; [ -e /dev/mem ] || echo no memory", "no memory"),
        Fact("device-not-allowed", "mknod /dev/mem c 1 1; head -c 1 /dev/mem; true", "Operation not permitted"),
        Fact("device-that-is-always-allowed", "head -c 1 /dev/urandom | wc -c", "^1"),
        Fact("device-allowed-for-one-way", "(: </dev/fuse) && echo read; (: >/dev/fuse) && echo written; true", "not permitted\nwritten|read\n.*not permitted"),
        Fact("kernel-parameters", "cat /proc/sys/kernel/shmmax /proc/sys/kernel/sem /proc/sys/fs/mqueue/msg_max", "^1000000\n100\t200\t30\t40\n20"),
        Fact("network-parameters", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/conf/lo/forwarding; cat /proc/sys/net/ipv4/ping_group_range", "^1\n777\n1\n0\t5"),
        Fact("masked-paths", "cat /etc/passwd; ls /tmp; ls -la /tmp | wc -l; echo x >/etc/passwd; echo x >/tmp/x; true", "Read-only|denied|^"),
        Fact("read-only-paths", "touch /etc/x; touch /etc/passwd; echo done", "Read-only file system"),
        Fact("masked-path-behind-a-link", "ls -d /missing", "No such file"),
        Fact("time-of-boot-is-shifted", "cut -d. -f1 /proc/uptime | awk '{print ($1 > 200000000)}'; cat /proc/self/timens_offsets | tr -s ' '", "^1\nmonotonic 5 0\nboottime 200000000 0"),
        Fact("namespaces", "ls /proc/self/ns | tr '\\n' ' '", "cgroup ipc mnt net pid"),
    ),
    edit=all_of(
        CGROUP,
        '.linux.resources.unified = {"memory.high": "50331648", "memory.low": "1048576", "pids.max": "44"}',
        ".linux.resources.memory.limit = 67108864 | .linux.resources.cpu = {shares: 512, quota: 20000, period: 50000}",
        '.linux.resources.hugepageLimits = [{pageSize: "2MB", limit: 4194304}]',
        node("/dev/extra", "c", 1, 5, 0o640, (7, 8)),
        node("/dev/some/where/null", "c", 1, 3, 0o666),
        node("/dev/pipe", "p", 0, 0, 0o666),
        node("/dev/unbuffered", "u", 1, 7),
        node("/dev/fuse", "c", 10, 229),
        rule("true", "c", 10, 229, "w"),
        rule("false", "c", 1, 9, "rwm"),
        '.linux.sysctl = {"kernel.shmmax": "1000000", "kernel.sem": "100 200 30 40", "fs.mqueue.msg_max": "20", "net.ipv4.ip_forward": "1", "net.core.somaxconn": "777", "net/ipv4/conf/lo/forwarding": "1", "net.ipv4.ping_group_range": "0 5"}',
        '.linux.maskedPaths += ["/etc/passwd", "/tmp", "/no/such"]',
        '.linux.readonlyPaths += ["/etc", "/no/such"]',
        OTHER_TIME,
        '.process.capabilities |= map_values(. + ["CAP_MKNOD"])',
    ),
)

MAPPED = Spec(
    "linux-user-namespace",
    "",
    (
        Fact("maps", "tr -s ' ' </proc/self/uid_map; tr -s ' ' </proc/self/gid_map", "^ 0 10000 1000\n 0 20000 1000"),
        Fact("identity", "id -u; id -g; cat /proc/self/setgroups", "^0\n0\nallow"),
        Fact("owners", "ls -ln /bin/busybox /owned | awk '{print $3, $4}'", "^0 0\n5 6"),
        Fact("writing", "touch /tmp/x && chown 7:8 /tmp/x && stat -c '%u %g' /tmp/x; chown 5000 /tmp/x", "^7 8\n.*Invalid argument"),
        Fact("devices", "echo x >/dev/null && head -c 1 /dev/zero | wc -c", "^1"),
        Fact("rights", "grep CapEff /proc/self/status; mknod /tmp/n c 1 3; true", "CapEff"),
        Fact("copied-up", "stat -c '%u %g' /copied /copied/file; touch /copied/new && stat -c '%u %g' /copied/new; stat -c '%u %g' /given", "^0 0\n5 6\n0 0\n7 8"),
        Fact("mounts", "ls /proc/1/comm; awk '$2 == \"/dev/mqueue\" {print $3}' /proc/self/mounts", "/proc/1/comm\nmqueue"),
    ),
    before="chown -hR 10000:20000 $W/root; touch $W/root/owned; chown 10005:20006 $W/root/owned; mkdir $W/root/copied; : >$W/root/copied/file; chown 10000:20000 $W/root/copied; chown 10005:20006 $W/root/copied/file; chmod 711 /var/tmp/case-* 2>/dev/null",
    edit=all_of(mount("/copied", "tmpfs", "tmpfs", "tmpcopyup"), mount("/given", "tmpfs", "tmpfs", "sync", "uid=7", "gid=8"))
    + ' | .mounts |= map(select(.type != "sysfs")) | .linux.namespaces += [{type: "user"}] | .linux.uidMappings = [{containerID: 0, hostID: 10000, size: 1000}] | .linux.gidMappings = [{containerID: 0, hostID: 20000, size: 1000}]',
)


def call(names, action, **more):
    parts = [f'names: {names!r}'.replace("'", '"'), f'action: "SCMP_ACT_{action}"'] + [f"{key}: {value}" for key, value in more.items()]
    return "{" + ", ".join(parts) + "}"


def argument(index, op, value, second=0):
    return f'[{{index: {index}, value: {value}, valueTwo: {second}, op: "SCMP_CMP_{op}"}}]'


CALLS = ", ".join(
    (
        call(["mkdir", "mkdirat"], "ERRNO", errnoRet=13),
        call(["rmdir", "unlinkat"], "ERRNO"),
        call(["mknod", "mknodat"], "KILL_PROCESS"),
        call(["link", "linkat"], "KILL"),
        call(["symlink", "symlinkat"], "TRAP"),
        call(["fchownat", "chown", "lchown"], "LOG"),
        call(["sethostname"], "TRACE", errnoRet=7),
        call(["kill"], "ERRNO", errnoRet=16, args=argument(1, "EQ", 10)),
        call(["kill"], "ERRNO", errnoRet=11, args=argument(1, "GT", 60)),
        # Mode bits 06000 equal to 04000: set-user-id alone.
        call(["chmod", "fchmodat"], "ERRNO", errnoRet=30, args=argument(1, "MASKED_EQ", 0o6000, 0o4000)),
        call(["setpriority"], "ERRNO", errnoRet=22, args=argument(2, "NE", 3)),
        call(["no_such_call", "sync"], "ALLOW"),
    )
)

FILTERED = Spec(
    "linux-seccomp",
    "",
    (
        Fact("filter-is-on", "grep -E '^Seccomp:' /proc/self/status", "2$"),
        Fact("errno-of-its-own", "mkdir /tmp/x; true", "Permission denied"),
        Fact("errno-by-default", "rmdir /sys/x; true", "Operation not permitted"),
        Fact("process-is-killed", "mknod /tmp/p p; echo $?", "159"),
        Fact("thread-is-killed", "ln /etc/passwd /tmp/l; echo $?", "159"),
        Fact("trap", "ln -s x /tmp/s; echo $?", "159"),
        Fact("logged-call-works", "touch /tmp/c; chown 0 /tmp/c && echo fine", "^fine"),
        Fact("traced-call-without-tracer", "hostname x; true", "Function not implemented"),
        Fact("argument-equal", "kill -10 $$; kill -0 $$ && echo others", "(busy|Device or resource busy)\nothers"),
        Fact("argument-greater", "kill -61 1; kill -60 99999; true", "temporarily unavailable\n.*No such process"),
        Fact("argument-masked", "touch /tmp/m; for mode in 755 2755 4755 6755; do chmod $mode /tmp/m && echo $mode; done; true", "^755\n2755\n.*Read-only file system\n6755"),
        Fact("argument-not-equal", "renice 3 -p $$ && echo three; renice 4 -p $$; true", "three\n.*Invalid argument"),
        Fact("unknown-names-are-ignored", "sync && echo synced", "^synced"),
    ),
    edit=f'.linux.seccomp = {{defaultAction: "SCMP_ACT_ALLOW", architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], flags: ["SECCOMP_FILTER_FLAG_LOG"], syscalls: [{CALLS}]}} | .process.capabilities |= map_values(. + ["CAP_SYS_ADMIN"]) | .process.rlimits = [{{type: "RLIMIT_CORE", soft: 0, hard: 0}}]',
)

HOOK = """
cat >$W/hook <<'END'
#!/bin/bash
state=$(cat)
echo "$1: $(jq -r '[(.status | if . == "running" then "created" else . end), (.pid // 0) > 0, .annotations.a] | join(" ")' <<<"$state") $([[ $(jq -r .id <<<"$state") == "$2" && -f $(jq -r .bundle <<<"$state")/config.json ]] && echo known) $GREETING" >>"${0%/*}/hooks"
END
chmod 755 $W/hook
"""


def hook(name, *more, path='$w + "/hook"', extra=""):
    return f'.annotations.a = "noted" | .hooks.{name} += [{{path: ({path}), args: ["hook", "{name}", $id], env: ["PATH=/usr/bin:/bin", "GREETING=hello {name}"]{extra}}}]'


HOOKED = Spec(
    "linux-hook-of-the-container",
    "",
    (
        Fact("it-runs-before-the-program", "cat /tmp/hooks", "^startContainer hello startContainer 1"),
        Fact("its-state", "grep -oE '\"(id|pid|bundle|ociVersion|annotations)\"' /tmp/state | sort -u", "annotations.\n.bundle.\n.id.\n.ociVersion.\n.pid"),
        Fact("its-status", "grep -oE '\"status\": *\"[a-z]*' /tmp/state", "created"),
    ),
    before="""printf '#!/bin/sh\\ncat >/tmp/state; echo "$1 $GREETING $(grep -c status /tmp/state)" >>/tmp/hooks\\n' >$W/root/tmp/hook; chmod 755 $W/root/tmp/hook""",
    edit=hook("startContainer", path='"/tmp/hook"'),
)

# A hook that tells the environment that it begins with.
BARE_HOOK = """
cat >$W/hook <<'END'
#!/bin/bash
tr '\\0' '\\n' <"/proc/$$/environ" | grep ^PATH= >"${0%/*}/hooks"
END
chmod 755 $W/hook
"""

GROUPS = (BOUNDS, MAPPED, FILTERED, HOOKED)

FAILING = "printf '#!/bin/sh\\necho broken on purpose >&2; exit 3\\n' >$W/hook; chmod 755 $W/hook"

CASES = (
    container(
        "hooks-of-the-host",
        "echo in the container",
        all_of(*(hook(name) for name in ("prestart", "createRuntime", "poststart", "poststop"))),
        before=HOOK,
        after="for n in 1 2 3 4 5 6 7 8 9; do grep -q poststop $W/hooks && break; sleep 0.3; done; cat $W/hooks",
        says=("in the container\n", "prestart: creat(ed|ing) true noted known hello prestart\ncreateRuntime: creat(ed|ing) true noted known hello createRuntime\n", "poststart: created true noted known hello poststart", "poststop: stopped .* hello poststop"),
    ),
    container("hook-after-the-end-runs-once", "echo ran", hook("poststop"), before=HOOK, after="sleep 2; grep -c poststop $W/hooks", stdout="ran\n1"),
    container("hook-without-an-environment", "echo in the container", '.hooks.prestart = [{path: ($w + "/hook"), args: ["hook"]}]', before=BARE_HOOK, after="cat $W/hooks", says=("in the container\nPATH=.*/usr/bin",)),
    container("hook-before-the-container", "echo ran", hook("createContainer"), before=HOOK, stdout="ran", differs=Differs("createContainer hooks are programs of the host in namespaces that are not on this host", status=1, stdout="^$", stderr="createContainer")),
    refused("hook-fails", hook("createRuntime"), "hook", before=FAILING),
    refused("hook-is-missing", hook("createRuntime", path='"/no/such/hook"'), "/no/such/hook"),
    refused("hook-that-hangs", hook("createRuntime", extra=", timeout: 1"), "hook", before="printf '#!/bin/sh\\nexec sleep 20\\n' >$W/hook; chmod 755 $W/hook"),
    container("hook-of-the-container-fails", "echo it ran", hook("startContainer", path='"/tmp/hook"'), before=FAILING.replace("$W/hook", "$W/root/tmp/hook"), status=255, stdout="", complains=("startContainer", "broken on purpose")),
    container("hook-after-the-start-fails", "sleep 1; echo it ran", hook("poststart"), before=FAILING, status=1, stdout="", complains=("",), differs=Differs("the specification wants a poststart hook that fails to be logged, and the container to live on", status=0, stdout="^it ran")),
    container(
        "block-io-limits-act-on-the-host",
        "echo ran",
        """.linux.resources.blockIO = {weight: 500, throttleReadBpsDevice: [{major: 254, minor: 0, rate: 1048576}], throttleWriteIOPSDevice: [{major: 254, minor: 0, rate: 77}]}
            | .hooks.createRuntime = [{path: "/bin/sh", args: ["sh", "-c", "cd /sys/fs/cgroup/default/\\($id) && cat io.max io.weight >\\($w)/io"]}]""",
        after="cat $W/io",
        stdout="ran\n254:0 rbps=1048576 wbps=max riops=max wiops=77\ndefault 4950",
    ),
    container(
        "shares-act-on-the-host",
        "echo ran",
        """.linux.resources.cpu = {shares: 512}
            | .hooks.createRuntime = [{path: "/bin/sh", args: ["sh", "-c", "cat /sys/fs/cgroup/default/\\($id)/cpu.weight >\\($w)/weight"]}]""",
        after="cat $W/weight",
        stdout="ran\n59",
    ),
    container(
        "unified-limits-act-on-the-host",
        "grep . /sys/fs/cgroup/memory.high",
        all_of(
            CGROUP,
            """.linux.resources.unified = {"io.max": "254:0 riops=55", "cpuset.cpus": "0", "memory.high": "104857600"}
            | .hooks.createRuntime = [{path: "/bin/sh", args: ["sh", "-c", "cd /sys/fs/cgroup/default/\\($id) && cat io.max cpuset.cpus >\\($w)/limits"]}]""",
        ),
        after="cat $W/limits",
        stdout="104857600\n254:0 rbps=max wbps=max riops=55 wiops=max\n0",
    ),
    refused("unified-key-of-the-host-leads-out", '.linux.resources.unified = {"io.x/../../pids.max": "max"}', "io.x/../../pids.max"),
    refused("block-io-device-missing", ".linux.resources.blockIO = {throttleReadBpsDevice: [{major: 240, minor: 99, rate: 1048576}]}", "io.max", "240:99|[Nn]o such device"),
    container("user-namespace-with-sysfs", "ls -d /sys/kernel; touch /sys/x", '.linux.namespaces += [{type: "user"}] | .linux.uidMappings = [{containerID: 0, hostID: 10000, size: 1000}] | .linux.gidMappings = [{containerID: 0, hostID: 10000, size: 1000}]', before="chown -hR 10000:10000 $W/root", status=1, stdout="/sys/kernel", complains=("Read-only file system|Permission denied",)),
    container("read-only-path-stays-executable", "/bin/busybox echo it runs; echo x >>/bin/busybox", '.linux.readonlyPaths += ["/bin/busybox"]', status=1, stdout="it runs", complains=("Read-only file system|Text file busy",)),
    added(
        "process-added-where-groups-are-nested",
        "cat /proc/self/cgroup",
        all_of(OWN_CGROUP, mount("/sys/fs/cgroup", "cgroup", "cgroup", "rw")),
        first="cd /sys/fs/cgroup && mkdir inner && echo 1 >inner/cgroup.procs && echo +pids >cgroup.subtree_control",
        stdout="0::/inner\n-> 0",
    ),
    container(
        "groups-nested-deeply",
        "cd /sys/fs/cgroup; n=0; while [ $n -lt 40 ]; do mkdir one-below-the-other-$n && cd one-below-the-other-$n; n=$((n + 1)); done; echo 1 >cgroup.procs; tr / '\\n' </proc/self/cgroup | grep -c below",
        all_of(OWN_CGROUP, mount("/sys/fs/cgroup", "cgroup", "cgroup", "rw")),
        stdout="40",
    ),
    container(
        # Whoever mounts cgroups where there is no namespace could take these from the whole guest.
        "cgroups-without-a-namespace-keep-their-options",
        "grep ' /sys/fs/cgroup ' /proc/self/mounts | grep -oE 'nsdelegate|memory_recursiveprot'; echo x >/sys/fs/cgroup/cgroup.procs",
        mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro"),
        status=1,
        stdout="",
        complains=("Read-only file system",),
        differs=Differs("the guest mounts its cgroups with these options, the test host does not", stdout="^nsdelegate\nmemory_recursiveprot$"),
    ),
    added("process-added-to-a-time-namespace", "cut -d. -f1 /proc/uptime | awk '{print ($1 > 200000000)}'", OTHER_TIME, stdout="1\n-> 0"),
    container("device-rule-for-any-number-allows", "cat /dev/disk | wc -c; echo x >/dev/disk", all_of(LOOP_NODE, ANY_LOOP % ("true", "r")), before=LOOP, status=1, stdout="1048576", complains=("Operation not permitted",)),
    container("device-rule-for-any-number-forbids", "cat /dev/disk | wc -c; echo x >/dev/disk", all_of(LOOP_NODE, ANY_LOOP % ("true", "rwm"), ANY_LOOP % ("false", "w")), before=LOOP, status=1, stdout="1048576", complains=("Operation not permitted",)),
    container("processor-burst", "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu.max.burst", all_of(CGROUP, ".linux.resources.cpu = {quota: 20000, period: 50000, burst: 15000}"), stdout="20000 50000\n15000"),
    refused("processor-burst-above-the-quota", ".linux.resources.cpu = {quota: 20000, period: 50000, burst: 30000}", r"cpu\.max", "[Ii]nvalid argument"),
    refused("swap-without-a-limit", ".linux.resources.memory = {swap: 1000000}", "swap"),
    refused("swap-below-the-limit", ".linux.resources.memory = {limit: 50000000, swap: 1000000}", "swap"),
    refused("huge-pages-of-no-size", '.linux.resources.hugepageLimits = [{pageSize: "3MB", limit: 0}]', "3MB"),
    refused("unified-key-unknown", '.linux.resources.unified = {"no.such.key": "1"}', "no.such.key"),
    refused("unified-key-leads-out", '.linux.resources.unified = {"../pids.max": "max"}', "../pids.max"),
    refused("kernel-parameter-unknown", '.linux.sysctl = {"net.no.such": "1"}', "no.such|no/such"),
    refused("kernel-parameter-bad-value", '.linux.sysctl = {"net.core.somaxconn": "many"}', "somaxconn", "[Ii]nvalid argument"),
    refused("kernel-parameter-of-no-namespace", '.linux.sysctl = {"vm.swappiness": "1"}', "vm.swappiness"),
    refused("seccomp-action-unknown", '.linux.seccomp = {defaultAction: "SCMP_ACT_NO_SUCH"}', "SCMP_ACT_NO_SUCH"),
    container("seccomp-listener-that-nothing-asks-for", "echo ran", '.linux.seccomp = {defaultAction: "SCMP_ACT_ALLOW", listenerPath: "/no/such/listener", listenerMetadata: "x"}', stdout="ran"),
    refused("seccomp-architecture-unknown", '.linux.seccomp = {defaultAction: "SCMP_ACT_ALLOW", architectures: ["SCMP_ARCH_NO_SUCH"]}', "SCMP_ARCH_NO_SUCH"),
    refused("namespace-unknown", '.linux.namespaces += [{type: "no-such"}]', "no-such"),
    refused("namespace-twice", '.linux.namespaces += [{type: "pid"}]', "pid|duplicate|[Nn]amespace"),
    refused("namespace-path-missing", '.linux.namespaces |= map(if .type == "ipc" then .path = "/no/such/ns" else . end)', "/no/such/ns"),
    refused("time-without-its-namespace", '.linux.timeOffsets = {boottime: {secs: 5, nanosecs: 0}}', "time"),
    refused("device-of-unknown-kind", node("/dev/odd", "x", 1, 5), "x|/dev/odd|device"),
    refused("propagation-unknown", '.linux.rootfsPropagation = "no-such"', "no-such"),
    refused("intel-rdt", '.linux.intelRdt = {closID: "x", l3CacheSchema: "L3:0=f"}', "intelRdt|Intel RDT|intel"),
    container("processes-hit-the-limit", "n=0; while [ $n -lt 20 ]; do sleep 5 & n=$((n + 1)); done; echo all", ".linux.resources.pids.limit = 10", status=2, stdout="", complains=("fork",)),
    container("memory-hits-the-limit", "head -c 100000000 /dev/zero | tail -c 90000000 | wc -c; echo $?; grep ^oom_kill /sys/fs/cgroup/memory.events", all_of(CGROUP, ".linux.resources.memory = {limit: 33554432, swap: 33554432}"), says=("^0\n0\noom_kill 1",), complains=("",)),
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
