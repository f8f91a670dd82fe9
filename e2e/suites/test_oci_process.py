"""The process of a specification: identity, rights, limits, environment, scheduling; and what of it cannot be."""

import pytest

from harness.answers import Case, Differs
from harness.facts import Fact, each_fact, each_group
from harness.oci import Spec, added, all_of, container, mount, refused

pytestmark = pytest.mark.in_turns

STATUS = "grep -E '^(Cap|Uid|Gid|Groups|NoNewPrivs)' /proc/self/status"
LIMITS = {
    "AS": 4 << 30,
    "CORE": 0,
    "CPU": 1000,
    "DATA": 2 << 30,
    "FSIZE": 4096,
    "LOCKS": 33,
    "MEMLOCK": 65536,
    "MSGQUEUE": 8192,
    "NICE": 3,
    "NOFILE": 40,
    "NPROC": 2000,
    "RSS": 1 << 30,
    "RTPRIO": 2,
    "RTTIME": 90000,
    "SIGPENDING": 77,
    "STACK": 1 << 20,
}


def limits():
    entries = ", ".join(f'{{type: "RLIMIT_{name}", soft: {value}, hard: {value + (name == "NOFILE") * 10}}}' for name, value in LIMITS.items())
    return f".process.rlimits = [{entries}]"


ROOT = Spec(
    "process-of-root",
    "",
    (
        Fact("groups", "id -G", "^0 100 101 .* 199$"),
        Fact("umask", "umask; touch /tmp/f; ls -l /tmp/f | cut -c1-10; mkdir /tmp/d; ls -ld /tmp/d | cut -c1-10", "0002\n-rw-rw-r--\ndrwxrwxr-x"),
        Fact("limits", "grep -v '^Limit' /proc/self/limits", "Max file size +4096 +4096 "),
        Fact("limit-of-file-size-acts", "head -c 9000 /dev/zero >/tmp/big; ls -l /tmp/big | awk '{print $5}'", "4096$"),
        Fact("limit-of-descriptors-acts", "ulimit -n; ulimit -Hn; (exec 39</dev/null && echo 39); exec 40</dev/null", "^40\n50\n39\n.*Bad file descriptor"),
        Fact("limits-go-down-only", "ulimit -Hn 45 && ulimit -Hn; ulimit -Hn 46; true", "45\n.*Operation not permitted"),
        Fact("oom-score", "cat /proc/self/oom_score_adj; echo 400 >/proc/self/oom_score_adj; cat /proc/self/oom_score_adj; echo 300 >/proc/self/oom_score_adj", "^321\n400"),
        Fact("bounding-capabilities", "grep -E '^Cap(Bnd|Eff|Prm|Inh|Amb)' /proc/self/status", "CapBnd:\t0000000000000021"),
        Fact("rights-act", "kill -0 1 && touch /tmp/k && chown 5 /tmp/k; chroot / true", "chroot"),
        Fact("working-folder", "pwd; ls -ld /tmp/deep | cut -c1-10", "^/tmp/deep/er\ndrwxr-xr-x"),
        Fact("repeated-variable", "echo $A; env | grep -c ^A=", "^2\n1"),
        Fact("empty-variable", "echo \"${EMPTY-unset}\"; env | grep ^EMPTY", "^\nEMPTY="),
        Fact("variable-of-two-lines", 'echo "$MULTI"', "^one\ntwo"),
        Fact("variable-in-unicode", "env | grep ^ÜNI; env | grep -c ^NO", "ÜNI=çödé"),
        Fact("long-variable", "echo ${#BIG}", "100000"),
        Fact("home-is-filled-in", "echo $HOME", "^/\n"),
        Fact("arguments", 'echo "$# <$1> <$2> <$3>"; echo ${#4}', "^4 <> <ünï ✓> <two\nlines>\n131000"),
        Fact("host-name", "hostname; cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname", "^chosen.example\nchosen.example\nexample.org"),
        Fact("streams", "for n in 0 1 2; do readlink /proc/1/fd/$n | sed 's/[0-9]*//g'; done", "pipe"),
    ),
    edit=all_of(
        ".process.user = {uid: 0, gid: 0, additionalGids: [range(100; 200)], umask: 2}",
        limits(),
        ".process.oomScoreAdj = 321",
        '.process.capabilities = {bounding: ["CAP_KILL", "CAP_CHOWN", "CAP_NO_SUCH"], effective: ["CAP_KILL", "CAP_CHOWN"], permitted: ["CAP_KILL", "CAP_CHOWN"]}',
        '.process.cwd = "/tmp/deep/er"',
        '.process.env += ["A=1", "A=2", "EMPTY=", "MULTI=one\\ntwo", "ÜNI=çödé", "BIG=" + ("x" * 100000)]',
        '.process.args += ["zero", "", "ünï ✓", "two\\nlines", "y" * 131000]',
        '.hostname = "chosen.example" | .domainname = "example.org"',
        '.annotations = {"org.example.a": "1", "run.oci.keep_original_groups": "0"}',
    ),
)

USER = Spec(
    "process-of-a-user",
    "",
    (
        Fact("rights", STATUS, "CapInh:\t0000000000000400\nCapPrm:\t0000000000000400\nCapEff:\t0000000000000400\n.*\nCapAmb:\t0000000000000400"),
        Fact("new-privileges-may-come", "grep NoNewPrivs /proc/self/status", "0$"),
        Fact("groups", "id -u; id -g; id -G", "^5\n6\n6 7 8"),
        Fact("low-port", "nc -l -p 80 -w 1 </dev/null >/dev/null 2>&1 & sleep 0.2; netstat -ltn | grep -c ':80 '; wait", "^1"),
        Fact("io-priority", "ionice -p 1", "best-effort: prio 6"),
        # Fields of proc_pid_stat(5): the nice value, and the policy, of which 3 is SCHED_BATCH.
        Fact("scheduler", "awk '{print $19, $41}' /proc/1/stat", "^5 3"),
        Fact("personality", "uname -m; cat /proc/1/personality", "^i686\n00000008", ),
        Fact("cgroup", "cat /proc/self/cgroup", "^0::/\n"),
        Fact("read-only-root", "touch /x; touch /tmp/y; echo z >/dev/shm/z; cat /dev/shm/z", "/x: Read-only file system\n.*Read-only file system\nz"),
        Fact("working-folder-of-the-user", "pwd", "^/\n"),
        Fact("home-of-a-user-without-entry", "echo $HOME", "^/\n"),
        Fact("own-streams", "echo through >/dev/stdout; ls -ln /proc/self/fd/1 | awk '{print $3}'", "through"),
    ),
    edit=all_of(
        ".process.user = {uid: 5, gid: 6, additionalGids: [7, 8]} | .process.noNewPrivileges = false",
        '.process.capabilities = {bounding: ["CAP_NET_BIND_SERVICE"], permitted: ["CAP_NET_BIND_SERVICE"], effective: ["CAP_NET_BIND_SERVICE"], inheritable: ["CAP_NET_BIND_SERVICE"], ambient: ["CAP_NET_BIND_SERVICE"]}',
        '.process.ioPriority = {class: "IOPRIO_CLASS_BE", priority: 6}',
        '.process.scheduler = {policy: "SCHED_BATCH", nice: 5}',
        '.linux.personality = {domain: "LINUX32"}',
        '.linux.namespaces += [{type: "cgroup"}]',
        ".root.readonly = true",
    ),
)

GROUPS = (ROOT, USER)

# One of these, by runc's version.
NOBODY = "[Ii]nvalid argument|must be in range|unmapped"

CASES = (
    container("no-capabilities", STATUS, ".process.capabilities = {} | .process.noNewPrivileges = false", says=("CapEff:\t0000000000000000\nCapBnd:\t0000000000000000",)),
    container("capabilities-not-named", STATUS, "del(.process.capabilities)", says=("CapEff:\t000001ffffffffff",)),
    added("process-added-without-capabilities-has-the-containers", "grep -E '^Cap(Eff|Bnd)' /proc/self/status", "del(.process.capabilities)", stdout="CapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\n-> 0"),
    added("process-added-with-no-capabilities", "grep -E '^Cap(Eff|Bnd)' /proc/self/status", ".process.capabilities = {}", stdout="CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n-> 0"),
    added(
        "process-added-is-scheduled-likewise",
        "uname -m; awk '{print $19, $41}' /proc/self/stat; ionice -p $$",
        '.linux.personality = {domain: "LINUX32"} | .process.scheduler = {policy: "SCHED_BATCH", nice: 5} | .process.ioPriority = {class: "IOPRIO_CLASS_BE", priority: 6}',
        stdout="i686\n5 3\nbest-effort: prio 6\n-> 0",
    ),
    container(
        "session-keyring",
        "awk -v name=\"_ses.$NAME:\" '$9 == name {print $5, $6, $7}' /proc/keys",
        '.process.env += ["NAME=" + $id] | .linux.maskedPaths -= ["/proc/keys"]',
        stdout="3f1b0000 0 0",
    ),
    refused("limit-unknown", '.process.rlimits = [{type: "RLIMIT_NO_SUCH", soft: 1, hard: 1}]', "RLIMIT_NO_SUCH"),
    refused("limit-soft-above-hard", '.process.rlimits = [{type: "RLIMIT_NOFILE", soft: 20, hard: 10}]', "invalid argument|RLIMIT_NOFILE"),
    refused("user-that-nobody-is", ".process.user = {uid: 4294967295, gid: 0}", NOBODY),
    refused("group-that-nobody-is-in", ".process.user = {uid: 0, gid: 4294967295}", NOBODY),
    refused("further-group-that-nobody-is-in", ".process.user = {uid: 0, gid: 0, additionalGids: [5, 4294967295]}", NOBODY),
    refused("no-arguments", ".process.args = []", "args"),
    refused("scheduler-unknown", '.process.scheduler = {policy: "SCHED_NO_SUCH"}', "SCHED_NO_SUCH"),
    refused("io-priority-unknown", '.process.ioPriority = {class: "IOPRIO_CLASS_NO_SUCH", priority: 1}', "IOPRIO_CLASS_NO_SUCH"),
    refused("personality-unknown", '.linux.personality = {domain: "NO_SUCH"}', "NO_SUCH|personality"),
    container("version-is-no-version", "echo it ran", '.ociVersion = "x"', stdout="it ran", differs=Differs("a version that the runtime specification does not have is refused", status=1, stdout="^$", stderr="incompatible version 'x'")),
    container("arguments-of-three-megabytes", "echo it ran", '.process.args += [range(24) | "y" * 131000]', status=255, stdout="", complains=("argument list too long",)),
    container("arguments-of-ten-megabytes", "echo it ran", '.process.args += [range(80) | "y" * 131000]', status=255, stdout="", complains=("argument list too long",), differs=Differs("a specification that does not fit into a message to the guest is refused when the container is made", status=1)),
    Case(
        "oci-working-folder-of-a-process-added-is-relative",
        """begin $BUSYBOX $ID sh -c "echo ready; exec sleep 1000"
        ctr task exec --exec-id added --cwd tmp $ID pwd; echo "-> $?"; ctr task kill -s KILL $ID; finish >/dev/null""",
        stdout="-> 1",
        complains=("Cwd must be an absolute path",),
    ),
    container("working-folder-in-a-tmpfs", "pwd; stat -c '%a %u %g' .; touch x && echo written", all_of(mount("/tmp", "tmpfs", "tmpfs"), '.process.cwd = "/tmp/build"'), stdout="/tmp/build\n755 0 0\nwritten"),
    container(
        "working-folder-of-a-user-is-roots",
        "pwd; stat -c '%a %u %g' . ..; umask; touch x",
        '.process.user = {uid: 5, gid: 6, umask: 63} | .process.capabilities = {} | .process.cwd = "/run/app/deep"',
        status=1,
        stdout="/run/app/deep\n755 0 0\n755 0 0\n0077",
        complains=("Permission denied",),
    ),
    container("working-folder-behind-a-link", "readlink /proc/self/cwd; readlink /link", '.process.cwd = "/link/new"', before="mkdir $W/root/outside; ln -s /outside $W/root/link", after="ls -A $W/root/outside", stdout="/outside/new\n/outside\nnew"),
    container("working-folder-behind-a-link-upwards", "readlink /proc/self/cwd", '.process.cwd = "/up/new"', before="mkdir $W/root/outside; ln -s ../../../../outside $W/root/up", after="[ -e /outside ] || echo nothing beside", stdout="/outside/new\nnothing beside"),
    container("working-folder-behind-a-link-into-a-tmpfs", "readlink /proc/self/cwd", '.process.cwd = "/var/run/app"', before="mkdir $W/root/var; ln -s /run $W/root/var/run", after="ls -A $W/root/run | wc -l", stdout="/run/app\n0"),
    container("working-folder-in-a-volume-on-a-tmpfs", "readlink /proc/self/cwd", all_of(mount("/t", "tmpfs", "tmpfs"), mount("/t/b", "bind", "$w/src", "bind"), '.process.cwd = "/t/b/new"'), before="mkdir $W/src", after="stat -c %a $W/src/new", stdout="/t/b/new\n755"),
    container("working-folder-of-a-read-only-root", "readlink /proc/self/cwd; touch x", '.root.readonly = true | .process.cwd = "/new/deep"', status=1, stdout="/new/deep", complains=("Read-only file system",)),
    container("working-folder-in-a-read-only-tmpfs", "readlink /proc/self/cwd; touch x", all_of(mount("/t", "tmpfs", "tmpfs", "ro"), '.process.cwd = "/t/new"'), status=1, stdout="/t/new", complains=("Read-only file system",)),
    refused("working-folder-in-a-read-only-volume", all_of(mount("/b", "bind", "$w/src", "bind", "ro"), '.process.cwd = "/b/new"'), "[Rr]ead-only file system", before="mkdir $W/src", after="ls -A $W/src"),
    refused("working-folder-behind-a-link-to-nowhere", '.process.cwd = "/link/x"', "file exists|not a directory", before="mkdir $W/beside; ln -s $W/beside $W/root/link", after="ls -A $W/beside"),
    container("root-is-missing", "true", '.root.path = $w + "/no/root"', status=1, complains=("/no/root",)),
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
