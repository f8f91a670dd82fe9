"""What a process finds around itself: identity, rights, limits, mounts, names, devices. One container answers many facts."""

import pytest

from harness.answers import Case
from harness.facts import Fact, Group, each_fact, each_group

pytestmark = pytest.mark.in_turns

STATUS = "grep -E '^(Cap...|NoNewPrivs|Seccomp|Groups|Uid|Gid|Umask)' /proc/self/status"
# The kernel's own words differ between host and guest; these are what the container's spec decides.
MOUNTS = "awk '$2 != \"/\" && $2 !~ \"^/proc/\" {gsub(/,(size|nr_inodes|inode64|seclabel)[^,]*/, \"\", $4); print $2, $3, $4}' /proc/self/mounts | sort"
MICROVM = "the container runs on a kernel and a machine of its own"

PLAIN = Group(
    "plain",
    "",
    (
        Fact("identity", "id; echo $HOME; pwd", "uid=0.root. gid=0.root."),
        Fact("rights", STATUS, "NoNewPrivs:\t1"),
        Fact("environment", "env | sort", "PATH="),
        Fact("arguments-of-init", "tr '\\0' '\\n' </proc/1/cmdline | head -n 2", "^sh\n-c\n"),
        Fact("init-is-1", "echo $$; cat /proc/1/comm; wc -c </proc/sys/kernel/random/boot_id", "^1\nsh\n"),
        Fact("processes", "set -- /proc/[0-9]*; echo $#", "^2\n"),
        Fact("session", "awk '{print $5, $6, $7}' /proc/1/stat", "^1 1 0"),
        Fact("descriptors", "ls /proc/1/fd | sort -n", "^0\n1\n2\n"),
        # Core files are a documented difference; pending signals go by the machine's memory.
        Fact("limits", "grep -vE 'core file|pending signals' /proc/self/limits", "Max open files +1024 +1024"),
        Fact(
            "oom-score",
            "cat /proc/self/oom_score_adj",
            "^-99[89]",
            "^0\n",
            "a spec without oomScoreAdj: runc's process inherits what its shim has on the host, the guest's processes start at 0",
        ),
        Fact("mounts", MOUNTS, "/proc proc"),
        Fact("root-is-writable", "echo x >/new && cat /new && rm /new", "^x"),
        Fact("root-mount", "awk '$2 == \"/\" {print $3; print $4}' /proc/self/mounts | cut -d, -f1", "^overlay\nrw", "^virtiofs\nrw", "the root is an overlay on the host, served to the guest by virtio-fs"),
        Fact("masked", "for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/latency_stats /proc/acpi /proc/scsi /sys/firmware; do [ -e $f ] && { echo $f; head -c 1 $f 2>/dev/null | wc -c; ls $f | wc -l; }; done; true", "/proc/kcore\n0", r"^(?=(?:.*\n)*/proc/keys\n)(/\w+/\w+\n0\n[01]\n)+$", "which of these files exist depends on the kernel"),
        Fact(
            "masked-kcore",
            "head -c 1 /proc/kcore | wc -c; stat -c %F /proc/kcore",
            "^0\ncharacter special file",
            "No such file or directory",
            "the guest's kernel has no kcore that would have to be masked",
        ),
        Fact("read-only-proc", "for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq /proc/bus /proc/fs; do [ -e $f ] && { touch $f 2>&1; [ -w $f ] && echo writable $f; }; done; true", "Read-only"),
        Fact("read-only-sys", "touch /sys/kernel/x; mkdir /sys/fs/cgroup/x; true", "Read-only"),
        Fact("devices", "ls -l /dev | awk '{print $1, $3, $4, $5, $6, $NF}' | grep -v -e '^total' -e '/proc/kcore' | sed 's/ [0-9]*, *[0-9]* / /' | sort", "ptmx"),
        Fact("device-numbers", "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done", "/dev/null 1:3 666"),
        Fact("devices-work", "head -c 3 /dev/zero | od -An -c; echo x >/dev/null; echo x >/dev/full; head -c 5 /dev/urandom | wc -c; [ -c /dev/ptmx ] && echo ptmx", "No space left"),
        Fact("device-nodes-denied", "mknod /tmp/sda b 8 0 && cat /tmp/sda; rm -f /tmp/sda; true", "can't open '/tmp/sda': Operation not permitted", "mknod: /tmp/sda: Operation not permitted", "the file server in its user namespace cannot make device nodes; runc's container makes it and may not open it"),
        Fact("standard-links", "for f in fd stdin stdout stderr; do readlink /dev/$f; done", "/proc/self/fd/2"),
        Fact("hostname", "hostname; cat /proc/sys/kernel/hostname", "testhost", ".", "no hostname is asked for: runc's is the host's, a pod's its own"),
        Fact("kernel-name", "uname -s -m", "^Linux x86_64"),
        Fact("kernel-release", "uname -r", "6.12", ".", MICROVM),
        Fact("interfaces", "ls /sys/class/net; ip -o -4 address show lo | awk '{print $4}'; ip -o link show lo | grep -o 'LOOPBACK,UP'", "^lo\n127.0.0.1/8"),
        Fact("loopback", "(echo -n pong | nc -l -p 7777 >/dev/null) & sleep 0.3; nc 127.0.0.1 7777 </dev/null", "pong"),
        Fact("namespaces", "for n in cgroup ipc mnt net pid uts user time; do [ -e /proc/self/ns/$n ] && readlink /proc/self/ns/$n | sed 's/:.*//'; done", "pid"),
        Fact("shared-memory", "echo x >/dev/shm/x && cat /dev/shm/x && df -k /dev/shm | awk 'NR == 2 {print $2}'", "^x\n65536"),
        Fact("message-queues", "ls -d /dev/mqueue && awk '$2 == \"/dev/mqueue\" {print $3}' /proc/self/mounts", "mqueue"),
        Fact("kernel-modules-denied", "insmod /bin/busybox; true", "permitted", "not support", "the guest's kernel has no loadable modules"),
        Fact("mounting-denied", "mount -t tmpfs x /tmp; mount -o remount,rw /proc; true", "permission denied"),
        Fact("set-hostname-denied", "hostname other; hostname | grep -c other; true", "not permitted|permitted"),
        Fact("files", "cd /tmp && mkdir a && echo 1 >a/f && ln a/f a/g && ln -s f a/h && chmod 640 a/f && chown 1000:2000 a/f && mv a/g a/i && stat -c '%n %a %u:%g %h %s %F' a/f a/h a/i && rm -r a", "640 1000:2000 2 2"),
        Fact("set-id-bits", "cp /bin/busybox /tmp/id && chmod 6755 /tmp/id && stat -c %a /tmp/id && chown 1000 /tmp/id && stat -c %a /tmp/id; rm /tmp/id", "6755"),
        Fact("sockets-and-fifos", "mkfifo /tmp/p && (echo through >/tmp/p &) && cat /tmp/p && stat -c %F /tmp/p && rm /tmp/p", "through\nfifo"),
        Fact("file-times", "touch -d '2001-02-03 04:05:06' /tmp/t && stat -c %Y /tmp/t", "^981173106"),
        Fact("time-zone-and-clock", "date +%Z; [ $(date +%Y) -ge 2024 ] && echo now", "UTC\nnow"),
        Fact("many-processes", "n=0; while [ $n -lt 200 ]; do sleep 300 & n=$((n + 1)); done; jobs | wc -l; kill $(jobs -p); wait; echo ended", "^200\nended"),
        Fact("umask", "umask", "0022"),
        Fact(
            "sysctls",
            "cd /proc/sys; grep . vm/max_map_count vm/overcommit_memory fs/inotify/max_user_watches fs/inotify/max_user_instances fs/nr_open kernel/pid_max fs/protected_*",
            "max_map_count:",
        ),
        Fact("new-user-namespace", "unshare -U id -u; true", "."),
    ),
)

UNPRIVILEGED = Group(
    "user",
    "--user 1000:1000 --read-only --hostname chosen --env A=1 --env 'B=two words' --env 'EMPTY=' --cwd /home/app",
    (
        Fact("identity", "id; pwd; echo $HOME", "uid=1000"),
        Fact("rights", STATUS, "CapEff:\t0000000000000000"),
        Fact("environment", "echo \"<$A><$B><$EMPTY>\"; env | sort", "^<1><two words><>"),
        Fact("hostname", "hostname", "^chosen"),
        Fact("read-only-root", "touch /home/app/x /tmp/x; true", "Read-only file system"),
        Fact("devices-still-work", "echo x >/dev/null && echo x >/dev/shm/x && echo ok", "^ok"),
        Fact("others-are-closed", "cat /etc/shadow; kill -0 1; ls /root; true", "[Pp]ermission denied"),
        Fact("own-files", "stat -c '%U %a' /home/app /tmp /etc/shadow", "app"),
        Fact("low-port", "nc -l -p 80 -w 1 </dev/null; true", ""),
    ),
)

RIGHTS = Group(
    "rights",
    "--cap-drop CAP_CHOWN --cap-add CAP_SYS_ADMIN --allow-new-privs --seccomp",
    (
        Fact("rights", STATUS, "Seccomp:\t2"),
        Fact("new-privileges-allowed", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0"),
        Fact("chown-is-refused", "touch /tmp/x; chown 1000 /tmp/x; true", "Operation not permitted"),
        Fact("mount-is-allowed", "mkdir /tmp/m && mount -t tmpfs x /tmp/m && df /tmp/m | tail -n 1 | awk '{print $1}'", "^x"),
        Fact("seccomp-refuses", "swapon /none; adjtimex -q 2>&1 | tail -n 1; true", "."),
    ),
)

PRIVILEGED = Group(
    "privileged",
    "--privileged",
    (
        Fact("rights", "grep -E '^(CapEff|NoNewPrivs|Seccomp:)' /proc/self/status", "CapEff:\t000001ff"),
        Fact("sys-is-writable", "awk '$2 == \"/sys\" {print substr($4, 1, 2)}' /proc/self/mounts", "^rw"),
        Fact("nothing-is-masked", "awk '$2 ~ \"^/proc/\" {print $2}' /proc/self/mounts", r"^\s*$"),
        Fact("mount", "mkdir /tmp/m && mount -t tmpfs x /tmp/m && echo x >/tmp/m/f && cat /tmp/m/f", "^x"),
    ),
)

MOUNTED = Group(
    "mounted",
    "--mount type=bind,src=$W/folder,dst=/data,options=rbind:rw --mount type=bind,src=$W/file,dst=/etc/given,options=rbind:ro"
    " --mount type=tmpfs,src=tmpfs,dst=/scratch,options=size=1048576:mode=1777",
    (
        Fact("folder", "ls /data; cat /data/sub/inside; stat -c '%u:%g %a' /data/owned; echo written >/data/out", "inside|sub"),
        Fact("read-only-file", "cat /etc/given; echo x >/etc/given; true", "^given\n.*Read-only"),
        Fact("scratch", "df -k /scratch | awk 'NR == 2 {print $1, $2}'; stat -c %a /scratch; head -c 2000000 /dev/zero >/scratch/x; stat -c %s /scratch/x", "^tmpfs 1024\n1777\n(.*\n)?1048576"),
        Fact("links-out-stay-inside", "cat /data/link-to-etc-hostname | head -c 0; cat /data/outside; true", "No such file"),
        Fact("rename-and-append", "echo a >/data/a; mv /data/a /data/b; echo b >>/data/b; cat /data/b; ls /data | grep -c '^a$'; true", "^a\nb\n0"),
    ),
    before="""mkdir -p $W/folder/sub; echo inside >$W/folder/sub/inside; echo x >$W/folder/owned; chown 1234:2345 $W/folder/owned
        chmod 604 $W/folder/owned; ln -s /etc/hostname $W/folder/link-to-etc-hostname; ln -s ../file $W/folder/outside; echo given >$W/file""",
)

DEBIAN = Group(
    "debian",
    "",
    (
        Fact("release", ". /etc/os-release; echo $ID", "debian"),
        Fact("python-sums", "python3 -c 'import hashlib, json, threading, math; print(hashlib.sha256(b\"x\" * 10**6).hexdigest(), json.dumps({\"a\": [1, None]}), math.factorial(30))'", "265252859812191058636308480000000"),
        Fact("python-threads", "python3 -c 'import threading; r = []; t = [threading.Thread(target=r.append, args=(n,)) for n in range(20)]; [x.start() for x in t]; [x.join() for x in t]; print(sorted(r) == list(range(20)))'", "True"),
        Fact("python-processes", "python3 -c 'import subprocess; print([subprocess.run([\"sh\", \"-c\", f\"exit {n}\"]).returncode for n in range(5)], subprocess.run([\"sh\", \"-c\", \"kill -9 $$\"]).returncode)'", "-9"),
        Fact("python-files", "python3 -c 'import mmap, os, tempfile; f = tempfile.TemporaryFile(); f.write(b\"x\" * 8192); f.flush(); m = mmap.mmap(f.fileno(), 8192); m[5:7] = b\"ab\"; print(os.pread(f.fileno(), 4, 4), os.fstat(f.fileno()).st_size)'", "b'xabx' 8192"),
        Fact("python-socket", "python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 0)); c = socket.create_connection(s.getsockname()); a, _ = s.accept(); a.sendall(b\"hello\"); print(c.recv(9))'", "hello"),
        Fact("locks", "exec 9>/tmp/l; flock -n 9 && echo locked; flock -n /tmp/l true || echo held; exec 9>&-; flock -n /tmp/l true && echo free", "locked\nheld\nfree"),
        Fact("getcap", "getpcaps 1 2>&1 | head -n 1; capsh --print | head -n 1", "cap_chown"),
        Fact("file-capabilities", "cp /bin/true /tmp/t && setcap cap_net_raw+ep /tmp/t && getcap /tmp/t", "cap_net_raw=ep"),
        Fact("packages", "dpkg-query -W | wc -l; dpkg --verify coreutils && echo intact", "intact"),
        Fact("names", "getent passwd app | cut -d: -f3; getent hosts localhost | wc -l", "1000"),
    ),
    image="$DEBIAN",
)

GROUPS = (PLAIN, UNPRIVILEGED, RIGHTS, PRIVILEGED, MOUNTED, DEBIAN)


@each_fact(GROUPS)
def test_fact(group, fact, asker):
    asker.check(group, fact)


@each_group(GROUPS)
def test_ending(group, asker):
    asker.check_ending(group)


# A whole spec of its own and a root folder that lies ready, as Docker gives it.
READY_ROOT = """
mkdir -p $W/root/bin $W/root/proc $W/root/sys $W/root/dev $W/root/etc $W/root/tmp
cp /usr/bin/busybox $W/root/bin/busybox; for name in sh cat echo ls sleep id touch; do ln -s busybox $W/root/bin/$name; done
echo 'root:x:0:0::/:/bin/sh' >$W/root/etc/passwd
spec() { ctr oci spec | jq --arg root "$W/root" --arg id "$ID" '.root = {path: $root} | .linux.cgroupsPath = "/default/" + $id | .process.env = ["PATH=/bin"] | '"$1" >$W/spec.json; }
"""

CASES = (
    Case(
        "ready-root-with-a-mount-of-the-host",
        f"""{READY_ROOT}
        mkdir $W/root/p; echo kept >$W/root/kept; mount --bind /proc/sys/kernel $W/root/p
        run --env PATH=/bin --rootfs $W/root $ID sh -c 'read -r line </p/osrelease; echo ${{#line}} kept: $(cat /kept)'; umount $W/root/p""",
        says=(r"^[1-9]\d* kept: kept$",),
    ),
    Case("ready-root", f"{READY_ROOT} run --env PATH=/bin --rootfs $W/root $ID sh -c 'echo written >/tmp/out; ls /'; cat $W/root/tmp/out", says=("written$",)),
    Case(
        "spec-sysctl-and-rlimits",
        f"""{READY_ROOT}
        spec '.process.args = ["sh", "-c", "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_unprivileged_port_start; ulimit -n; ulimit -u; ulimit -c; cat /proc/self/oom_score_adj"]
            | .linux.sysctl = {{"kernel.msgmax": "12345", "net.ipv4.ip_unprivileged_port_start": "99"}}
            | .process.rlimits = [{{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}}, {{"type": "RLIMIT_NPROC", "soft": 66, "hard": 66}}, {{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}}]
            | .process.oomScoreAdj = 321'
        run --config $W/spec.json $ID""",
        stdout="12345\n99\n77\n66\n0\n321",
    ),
    Case(
        "spec-cgroup-limits",
        f"""{READY_ROOT}
        spec '.process.args = ["sh", "-c", "cat /proc/self/cgroup; cd /sys/fs/cgroup; cat memory.max pids.max cpu.max memory.swap.max; head -n 1 cgroup.procs; echo $$ >cgroup.procs; touch x"]
            | .linux.namespaces += [{{"type": "cgroup"}}]
            | .mounts += [{{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "nodev", "noexec"]}}]
            | .linux.resources += {{"memory": {{"limit": 67108864, "swap": 67108864}}, "pids": {{"limit": 50}}, "cpu": {{"quota": 50000, "period": 100000}}}}'
        run --config $W/spec.json $ID""",
        status=1,
        says=("^0::/\n67108864\n50\n50000 100000\n0\n1\n",),
        complains=("Read-only file system",),
    ),
    Case(
        "spec-masked-and-read-only-paths",
        f"""{READY_ROOT}
        echo secret >$W/root/etc/secret; mkdir $W/root/etc/hidden; echo x >$W/root/etc/hidden/x; echo y >$W/root/etc/fixed
        spec '.process.args = ["sh", "-c", "cat /etc/secret; ls /etc/hidden; cat /etc/fixed; touch /etc/fixed; true"]
            | .linux.maskedPaths += ["/etc/secret", "/etc/hidden", "/no/such/path"] | .linux.readonlyPaths += ["/etc/fixed"]'
        run --config $W/spec.json $ID""",
        stdout="y",
        complains=("Read-only file system",),
    ),
    Case(
        "spec-additional-groups-and-umask",
        f"""{READY_ROOT}
        spec '.process.args = ["sh", "-c", "id -G; umask; touch /tmp/x; ls -l /tmp/x | cut -c1-10"] | .process.user = {{"uid": 5, "gid": 6, "additionalGids": [7, 8], "umask": 63}}'
        chmod 777 $W/root/tmp
        run --config $W/spec.json $ID""",
        stdout="6 7 8\n0077\n-rw-------",
    ),
    Case(
        "spec-seccomp-errno",
        f"""{READY_ROOT}
        spec '.process.args = ["sh", "-c", "mkdir /tmp/x; echo $?; ls /tmp"] | .linux.seccomp = {{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}}]}}'
        run --config $W/spec.json $ID""",
        stdout="1",
        complains=("No space left on device",),
    ),
    Case("spec-no-args", f"{READY_ROOT} spec '.process.args = []'; run --config $W/spec.json $ID", status=1, complains=("args",)),
    Case("spec-unknown-capability", f"""{READY_ROOT} spec '.process.args = ["sh", "-c", "echo ran"] | .process.capabilities.bounding += ["CAP_NO_SUCH"]'; run --config $W/spec.json $ID""", complains=("",)),
    Case("spec-bad-mount-type", f"""{READY_ROOT} spec '.process.args = ["true"] | .mounts += [{{"destination": "/x", "type": "nosuchfs", "source": "x"}}]'; run --config $W/spec.json $ID""", status=1, complains=("no such device|nosuchfs",)),
    Case("spec-missing-root", f"""{READY_ROOT} spec '.process.args = ["true"] | .root.path = "/no/such/root"'; run --config $W/spec.json $ID""", status=1, complains=("/no/such/root|no such file",)),
    Case("snapshotter-native", "run --snapshotter native $BUSYBOX $ID sh -c 'echo x >/etc/new; cat /etc/new; ls /bin | wc -l'", says=("^x\n",)),
    Case("changes-are-private", "run $BUSYBOX $ID sh -c 'rm /etc/group; echo x >>/etc/passwd'; run $BUSYBOX $ID sh -c 'ls /etc/group; tail -n 1 /etc/passwd'", says=("/etc/group\n",)),
    Case(
        "out-of-memory",
        "listen; run --memory-limit 33554432 $BUSYBOX $ID tail /dev/zero; echo \"-> $?\"; heard | sort -u",
        says=("-> 137", "/tasks/oom", "/tasks/exit"),
    ),
    Case(
        "out-of-memory-in-a-child",
        "run --memory-limit 33554432 $BUSYBOX $ID sh -c 'sh -c \"exec tail /dev/zero\"; echo child $?; exit 4'",
        status=4,
        stdout="child 137",
        complains=("",),
    ),
    Case(
        "metrics",
        """
        begin $BUSYBOX $ID sh -c 'sleep 1000 & sleep 1000 & echo ready; sleep 1000'
        ctr task metrics --format json $ID >$W/m || cat $W/m
        jq -r '.pids.current, (.memory.usage > 100000), (.cpu.usage_usec > 1000)' $W/m
        jq -r 'keys[]' $W/m | grep -E '^(cpu|memory|pids)$' | sort
        ctr task kill -s KILL $ID; finish >/dev/null""",
        stdout="3\ntrue\ntrue\ncpu\nmemory\npids",
    ),
    Case(
        "server",
        """
        begin $REDIS $ID sh -c 'redis-server --save "" --dir /var/lib/redis & p=$!; trap "kill -TERM $p" TERM; until redis-cli ping | grep PONG; do sleep 0.2; done; echo ready; wait $p; wait $p; echo "server ended with $?"'
        for n in 1 2 3; do ctr task exec --exec-id s$n $ID redis-cli set key$n value$n; done
        ctr task exec --exec-id g $ID redis-cli get key2
        ctr task exec --exec-id b $ID sh -c 'seq 1 2000 | sed "s/.*/SET k& v&/" | redis-cli >/dev/null; redis-cli dbsize'
        ctr task exec --exec-id u $ID sh -c 'id -un; ps -eo user,comm | grep redis-server'
        ctr task kill -s TERM $ID
        wait $CTR; echo "-> $?"; grep -o 'server ended with [0-9]*' $W/out""",
        says=("^OK\nOK\nOK\nvalue2\n2003\n", "server ended with 0"),
        timeout=120,
    ),
    Case(
        "ten-at-once",
        """
        for n in 0 1 2 3 4 5 6 7 8 9; do (run $BUSYBOX $ID-$n sh -c "sleep 0.5; echo I am $n; exit $n"; echo "$n ended with $?") >$W/o$n 2>&1 & done
        wait; cat $W/o?""",
        says=("I am 0\n0 ended with 0\n", "I am 9\n9 ended with 9"),
        timeout=240,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)
