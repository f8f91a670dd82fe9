"""Fields of the runtime specification, one by one, in a root folder that lies ready; and specifications that are wrong."""

import json

import pytest

from harness.answers import Case

# spec EDIT: config.json with a root of its own, changed by a jq expression. shell SCRIPT [EDIT]: runs the script in it.
ROOT = """
mkdir -p $W/root/bin $W/root/proc $W/root/sys $W/root/dev $W/root/etc $W/root/tmp; chmod 1777 $W/root/tmp
cp /usr/bin/busybox $W/root/bin/busybox
for name in $(busybox --list); do [ -e $W/root/bin/$name ] || ln -s busybox $W/root/bin/$name; done
echo 'root:x:0:0::/:/bin/sh' >$W/root/etc/passwd
spec() { ctr oci spec | jq --arg root "$W/root" --arg id "$ID" --arg w "$W" '.root = {path: $root} | .linux.cgroupsPath = "/default/" + $id | .process.env = ["PATH=/bin"] | '"$1" >$W/spec.json; }
shell() { spec '.process.args = ["sh", "-c", $ENV.SCRIPT] | '"${1:-.}" && run --config $W/spec.json $ID; }
"""


def inside(name, script, edit=".", **expected):
    """A case that runs script in a container whose spec is changed by edit."""
    return Case(f"oci-{name}", f"{ROOT}\nexport SCRIPT=$(cat <<'END'\n{script}\nEND\n)\nshell {shlex_quote(edit)}", **expected)


def shlex_quote(text):
    return "'" + text.replace("'", "'\\''") + "'"


def mount(destination, kind, source, *options):
    entry = {"destination": destination, "type": kind, "source": source, "options": list(options)}
    return ".mounts += [" + json.dumps(entry).replace('"$w', '$w + "') + "]"


STATUS = "grep -E '^(Cap|Uid|Gid|Groups|NoNewPrivs|Seccomp:)' /proc/self/status"

CASES = (
    inside("ambient-capabilities", STATUS, '.process.user = {uid: 5, gid: 6} | .process.capabilities.ambient = ["CAP_NET_BIND_SERVICE"] | .process.capabilities.inheritable = ["CAP_NET_BIND_SERVICE"]', says=("CapAmb:\t0000000000000400",)),
    inside("bounding-capabilities", STATUS, '.process.capabilities.bounding = ["CAP_KILL"] | .process.capabilities.effective = ["CAP_KILL"] | .process.capabilities.permitted = ["CAP_KILL"]', says=("CapBnd:\t0000000000000020",)),
    inside("no-capabilities", STATUS, ".process.capabilities = {}", says=("CapBnd:\t0000000000000000",)),
    inside("new-privileges", STATUS, ".process.noNewPrivileges = false", says=("NoNewPrivs:\t0",)),
    inside("many-groups", "id -G", ".process.user = {uid: 0, gid: 0, additionalGids: [range(100; 200)]}", says=("^0 100 101 .* 199$",)),
    inside("umask", "umask; touch /tmp/f; ls -l /tmp/f | cut -c1-10; mkdir /tmp/d; ls -ld /tmp/d | cut -c1-10", ".process.user.umask = 2", stdout="0002\n-rw-rw-r--\ndrwxrwxr-x"),
    inside("rlimits", "ulimit -n; ulimit -Hn; ulimit -u; ulimit -c; ulimit -v; ulimit -s; ulimit -l", '.process.rlimits = [{type: "RLIMIT_NOFILE", soft: 10, hard: 20}, {type: "RLIMIT_NPROC", soft: 30, hard: 40}, {type: "RLIMIT_CORE", soft: 0, hard: 0}, {type: "RLIMIT_AS", soft: 1073741824, hard: 1073741824}, {type: "RLIMIT_STACK", soft: 1048576, hard: 1048576}, {type: "RLIMIT_MEMLOCK", soft: 65536, hard: 65536}]', stdout="10\n20\n30\n0\n1048576\n1024\n64"),
    inside("rlimit-unknown", "true", '.process.rlimits = [{type: "RLIMIT_NO_SUCH", soft: 1, hard: 1}]', status=1, complains=("RLIMIT_NO_SUCH",)),
    inside("rlimit-soft-above-hard", "ulimit -n", '.process.rlimits = [{type: "RLIMIT_NOFILE", soft: 20, hard: 10}]', status=1, complains=("invalid argument|soft",)),
    inside("oom-score", "cat /proc/self/oom_score_adj", ".process.oomScoreAdj = -500", stdout="-500"),
    inside("io-priority", "ionice -p 1", '.process.ioPriority = {class: "IOPRIO_CLASS_BE", priority: 6}', stdout="best-effort: prio 6"),
    inside("scheduler-batch", "chrt -p 1; nice", '.process.scheduler = {policy: "SCHED_BATCH", nice: 5}', says=("SCHED_BATCH",)),
    inside("personality", "uname -m; cat /proc/self/personality", '.linux.personality = {domain: "LINUX32"}', says=("^i686|^x86_64",)),
    inside("domainname", "cat /proc/sys/kernel/domainname", '.domainname = "example.org"', stdout="example.org"),
    inside("hostname", "hostname; cat /proc/sys/kernel/hostname", '.hostname = "chosen.example"', stdout="chosen.example\nchosen.example"),
    inside("time-namespace", "cut -d. -f1 /proc/uptime | awk '{print ($1 > 100000000)}'", '.linux.namespaces += [{type: "time"}] | .linux.timeOffsets = {boottime: {secs: 200000000, nanosecs: 0}, monotonic: {secs: 5, nanosecs: 0}}', stdout="1"),
    inside("user-namespace", "id -u; cat /proc/self/uid_map; ls -ln /bin/busybox | awk '{print $3}'", '.linux.namespaces += [{type: "user"}] | .linux.uidMappings = [{containerID: 0, hostID: 0, size: 1000}] | .linux.gidMappings = [{containerID: 0, hostID: 0, size: 1000}]', says=("^0\n +0 +0 +1000\n0",)),
    inside("cgroup-namespace", "cat /proc/self/cgroup", '.linux.namespaces += [{type: "cgroup"}]', stdout="0::/"),
    inside("masked-path", "cat /etc/passwd; ls /tmp; echo x >/etc/passwd", '.linux.maskedPaths += ["/etc/passwd", "/tmp", "/no/such"]', stdout="", complains=("",)),
    inside("read-only-path", "echo x >>/etc/passwd; touch /tmp/x; echo done", '.linux.readonlyPaths += ["/etc", "/no/such"]', stdout="done", complains=("Read-only file system",)),
    inside("read-only-root", "touch /x; touch /tmp/y; echo z >/dev/shm/z; cat /dev/shm/z", ".root.readonly = true", stdout="z", complains=("/x: Read-only file system", "/tmp/y: Read-only file system")),
    inside("cwd-is-made", "pwd", '.process.cwd = "/tmp/deep/er"', stdout="/tmp/deep/er"),
    inside("cwd-relative", "pwd", '.process.cwd = "tmp"', status=1, complains=("absolute|Cwd|cwd",)),
    inside("environment", "env | sort; echo \"$MULTI\"", '.process.env += ["A=1", "A=2", "EMPTY=", "MULTI=one\\ntwo", "ÜNI=çödé"]', says=("A=2\n", "EMPTY=\n", "ÜNI=çödé", "one\ntwo")),
    inside("huge-environment", "echo ${#BIG}", '.process.env += ["BIG=" + ("x" * 100000)]', stdout="100000"),
    inside("unified-keys", "cat /sys/fs/cgroup/memory.high /sys/fs/cgroup/pids.max", '.linux.namespaces += [{type: "cgroup"}] | .linux.resources.unified = {"memory.high": "50331648", "pids.max": "44"} | ' + mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro"), stdout="50331648\n44"),
    inside("unified-unknown-key", "true", '.linux.resources.unified = {"no.such.key": "1"}', status=1, complains=("no.such.key|no such",)),
    inside("pids-limit-acts", "n=0; while [ $n -lt 20 ]; do sleep 5 & n=$((n + 1)); done; echo all", ".linux.resources.pids.limit = 10", status=2, complains=("fork",)),
    inside("cpu-weight-and-quota", "cd /sys/fs/cgroup; cat cpu.max; [ -s cpu.weight ] && echo weight", '.linux.namespaces += [{type: "cgroup"}] | .linux.resources.cpu = {shares: 512, quota: 20000, period: 50000} | ' + mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro"), stdout="20000 50000\nweight"),
    inside("device-allowed", "ls -l /dev/extra | awk '{print $1, $5, $6}'; head -c 1 /dev/extra | wc -c", '.linux.devices = [{path: "/dev/extra", type: "c", major: 1, minor: 5, fileMode: 384, uid: 0, gid: 0}] | .linux.resources.devices += [{allow: true, type: "c", major: 1, minor: 5, access: "rwm"}]', stdout="crw------- 1, 5\n1"),
    inside("device-denied", "mknod /dev/mem9 c 1 1; head -c 1 /dev/mem9; echo $?", '.process.capabilities.bounding += ["CAP_MKNOD"] | .process.capabilities.effective += ["CAP_MKNOD"] | .process.capabilities.permitted += ["CAP_MKNOD"]', says=("1$",), complains=("Operation not permitted",)),
    inside("sysctl-of-namespaces", "cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_forward /proc/sys/net/core/somaxconn", '.linux.sysctl = {"kernel.shmmax": "1000000", "net.ipv4.ip_forward": "1", "net.core.somaxconn": "777"}', stdout="1000000\n1\n777"),
    inside("sysctl-with-slashes", "cat /proc/sys/net/ipv4/conf/lo/forwarding", '.linux.sysctl = {"net/ipv4/conf/lo/forwarding": "1"}', stdout="1"),
    inside("sysctl-unknown", "true", '.linux.sysctl = {"net.no.such": "1"}', status=1, complains=("no/such|net.no.such|no such file",)),
    inside("sysctl-of-the-host", "true", '.linux.sysctl = {"vm.swappiness": "1"}', status=1, complains=("vm.swappiness",)),
    inside("seccomp-kill", "echo before; mkdir /tmp/x; echo after", '.linux.seccomp = {defaultAction: "SCMP_ACT_ALLOW", architectures: ["SCMP_ARCH_X86_64"], syscalls: [{names: ["mkdir", "mkdirat"], action: "SCMP_ACT_KILL_PROCESS"}]}', stdout="before\nafter", complains=("Bad system call",)),
    inside("seccomp-arguments", "nice -n 1 true; echo $?; umask 77; umask", '.linux.seccomp = {defaultAction: "SCMP_ACT_ALLOW", architectures: ["SCMP_ARCH_X86_64"], syscalls: [{names: ["umask"], action: "SCMP_ACT_ERRNO", errnoRet: 1, args: [{index: 0, value: 63, op: "SCMP_CMP_EQ"}]}]}', says=("0\n",)),
    inside("seccomp-unknown-action", "true", '.linux.seccomp = {defaultAction: "SCMP_ACT_NO_SUCH"}', status=1, complains=("SCMP_ACT_NO_SUCH",)),
    inside("seccomp-unknown-call", "echo fine", '.linux.seccomp = {defaultAction: "SCMP_ACT_ALLOW", syscalls: [{names: ["no_such_call", "mkdir"], action: "SCMP_ACT_ERRNO"}]}', stdout="fine"),
    inside("tmpfs-options", "awk '$2 == \"/t\" {print $3, $4}' /proc/self/mounts; stat -c '%a %u %g' /t; df -k /t | awk 'NR == 2 {print $2}'", mount("/t", "tmpfs", "tmpfs", "nosuid", "noexec", "size=2m", "mode=1750", "uid=5", "gid=6"), says=("noexec", "1750 5 6\n2048")),
    inside("bind-options", "awk '$2 == \"/b\" {print $4}' /proc/self/mounts | tr , '\\n' | grep -E '^(ro|nosuid|nodev|noexec|noatime)$' | sort; touch /b/x", mount("/b", "bind", "$w/root/etc", "bind", "ro", "nosuid", "nodev", "noexec"), stdout="nodev\nnoexec\nnosuid\nro", status=1, complains=("Read-only file system",)),
    inside("bind-over-missing-target", "cat /new/deep/file; ls -d /new/dir", mount("/new/deep/file", "bind", "$w/root/etc/passwd", "bind") + " | " + mount("/new/dir", "bind", "$w/root/etc", "bind"), says=("^root:x",)),
    inside("bind-symlinked-target", "cat /etc/x; ls /outside 2>/dev/null; readlink /link", '(.process.cwd = "/") | ' + mount("/link/x", "bind", "$w/root/bin/busybox", "bind"), status=1, complains=("",)),
    inside("nested-mounts", "cat /a/f; cat /a/b/passwd | head -n 1; echo y >/a/g; ls /a", mount("/a", "tmpfs", "tmpfs") + " | " + mount("/a/b", "bind", "$w/root/etc", "bind") + " | " + mount("/a/f", "bind", "$w/root/etc/passwd", "bind"), says=("^root:x", "b\nf\ng")),
    inside("mount-twice-at-one-place", "ls /d; awk '$2 == \"/d\"' /proc/self/mounts | wc -l", mount("/d", "bind", "$w/root/etc", "bind") + " | " + mount("/d", "tmpfs", "tmpfs"), stdout="2"),
    inside("shm-size", "df -k /dev/shm | awk 'NR == 2 {print $2}'; head -c 2000000 /dev/zero >/dev/shm/x; stat -c %s /dev/shm/x", '.mounts = [.mounts[] | if .destination == "/dev/shm" then .options = ["nosuid", "size=1m"] else . end]', says=("^1024\n1048576",), complains=("No space left",)),
    inside("mount-without-type", "true", '.mounts += [{"destination": "/m", "source": "/tmp"}]', status=1, complains=("no such device|/m",)),
    inside("mount-of-missing-source", "true", mount("/m", "bind", "/no/such/source", "bind"), status=1, complains=("/no/such/source",)),
    inside("mount-relative-destination", "ls -d /rel; awk '$2 == \"/rel\" {print $3}' /proc/self/mounts", mount("rel", "tmpfs", "tmpfs"), stdout="/rel\ntmpfs", complains=("",)),
    inside("mount-bad-option", "true", mount("/m", "tmpfs", "tmpfs", "no-such-option=1"), status=1, complains=("invalid argument",)),
    inside("proc-options", "awk '$2 == \"/proc\" {print $4}' /proc/self/mounts | grep -o hidepid=.*", '.mounts = [.mounts[] | if .destination == "/proc" then .options = ["nosuid", "hidepid=2"] else . end]', says=("hidepid",)),
    inside("annotations-mean-nothing", "echo fine", '.annotations = {"org.example.a": "1", "": "x", "run.oci.keep_original_groups": "0"}', stdout="fine"),
    inside("version-of-the-future", "echo fine", '.ociVersion = "1.99.0"', stdout="fine"),
    inside("version-is-no-version", "true", '.ociVersion = "x"', status=1, complains=("version|ociVersion",)),
    inside("intel-rdt", "true", '.linux.intelRdt = {closID: "x", l3CacheSchema: "L3:0=f"}', status=1, complains=("intelRdt|Intel RDT|intel",)),
    inside("path-is-searched-in-order", "true", '.process.args = ["who-am-i"] | .process.env = ["PATH=/tmp:/bin"]', status=1, complains=("who-am-i.*not found in .?PATH",)),
    inside("argument-of-128-kib", "echo ${#1}", '.process.args += ["x", "y" * 131000]', says=("131000",)),
    inside("argument-that-is-too-long", "true", '.process.args += ["x", "y" * 131072]', status=1, complains=("argument list too long",)),
    inside("unicode-everywhere", "echo ✓ >/tmp/ünï; cat /tmp/ünï; ls /tmp; hostname", '.hostname = "host"', says=("✓\nünï\nhost",)),
    inside("long-names", "n=$(printf '%0255d' 0); echo x >/tmp/$n && cat /tmp/$n; echo y >/tmp/${n}0; true", stdout="x", complains=("File name too long",)),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)
