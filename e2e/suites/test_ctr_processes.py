"""What a process may do and gets to see, from inside a container: processes, signals, memory, sockets, clocks, rights, /proc."""

import pytest

from harness.answers import Case
from harness.facts import Fact, PythonGroup, each_fact, each_group

NO_MODULES = "the guest's kernel has no loadable modules, no kexec and no I/O ports, which a container may not use anywhere"

PROCESSES = PythonGroup(
    "processes",
    "--seccomp",
    (
        Fact("orphans-go-to-init", "r, w = os.pipe()\ndef middle():\n    def orphan():\n        while os.getppid() == before: time.sleep(0.01)\n        os.write(w, str(os.getppid()).encode())\n    before = os.getpid(); child(orphan)\nend(child(middle)); print(os.read(r, 9))", "b'1'"),
        Fact("orphans-go-to-a-subreaper", "libc.prctl(36, 1, 0, 0, 0); r, w = os.pipe()\ndef middle():\n    before = os.getpid()\n    def orphan():\n        while os.getppid() == before: time.sleep(0.01)\n        os.write(w, str(os.getppid()).encode())\n    child(orphan)\nend(child(middle)); print(int(os.read(r, 9)) == os.getpid())", "True"),
        Fact("statuses", "print(end(child(lambda: 7)), end(child(lambda: os.kill(os.getpid(), 15))), end(child(lambda: os.kill(os.getpid(), 6))))", "7 -15 -6"),
        Fact("stop-and-continue", "pid = child(time.sleep, 15); os.kill(pid, signal.SIGSTOP); _, s = os.waitpid(pid, os.WUNTRACED); print(os.WIFSTOPPED(s), os.WSTOPSIG(s)); os.kill(pid, signal.SIGCONT); _, s = os.waitpid(pid, os.WCONTINUED); print(os.WIFCONTINUED(s)); os.kill(pid, 9); print(end(pid))", "True 19\nTrue\n-9"),
        Fact("signal-to-a-group", "r, w = os.pipe()\ndef leader():\n    os.setpgid(0, 0); members = [child(time.sleep, 15) for _ in range(3)]; os.write(w, b'x'); [end(m) for m in members]\npid = child(leader); os.read(r, 1); os.killpg(pid, 10); print(end(pid), tried(os.killpg, pid, 0))", "-10 (ESRCH|None)"),
        Fact("signal-to-nobody", "print(tried(os.kill, 4000000, 0), tried(os.kill, os.getpid(), 65), tried(os.kill, os.getpid(), 0))", "ESRCH EINVAL None"),
        Fact("signals-to-init-are-lost", "os.kill(1, 9); os.kill(1, 15); print(os.getppid())", "^1"),
        Fact("real-time-signals-queue", "got = []; signal.pthread_sigmask(signal.SIG_BLOCK, [36, 37, 10])\nfor n in (37, 36, 36, 10, 10): os.kill(os.getpid(), n)\nwhile (s := signal.sigtimedwait([36, 37, 10], 0.1)): got.append(int(s.si_signo))\nprint(got)", r"\[10, 36, 36, 37\]"),
        Fact("interval-timer", "got = []; signal.signal(signal.SIGALRM, lambda *_: got.append(1)); signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)\nwhile len(got) < 3: time.sleep(0.01)\nprint('three')", "three"),
        Fact("sessions", "def other():\n    os.setsid(); print(os.getsid(0) == os.getpid() == os.getpgrp(), tried(os.setsid), tried(os.open, '/dev/tty', os.O_RDWR))\nend(child(other))", "True EPERM ENXIO"),
        Fact("terminal-of-its-own", "import pty\npid, master = pty.fork()\nif pid == 0: os.execvp('sh', ['sh', '-c', 'stty -echo; tty | cut -c1-9; stty size; read x; echo got $x; exit 4'])\nos.write(master, b'line\\n'); data = b''\nwhile True:\n    part = tried(os.read, master, 999)\n    if part in ('EIO', b''): break\n    data += part\nprint(sorted(set(data.decode().split()) - {'line'}), end(pid))", r"'/dev/pts/', '0', 'got'\] 4"),
        Fact("many-processes", "pids = [child(time.sleep, 0.5) for _ in range(60)]; print(len(set(pids)), sum(end(pid) for pid in pids))", "^60 0"),
        Fact("many-threads", "import threading\ngo = threading.Event(); threads = [threading.Thread(target=go.wait) for _ in range(200)]; [t.start() for t in threads]; print(len(os.listdir('/proc/self/task'))); go.set(); [t.join() for t in threads]; print(threading.active_count())", "201\n1"),
        Fact("pid-descriptors", "pid = child(time.sleep, 15); fd = os.pidfd_open(pid); print(select.select([fd], [], [], 0)[0]); signal.pidfd_send_signal(fd, 9); print(select.select([fd], [], [], 5)[0] == [fd], os.waitid(os.P_PIDFD, fd, os.WEXITED).si_status)", r"\[\]\nTrue 9"),
        Fact("trace-a-child", "pid = child(lambda: libc.ptrace(0, 0, 0, 0) or os.kill(os.getpid(), 19)); _, s = os.waitpid(pid, 0); print(os.WIFSTOPPED(s), call('ptrace', 7, pid, 0, 0), end(pid))", "True"),
        Fact("memory-of-a-child", "b = ctypes.create_string_buffer(b'before'); pid = child(time.sleep, 15); a = ctypes.create_string_buffer(16); v = struct.pack('QQ', ctypes.addressof(a), 6); u = struct.pack('QQ', ctypes.addressof(b), 6); print(call('process_vm_readv', pid, v, 1, u, 1, 0), a.raw[:6]); os.kill(pid, 9); end(pid)", "6 b'before'"),
        Fact("long-arguments", "print(tried(os.execv, '/bin/true', ['true'] + ['y' * 131000] * 80), tried(os.execv, '/bin/true', ['true', 'y' * 131072]), end(child(lambda: os.execv('/bin/true', ['true'] + ['y' * 131000] * 10))))", "E2BIG E2BIG 0"),
        Fact("long-environment", "print(tried(os.execve, '/bin/true', ['true'], {f'V{n}': 'y' * 130000 for n in range(80)}), end(child(lambda: os.execve('/bin/true', ['true'], {f'V{n}': 'y' * 100000 for n in range(8)}))))", "E2BIG 0"),
        Fact("program-in-memory", "fd = os.memfd_create('p', 0); os.write(fd, read('/bin/echo')); print(end(child(lambda: os.execve(fd, ['echo', 'from memory'], {}))))", "from memory\n0"),
        Fact("sealed-memory", "fd = os.memfd_create('p', os.MFD_ALLOW_SEALING); os.write(fd, b'x'); fcntl.fcntl(fd, 1033, 8 | 2); print(tried(os.write, fd, b'y'), tried(os.ftruncate, fd, 0))", "EPERM EPERM"),
        Fact("wait-for-events", "e = os.eventfd(3); p = select.epoll(); p.register(e, select.EPOLLIN); print(len(p.poll(1)), os.eventfd_read(e)); s = libc.signalfd(-1, struct.pack('Q', 1 << 9), 0x800); signal.pthread_sigmask(signal.SIG_BLOCK, [10]); os.kill(os.getpid(), 10); print(struct.unpack_from('I', os.read(s, 128))[0])", "1 3\n10"),
        Fact("io-uring", "print(call(425, 4, ctypes.create_string_buffer(120)))", "EPERM|ENOSYS"),
        Fact("futexes-and-semaphores", "import threading\ns = threading.Semaphore(0); threading.Timer(0.05, s.release).start(); print(s.acquire(timeout=5)); m = call('semget', 0, 1, 0o1600); print(call('semctl', m, 0, 16, 5), call('semctl', m, 0, 12, 0), call('semctl', m, 0, 0, 0))", "True\n0 5 0"),
        Fact("shared-memory-segments", "i = call('shmget', 0, 4096, 0o1600); libc.shmat.restype = ctypes.c_void_p; at = libc.shmat(i, None, 0); ctypes.memmove(at, b'seg', 3); end(child(lambda: ctypes.memmove(at, b'S', 1) and 0)); print(ctypes.string_at(at, 3), call('shmctl', i, 0, 0))", "b'Seg' 0"),
        Fact("message-queues", "i = call('msgget', 0, 0o1600); b = ctypes.create_string_buffer(struct.pack('q', 5) + b'mess'); print(call('msgsnd', i, b, 4, 0)); a = ctypes.create_string_buffer(64); print(call('msgrcv', i, a, 56, 0, 0), a.raw[8:12], call('msgctl', i, 0, 0))", "0\n4 b'mess' 0"),
        Fact("posix-queues", "rt = libc; q = libc.mq_open(b'/q', os.O_CREAT | os.O_RDWR, 0o600, None); print(q > 0, libc.mq_send(q, b'hello', 5, 1)); b = ctypes.create_string_buffer(8192); print(libc.mq_receive(q, b, 8192, None), b.value, os.listdir('/dev/mqueue'))", r"True 0\n5 b'hello' \['q'\]"),
        Fact("unknown-system-calls", "print(call(999), call(462 + 100))", "ENOSYS ENOSYS"),
        Fact("new-system-calls", "write('f'); print(call(452, -100, b'f', 0o640, 0x100), oct(os.stat('f').st_mode))", "^0 0o100640"),
    ),
)

RIGHTS = PythonGroup(
    "rights-and-views",
    "",
    (
        Fact("administration", "print(call('mount', b'x', b'/mnt', b'tmpfs', 0, 0), call('umount', b'/proc'), call('sethostname', b'x', 1), call('setdomainname', b'x', 1), call('reboot', 0), call('swapon', b'/x', 0), call('settimeofday', struct.pack('qq', 1, 1), 0))", "EPERM EPERM EPERM EPERM EPERM"),
        Fact("kernel-objects", "print(call(175, b'', 0, b''), call(246, 0, 0, 0, 0), call(321, 0, ctypes.create_string_buffer(128), 128), call(298, ctypes.create_string_buffer(128), 0, -1, -1, 0))", "^EPERM EPERM", "^ENOSYS ENOSYS", NO_MODULES),
        Fact("ports", "print(call('iopl', 3), call('ioperm', 0, 1, 1))", "EPERM EPERM", "ENOSYS ENOSYS", NO_MODULES),
        Fact("new-namespaces", "print([call('unshare', flag) for flag in (0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000, 0x2000000)])", "'EPERM', 'EPERM'"),
        Fact("changing-root", "os.mkdir('r'); print(call('chroot', b'r'), tried(os.listdir, '/'))", r"0 \[\]"),
        Fact("nice-and-real-time", "print(tried(os.nice, 5), tried(os.setpriority, os.PRIO_PROCESS, 0, -5), tried(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)), tried(os.sched_setscheduler, 0, os.SCHED_IDLE, os.sched_param(0)))", "5 EACCES EPERM None"),
        Fact("users", "os.setgroups([7]); os.setresgid(8, 8, 8); os.setresuid(9, 9, 9); print(os.getresuid(), os.getgroups(), tried(os.setuid, 0), tried(os.setgroups, [0]))", r"\(9, 9, 9\) \[7\] EPERM EPERM"),
        Fact("highest-users", "print(tried(os.setresuid, 65535, 65535, 65535), os.getuid())", "None 65535"),
        Fact("limits-are-kept", "soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\ntry: resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard + 1)); print('raised')\nexcept ValueError as error: print(soft, hard, error)", "1024 1024 not allowed to raise"),
        Fact("limits", "print([resource.getrlimit(n) for n in (0, 1, 2, 3, 5, 7, 8, 9, 10, 12, 13, 14)])", r"\(-1, -1\)"),
        Fact("locked-memory", "m = mmap.mmap(-1, 1 << 26); a = ctypes.addressof(ctypes.c_char.from_buffer(m)); print(call('mlock', a, 1 << 12), call('mlock', a, 1 << 25))", "0 (ENOMEM|EPERM|0)"),
        Fact("reserved-memory", "m = mmap.mmap(-1, 1 << 36, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000); m[1 << 35] = 1; print(m[1 << 35])", "^1"),
        Fact("tcp-and-udp", "s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); a, peer = s.accept(); a.sendall(b'x' * 300000) if os.fork() else os._exit(len(c.recv(300000, socket.MSG_WAITALL)) != 300000)\na.close(); print(os.wait()[1]); u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', 0)); v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); v.sendto(b'datagram', u.getsockname()); print(u.recv(99), peer[0])", "^0\nb'datagram' 127.0.0.1"),
        Fact("ipv6-loopback", "s = socket.create_server(('::1', 0), family=socket.AF_INET6); c = socket.create_connection(s.getsockname()[:2]); print(s.accept()[1][0])", "::1"),
        Fact("port-taken", "s = socket.create_server(('127.0.0.1', 0)); t = socket.socket(); print(tried(t.bind, s.getsockname()), tried(socket.create_connection, ('127.0.0.1', 1)), tried(socket.create_connection, ('192.0.2.1', 1)))", "EADDRINUSE ECONNREFUSED ENETUNREACH"),
        Fact("raw-sockets", "print(tried(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1).__class__.__name__, tried(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 3).__class__.__name__)", "socket socket"),
        Fact("abstract-sockets", "s = socket.socket(socket.AF_UNIX); s.bind('\\0name'); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect('\\0name'); print(s.accept()[1] in (b'', ''))", "True"),
        Fact("interfaces", "print(socket.if_nameindex())", r"\(1, 'lo'\)\]"),
        Fact("route-socket", "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); s.bind((0, 0)); s.send(struct.pack('IHHII', 20, 26, 0x301, 1, 0) + bytes(4)); print(len(s.recv(9999)) >= 20)", "True"),
        Fact("clocks", "a, b = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME); time.sleep(0.1); print(0.1 <= time.monotonic() - a < 5, time.clock_getres(time.CLOCK_MONOTONIC) < 1e-6, time.clock_gettime(time.CLOCK_BOOTTIME) > b, time.time() > 1.7e9, time.process_time() < 60)", "True True True True True"),
        Fact("own-proc", "print(os.readlink('/proc/self') == str(os.getpid()), os.readlink('/proc/self/cwd') == os.getcwd(), os.readlink('/proc/self/root'), os.path.basename(os.readlink('/proc/self/exe')).startswith('python'), read('/proc/self/comm'), read('/proc/self/cmdline')[:8])", "True True / True"),
        Fact("own-names", "libc.prctl(15, b'renamed', 0, 0, 0); print(read('/proc/self/comm'), os.open('f', os.O_CREAT) and os.readlink('/proc/self/fd/3') == os.getcwd() + '/f')", "b'renamed"),
        Fact("cgroup-of-the-process", "print(read('/proc/self/cgroup').startswith(b'0::/'), len(read('/proc/self/cgroup').splitlines()))", "True 1"),
        Fact("root-of-the-mount-table", "rows = [l.split() for l in open('/proc/self/mountinfo')]; print(sum(r[4] == '/' for r in rows), len({r[0] for r in rows}) == len(rows), any('/var/lib/containerd' in r[3] for r in rows))", "1 True False"),
        Fact("proc-is-guarded", "print(tried(write, '/proc/sys/kernel/core_pattern'), tried(write, '/proc/sysrq-trigger'), tried(write, '/proc/sys/vm/drop_caches'), tried(os.listdir, '/proc/scsi') if os.path.exists('/proc/scsi') else [], tried(write, '/proc/sys/kernel/hostname'))", "EROFS EROFS EROFS .* EROFS"),
        Fact("sys-is-guarded", "print(tried(write, '/sys/kernel/mm/transparent_hugepage/enabled', b'never', os.O_WRONLY), tried(os.listdir, '/sys/firmware'), tried(os.mkdir, '/sys/fs/cgroup/x'))", "EROFS"),
        Fact("dev-is-a-folder-of-its-own", "print(tried(os.mknod, '/dev/n', stat.S_IFCHR | 0o600, os.makedev(1, 3)), tried(os.open, '/dev/mem', os.O_RDONLY), tried(os.symlink, 'null', '/dev/l'), sorted(os.listdir('/dev'))[-5:])", "None ENOENT None"),
        Fact("core-pattern-is-not-ours", "print(resource.getrlimit(resource.RLIMIT_CORE)[0] in (0, -1)); signal.signal(signal.SIGALRM, signal.SIG_DFL); resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); print(end(child(lambda: os.abort())), os.listdir())", r"True\n-6 \[\]"),
        Fact("random-numbers", "print(len(os.getrandom(64)), os.getrandom(16) != os.getrandom(16), len(read('/proc/sys/kernel/random/uuid')))", "64 True 37"),
        Fact("keys", "key = call(248, b'user', b'k', b'value', 5, -2); b = ctypes.create_string_buffer(9); print(call(250, 11, key, b, 9) if isinstance(key, int) else key, b.value)", "5 b'value'|E"),
        Fact("user-namespace", "def other():\n    print(call('unshare', 0x10000000), os.getuid())\nend(child(other))", "0 65534|E"),
        Fact("personality", "print(call('personality', 0xffffffff))", "^0"),
        Fact("groups-of-init", "print(sorted(os.getgroups()))", r"\["),
    ),
)

GROUPS = (PROCESSES, RIGHTS)

CASES = (
    Case(
        "locks-between-execs",
        """begin $DEBIAN $ID sh -c 'exec 9>/tmp/lock; flock 9; echo ready; exec sleep 1000'
        ctr task exec --exec-id a $ID sh -c 'flock -n /tmp/lock true || echo held'
        ctr task exec --exec-id b $ID sh -c 'flock -n /tmp/other echo free'
        ctr task kill -s KILL $ID; finish""",
        stdout="held\nfree\nended with 137\nready",
    ),
    Case(
        "core-files-follow-their-limit",
        """run $DEBIAN $ID bash -c 'cd /tmp; for limit in unlimited 0; do
            (ulimit -S -c $limit && bash -c "kill -ABRT \\$\\$") 2>/dev/null; echo "$limit: $? $(ls | grep -c core)"; rm -f core*
        done'""",
        stdout="unlimited: 134 1\n0: 134 0",
        complains=("core dumped",),
    ),
    Case("memory-limit-ends-the-container", "run --memory-limit 33554432 $DEBIAN $ID python3 -I -S -c 'x = bytearray(1 << 28); print(1)'", status=137, stdout=""),
    Case("processor-share-is-seen", "run --cpu-quota 50000 --cpu-period 100000 $BUSYBOX $ID sh -c 'cat /sys/fs/cgroup/cpu.max 2>/dev/null || echo none'", says=("50000 100000|none",)),
    Case("signal-that-init-sends-itself", "run $DEBIAN $ID python3 -I -S -c 'import os, signal; signal.signal(10, lambda *_: os._exit(42)); os.kill(1, 10)'", status=42),
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
