"""Mounts of a specification: kinds, options, places, orders; and those that cannot be made."""

import pytest

from harness.facts import Fact, each_fact, each_group
from harness.oci import Spec, all_of, container, mount, refused

pytestmark = pytest.mark.in_turns

OPTIONS_OF = "options() { awk -v at=$1 '$2 == at {print $4}' /proc/self/mounts | tr , '\\n' | grep -vE '^(inode64|seclabel|user_id=.*|size=.*|nr_inodes=.*)$' | sort | tr '\\n' ' '; echo; }; "
PROPAGATION_OF = "propagation() { awk -v at=$1 '$5 == at {for (n = 7; $n != \"-\"; n++) printf \"%s \", $n; print \"end\"}' /proc/self/mountinfo | sed 's/:[0-9]*//g'; }; "

SUBMOUNTS = "the guest's kernel gives a mount below a served folder the flags of the one above it"

KINDS = Spec(
    "mounts-of-all-kinds",
    "",
    (
        Fact("tmpfs-size-mode-owner", f"{OPTIONS_OF} options /t; stat -c '%a %u %g' /t; df -k /t | awk 'NR == 2 {{print $2}}'", "noexec.*\n1750 5 6\n2048"),
        Fact("tmpfs-number-of-files", "for n in 1 2 3 4 5 6 7 8 9; do touch /few/$n; done; ls /few | wc -l", "No space left on device\n(.*\n)*[3-5]"),
        Fact("tmpfs-size-in-percent", "[ $(df -k /percent | awk 'NR == 2 {print $2}') -gt 1000 ] && echo some", "some"),
        Fact("shm-size", "df -k /dev/shm | awk 'NR == 2 {print $2}'; head -c 2000000 /dev/zero >/dev/shm/x; stat -c %s /dev/shm/x", "^1024\n(.*\n)?1048576"),
        Fact("bind-read-only-with-options", f"{OPTIONS_OF} options /b | tr ' ' '\\n' | grep -E '^(ro|nosuid|nodev|noexec)$'; touch /b/x; /b/busybox true", "nodev\nnoexec\nnosuid\nro\n.*Read-only file system\n.*[Pp]ermission denied"),
        Fact("bind-writable", "cat /w/given; echo written >/w/out; cat /w/out", "^given\nwritten"),
        Fact("bind-of-a-file", "cat /f; echo x >/f; true", "^given\n.*Read-only"),
        Fact("bind-onto-a-missing-file", "cat /new/deep/file; stat -c %a /new/deep", "^given\n755"),
        Fact("bind-onto-a-missing-folder", "cat /new/dir/given", "^given"),
        Fact("bind-access-times", f"{OPTIONS_OF} options /noatime | tr ' ' '\\n' | grep atime", "noatime"),
        Fact("bind-without-a-type", "cat /untyped/given", "^given"),
        Fact("bind-of-type-none", "cat /none/given", "^given"),
        Fact("bind-not-recursive", "ls /flat/below", r"^\s*$"),
        Fact("bind-recursive", "cat /deep/below/inner; touch /deep/below/x && echo writable", "^inner\nwritable"),
        Fact("bind-recursive-read-only-on-top", "touch /top/x; touch /top/below/y && echo writable; true", "Read-only file system\nwritable", "/top/below/y: Read-only file system", SUBMOUNTS),
        Fact("bind-recursively-read-only", "touch /rro/x; touch /rro/below/y; true", "/rro/x: Read-only file system\n.*/rro/below/y: Read-only file system"),
        Fact("bind-of-a-symbolic-link", "cat /linked/given", "^given"),
        Fact("place-behind-a-symbolic-link", "cat /outside/x; ls -d /link; readlink /link", "^given\n/link\n/outside"),
        Fact("place-behind-a-link-upwards", "cat /upwards/x", "^given"),
        Fact("place-below-a-mount", "cat /a/f; cat /a/b/given; echo y >/a/g; ls /a", "^given\ngiven\nb\nf\ng"),
        Fact("place-taken-twice", "ls -a /d | wc -l; awk '$2 == \"/d\"' /proc/self/mounts | wc -l", "^2\n2"),
        Fact("place-in-unicode-and-spaces", "cat '/ünï cöde/given'", "^given"),
        Fact("proc-with-options", "awk '$2 == \"/proc\" {print $4}' /proc/self/mounts | grep -o 'hidepid=.*'", "hidepid="),
        Fact("second-proc", "cat /proc2/1/comm", "^sh"),
        Fact("second-sysfs", "ls -d /sys2/kernel; touch /sys2/x; true", "^/sys2/kernel\n.*Read-only file system|^/sys2/kernel\n"),
        Fact("message-queues", "awk '$2 == \"/mq\" {print $3}' /proc/self/mounts; touch /mq/q && ls /mq", "^mqueue\nq"),
        Fact("terminals", "awk '$2 == \"/pts2\" {print $3}' /proc/self/mounts; stat -c %a /pts2/ptmx", "^devpts\n666"),
        Fact("cgroups-read-only", "awk '$2 == \"/sys/fs/cgroup\" {print $3, substr($4, 1, 2)}' /proc/self/mounts; mkdir /sys/fs/cgroup/x; head -n 1 /sys/fs/cgroup/cgroup.procs", "^cgroup2 ro\n.*Read-only file system\n1"),
        Fact("file-over-proc", "cat /proc/uptime", "^given"),
        Fact("flags-of-a-tmpfs", f"{OPTIONS_OF} options /flags", "noatime.*"),
        Fact("propagation-by-default", f"{PROPAGATION_OF} propagation /w; propagation /proc", "end\nend"),
        Fact("propagation-shared", f"{PROPAGATION_OF} propagation /shared", "^shared"),
        Fact("propagation-slave", f"{PROPAGATION_OF} propagation /slave", "end"),
        Fact("propagation-unbindable", f"{PROPAGATION_OF} propagation /unbindable", "^unbindable"),
    ),
    before="""mkdir -p $W/src/below $W/root/outside $W/root/upwards; echo given >$W/src/given; cp /usr/bin/busybox $W/src/; ln -s $W/src $W/src-link
        ln -s /outside $W/root/link; ln -s ../../../../upwards $W/root/up
        mount -t tmpfs inner $W/src/below && echo inner >$W/src/below/inner; trap 'umount $W/src/below' EXIT""",
    edit=all_of(
        mount("/t", "tmpfs", "tmpfs", "nosuid", "noexec", "size=2m", "mode=1750", "uid=5", "gid=6"),
        mount("/few", "tmpfs", "tmpfs", "nr_inodes=6"),
        mount("/percent", "tmpfs", "tmpfs", "size=50%"),
        '.mounts = [.mounts[] | if .destination == "/dev/shm" then .options = ["nosuid", "size=1m"] elif .destination == "/proc" then .options = ["nosuid", "hidepid=0", "subset=pid"] | .options = ["nosuid", "hidepid=1"] else . end]',
        mount("/b", "bind", "$w/src", "bind", "ro", "nosuid", "nodev", "noexec"),
        mount("/w", "bind", "$w/src", "bind", "rw"),
        mount("/f", "bind", "$w/src/given", "bind", "ro"),
        mount("/new/deep/file", "bind", "$w/src/given", "bind"),
        mount("/new/dir", "bind", "$w/src", "bind"),
        mount("/noatime", "bind", "$w/src", "bind", "noatime"),
        mount("/untyped", None, "$w/src", "bind"),
        mount("/none", "none", "$w/src", "rbind"),
        mount("/flat", "bind", "$w/src", "bind"),
        mount("/deep", "bind", "$w/src", "rbind"),
        mount("/top", "bind", "$w/src", "rbind", "ro"),
        mount("/rro", "bind", "$w/src", "rbind", "rro"),
        mount("/linked", "bind", "$w/src-link", "bind"),
        mount("/link/x", "bind", "$w/src/given", "bind"),
        mount("/up/x", "bind", "$w/src/given", "bind"),
        mount("/a", "tmpfs", "tmpfs"),
        mount("/a/b", "bind", "$w/src", "bind"),
        mount("/a/f", "bind", "$w/src/given", "bind"),
        mount("/d", "bind", "$w/src", "bind"),
        mount("/d", "tmpfs", "tmpfs"),
        mount("/ünï cöde", "bind", "$w/src", "bind"),
        mount("/proc2", "proc", "proc"),
        mount("/sys2", "sysfs", "sysfs", "ro"),
        mount("/mq", "mqueue", "mqueue"),
        mount("/pts2", "devpts", "devpts", "newinstance", "ptmxmode=0666"),
        '.linux.namespaces += [{type: "cgroup"}]',
        mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid"),
        mount("/proc/uptime", "bind", "$w/src/given", "bind"),
        mount("/flags", "tmpfs", "tmpfs", "noatime", "nodev", "nosuid", "noexec", "ro"),
        mount("/shared", "bind", "$w/src", "bind", "shared"),
        mount("/slave", "bind", "$w/src", "bind", "slave"),
        mount("/unbindable", "bind", "$w/src", "bind", "unbindable"),
    ),
    after=(
        Fact("writes-reach-the-host", "cat $W/src/out; [ -e /outside ] || [ -e /upwards ] || echo nothing beside", "^written\nnothing beside"),
    ),
)

TMPFS = Spec(
    "mounts-of-tmpfs",
    "",
    (
        Fact("mode-of-the-folder-below", "stat -c %a /private; stat -c %a /sticky", "^700\n3755"),
        Fact("mode-of-the-options", "stat -c %a /named", "^751"),
        Fact("mode-where-nothing-was", "stat -c %a /nothing", "^1777"),
        Fact("mode-behind-a-link", "stat -c %a /link/; ls -ld /link | cut -c1", "^711\nl"),
        Fact("mode-in-a-volume", "stat -c %a /volume/inner; ls /volume/inner", "^2750\n"),
        Fact("copy-with-files-bound-into-it", "cat /etc/hosts /etc/issue; cat /etc/passwd; ls /etc", "^given\ngiven\nroot:x.*\nhosts\nissue\npasswd\nsub"),
        Fact("copy-keeps-the-mode", "stat -c '%a %u %g' /etc /etc/sub /etc/sub/f", "^711 0 0\n730 7 8\n640 5 6"),
        Fact("copy-has-the-mode-of-the-options", "stat -c '%a %u %g' /owned; cat /owned/file", "^1705 3 4\nx"),
        Fact("mode-in-a-copy", "stat -c %a /above/below; ls -A /above /above/below", "^750\n/above:\nbelow\n\n/above/below:"),
        Fact("copy-of-a-folder-in-a-volume", "cat /volume/copied/f; echo new >/volume/copied/f; stat -c %a /volume/copied", "^given\n755"),
        Fact("read-only-copy-with-a-place-below", "touch /fixed/x; cat /fixed/file /fixed/new/place", "^touch: /fixed/x: Read-only file system\nx\ngiven"),
        Fact("read-only-with-a-place-below", "touch /closed/x; cat /closed/new/place; awk '$2 == \"/closed\" {print substr($4, 1, 3)}' /proc/self/mounts", "^touch: /closed/x: Read-only file system\ngiven\nro,"),
    ),
    before="""mkdir -p $W/root/private $W/root/sticky $W/root/named $W/root/linked $W/root/above/below $W/root/fixed $W/root/owned $W/src/inner $W/src/copied $W/root/etc/sub
        echo given | tee $W/src/given >$W/src/copied/f; echo x | tee $W/root/fixed/file >$W/root/owned/file; echo x >$W/root/etc/sub/f; echo y >$W/root/etc/issue; : >$W/src/inner/hidden; ln -s linked $W/root/link
        chmod 700 $W/root/private; chmod 3755 $W/root/sticky; chmod 711 $W/root/linked $W/root/etc; chmod 2750 $W/src/inner; chmod 750 $W/root/above/below
        chown 7:8 $W/root/etc/sub; chmod 730 $W/root/etc/sub; chown 5:6 $W/root/etc/sub/f; chmod 640 $W/root/etc/sub/f""",
    edit=all_of(
        mount("/private", "tmpfs", "tmpfs", "nosuid"),
        mount("/sticky", "tmpfs", "tmpfs"),
        mount("/named", "tmpfs", "tmpfs", "mode=0751"),
        mount("/nothing", "tmpfs", "tmpfs"),
        mount("/link", "tmpfs", "tmpfs"),
        mount("/volume", "bind", "$w/src", "rbind"),
        mount("/volume/inner", "tmpfs", "tmpfs"),
        mount("/volume/copied", "tmpfs", "tmpfs", "tmpcopyup"),
        mount("/etc", "tmpfs", "tmpfs", "tmpcopyup", "nosuid", "size=1m"),
        mount("/etc/hosts", "bind", "$w/src/given", "bind"),
        mount("/etc/issue", "bind", "$w/src/given", "bind", "ro"),
        mount("/owned", "tmpfs", "tmpfs", "tmpcopyup", "mode=1705", "uid=3", "gid=4"),
        mount("/above", "tmpfs", "tmpfs", "tmpcopyup"),
        mount("/above/below", "tmpfs", "tmpfs"),
        mount("/fixed", "tmpfs", "tmpfs", "tmpcopyup", "ro"),
        mount("/fixed/new/place", "bind", "$w/src/given", "bind"),
        mount("/closed", "tmpfs", "tmpfs", "ro"),
        mount("/closed/new/place", "bind", "$w/src/given", "bind"),
    ),
    after=(Fact("copies-do-not-reach-the-host", "cat $W/src/copied/f; ls $W/root/etc", "^given\nissue\npasswd\nsub"),),
)

KEPT = "kept() { awk -v at=$1 '$2 == at {print $4}' /proc/self/mounts | tr , '\\n' | grep -xE 'ro|nosuid|nodev|noexec' | sort | tr '\\n' ' '; echo end; }; "
CLOSED = "mkdir $W/closed && mount -t tmpfs -o noexec,nosuid,mode=755 closed $W/closed && trap 'umount $W/closed' EXIT; cp /usr/bin/busybox $W/closed/; echo given >$W/closed/given"

# What a bind keeps of its source's mount, and which one of two options counts.
FLAGS = Spec(
    "mounts-of-a-closed-source",
    "",
    (
        Fact("kept-by-a-bind", f"{KEPT} kept /plain; /plain/busybox true", "^noexec nosuid end\n.*[Pp]ermission denied"),
        Fact("kept-with-a-propagation", f"{KEPT} kept /private; /private/busybox true", "^noexec nosuid end\n.*[Pp]ermission denied"),
        Fact("kept-by-a-file", f"{KEPT} kept /file; /file true", "^noexec nosuid end\n.*[Pp]ermission denied"),
        Fact("kept-by-a-folder-in-it", f"{KEPT} kept /folder; /folder/busybox true", "^noexec nosuid end\n.*[Pp]ermission denied"),
        Fact("kept-with-a-recursive-option", f"{KEPT} kept /recursive; /recursive/busybox true", "^nodev noexec nosuid end\n.*[Pp]ermission denied"),
        Fact("not-kept-by-a-writable-one", f"{KEPT} kept /writable; /writable/busybox echo runs", "^end\nruns"),
        Fact("not-kept-by-a-read-only-one", f"{KEPT} kept /read-only; /read-only/busybox echo runs", "^ro end\nruns"),
        Fact("not-kept-by-an-executable-one", f"{KEPT} kept /executable; /executable/busybox echo runs", "^end\nruns"),
        Fact("not-kept-with-another-flag", f"{KEPT} kept /nodev; /nodev/busybox echo runs", "^nodev end\nruns"),
        Fact("nodev-is-kept", f"{KEPT} kept /devices; cat /devices/null", "^nodev end\n.*[Pp]ermission denied"),
        Fact("last-word-is-writable", f"{KEPT} kept /last-rw; touch /last-rw/x && echo written", "^end\nwritten"),
        Fact("last-word-is-read-only", f"{KEPT} kept /last-ro; touch /last-ro/x; true", "^ro end\n.*Read-only file system"),
        Fact("recursively-read-only-wins", f"{KEPT} kept /all-ro; touch /all-ro/x; true", "^ro end\n.*Read-only file system"),
        Fact("recursively-writable-wins", f"{KEPT} kept /all-rw; touch /all-rw/x && echo written", "^end\nwritten"),
    ),
    before=f"""{CLOSED}; mkdir $W/closed/folder $W/devices $W/open; cp /usr/bin/busybox $W/closed/folder/
        mount -t tmpfs -o nodev,mode=755 devices $W/devices && trap 'umount $W/closed $W/devices' EXIT; mknod -m 666 $W/devices/null c 1 3""",
    edit=all_of(
        mount("/plain", "bind", "$w/closed", "rbind"),
        mount("/private", "bind", "$w/closed", "rbind", "rprivate"),
        mount("/file", "bind", "$w/closed/busybox", "bind"),
        mount("/folder", "bind", "$w/closed/folder", "bind"),
        mount("/recursive", "bind", "$w/closed", "rbind", "rnodev"),
        mount("/writable", "bind", "$w/closed", "rbind", "rw"),
        mount("/read-only", "bind", "$w/closed", "rbind", "ro"),
        mount("/executable", "bind", "$w/closed", "bind", "exec"),
        mount("/nodev", "bind", "$w/closed", "bind", "nodev"),
        mount("/devices", "bind", "$w/devices", "bind"),
        mount("/last-rw", "bind", "$w/open", "bind", "ro", "rw"),
        mount("/last-ro", "bind", "$w/open", "bind", "rw", "ro"),
        mount("/all-ro", "bind", "$w/open", "bind", "rro", "rw"),
        mount("/all-rw", "bind", "$w/open", "bind", "ro", "rrw"),
    ),
)

GROUPS = (KINDS, TMPFS, FLAGS)

OWN_CGROUP = all_of('.linux.namespaces += [{type: "cgroup"}]', mount("/sys/fs/cgroup", "cgroup", "cgroup", "ro"))

CASES = (
    container("mount-behind-a-dangling-link", "cat /outside/x; readlink /link", mount("/link/x", "bind", "$w/root/etc/passwd", "bind"), before="ln -s /outside $W/root/link", says=("^root:x.*\n/outside",)),
    container("mount-onto-a-dangling-link", "cat /outside", mount("/link", "bind", "$w/root/etc/passwd", "bind"), before="ln -s /outside $W/root/link", says=("^root:x",)),
    container("mount-place-with-dots", "cat /dotted/passwd", mount("/x/../dotted", "bind", "$w/root/etc", "bind"), says=("^root:x",)),
    refused("mount-bind-with-an-unknown-option", mount("/m", "bind", "$w/root/etc", "bind", "no-such-option"), "/m", "no-such-option"),
    container("mount-of-dev-read-only", "touch /dev/x; echo x >/dev/null && echo written", '(.mounts[] | select(.destination == "/dev") | .options) += ["ro"]', stdout="written", complains=("Read-only file system",)),
    container("mount-copies-up", "ls /etc; echo more >/etc/more; cat /etc/passwd", mount("/etc", "tmpfs", "tmpfs", "tmpcopyup"), says=("^passwd\nroot:x",)),
    container(
        "mount-copies-up-in-the-containers-memory",
        "[ $(cat /sys/fs/cgroup/memory.current) -gt 8000000 ] && echo charged; wc -c </etc/large",
        all_of(OWN_CGROUP, mount("/etc", "tmpfs", "tmpfs", "tmpcopyup"), ".linux.resources.memory = {limit: 67108864, swap: 67108864}"),
        before="head -c 8000000 /dev/urandom >$W/root/etc/large",
        stdout="charged\n8000000",
    ),
    refused(
        "mount-copies-up-more-than-the-containers-memory",
        all_of(mount("/etc", "tmpfs", "tmpfs", "tmpcopyup"), ".linux.resources.memory = {limit: 33554432, swap: 33554432}"),
        "OOM-killed",
        before="head -c 60000000 /dev/urandom >$W/root/etc/large",
    ),
    container("mount-follows-no-links", "ln -s given /n/link; cat /n/link", mount("/n", "tmpfs", "tmpfs", "nosymfollow"), status=1, complains=("Too many|symbolic",)),
    container("mount-flags-of-the-file-system", "awk '$2 == \"/s\" {print $4}' /proc/self/mounts | grep -oE '(^|,)(sync|dirsync|lazytime)' | tr -d ,", mount("/s", "tmpfs", "tmpfs", "sync", "dirsync", "lazytime"), stdout="sync\ndirsync\nlazytime"),
    container(
        "mount-flags-without-effect",
        "awk '$2 == \"/t\" || $2 == \"/mq\" || $2 == \"/u\" {print $2, $3}' /proc/self/mounts; touch /t/x && ls /t",
        all_of(
            mount("/t", "tmpfs", "tmpfs", "silent", "iversion", "size=1m"),
            mount("/u", "tmpfs", "tmpfs", "loud", "noiversion", "sync"),
            mount("/mq", "mqueue", "mqueue", "silent", "iversion"),
            '(.mounts[] | select(.destination == "/proc") | .options) += ["silent", "loud"]',
        ),
        stdout="/t tmpfs\n/u tmpfs\n/mq mqueue\nx",
    ),
    container(
        "mount-written-at-once-shows-the-containers-namespaces",
        "cat /proc2/1/comm; touch /mq/q; ls /mq /dev/mqueue",
        all_of(mount("/proc2", "proc", "proc", "sync"), mount("/mq", "mqueue", "mqueue", "dirsync")),
        stdout="sh\n/dev/mqueue:\nq\n\n/mq:\nq",
    ),
    container("mount-recursive-flags", "touch /r/x; cat /r/bin/given", all_of(mount("/r", "bind", "$w/src", "rbind", "rro", "rnoexec", "rnosuid", "rnodev")), before="mkdir -p $W/src/bin; echo given >$W/src/bin/given", stdout="given", complains=("Read-only file system",)),
    refused("mount-without-type", '.mounts += [{"destination": "/m", "source": "/tmp"}]', "/m|no such device"),
    refused("mount-of-unknown-type", mount("/m", "no-such-fs", "x"), "/m", "no such device"),
    refused("mount-bad-option", mount("/m", "tmpfs", "tmpfs", "no-such-option=1"), "/m", "invalid argument"),
    refused("mount-of-a-file-onto-a-folder", mount("/tmp", "bind", "$w/root/etc/passwd", "bind"), "/tmp", "not a directory|invalid argument"),
    refused("mount-inside-proc", mount("/proc/self", "tmpfs", "tmpfs"), "/proc"),
    refused("mount-onto-proc-by-link", mount("/p/sys", "tmpfs", "tmpfs"), "proc", before="ln -s proc $W/root/p"),
    container("mount-relative-place", "awk '$2 == \"/rel\" {print $3}' /proc/self/mounts", mount("rel", "tmpfs", "tmpfs"), stdout="tmpfs", complains=("",)),
    refused("mount-source-is-missing", mount("/m", "bind", "$w/src", "bind"), "/src"),
    container(
        "mount-source-that-vanishes",
        "cat /m/given || echo gone",
        all_of(mount("/m", "bind", "$w/src", "bind"), '.hooks.createRuntime = [{path: "/bin/rm", args: ["rm", "-r", ($w + "/src")]}]'),
        before="mkdir $W/src; echo given >$W/src/given",
        stdout="gone",
        complains=("/m/given.*No such file",),
    ),
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
