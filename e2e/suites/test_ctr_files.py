"""What programs do with files, and expect of a Linux file system: on the container's root and on a volume."""

import pytest

from harness.facts import Fact, PythonGroup, each_fact, each_group

pytestmark = pytest.mark.in_turns

NOT_PASSED_ON = "the file server does not pass it on yet"

# name, Python, what runc says; a documented difference and its reason where there is one.
QUESTIONS = (
    ("unnamed-file", "fd = tried(os.open, '.', os.O_TMPFILE | os.O_RDWR); os.write(fd, b'content'); print(os.listdir(), os.fstat(fd).st_nlink); os.link(f'/proc/self/fd/{fd}', 'named', follow_symlinks=True); print(read('named'), os.stat('named').st_nlink, tried(os.link, f'/proc/self/fd/{fd}', 'named', follow_symlinks=True))", r"\[\] 0\nb'content' 1 EEXIST"),
    ("unnamed-file-of-python", "import tempfile; f = tempfile.TemporaryFile(dir='.'); f.write(b'some'); f.seek(0); print(f.read(), os.listdir())", r"b'some' \[\]"),
    ("unlinked-file-lives-on", "fd = os.open('f', os.O_CREAT | os.O_RDWR); os.unlink('f'); os.write(fd, b'still'); print(os.pread(fd, 9, 0), os.fstat(fd).st_nlink, os.listdir())", r"b'still' 0 \[\]"),
    ("map-shared", "write('f', bytes(8192)); fd = os.open('f', os.O_RDWR); m = mmap.mmap(fd, 8192); m[4090:4100] = b'0123456789'; print(os.pread(fd, 10, 4090)); os.pwrite(fd, b'new', 0); print(m[0:3]); m.flush(); print(read('f')[4090:4100])", r"b'0123456789'\nb'new'\nb'0123456789'"),
    ("map-private", "write('f', b'a' * 4096); fd = os.open('f', os.O_RDWR); m = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE); m[0:1] = b'b'; print(m[0:1], read('f')[:1])", "b'b' b'a'"),
    ("map-between-processes", "write('f', bytes(4096)); fd = os.open('f', os.O_RDWR); m = mmap.mmap(fd, 4096)\ndef other():\n    mmap.mmap(os.open('f', os.O_RDWR), 4096)[7:8] = b'!'\nend(child(other)); print(m[7:8])", "b'!'"),
    ("map-beyond-the-end", "write('f', b'x' * 10); fd = os.open('f', os.O_RDWR); m = mmap.mmap(fd, 10)\ndef other():\n    os.ftruncate(fd, 0); print(m[0])\nprint(end(child(other)))", "^-7"),
    ("map-program", "fd = os.open('/usr/bin/true', os.O_RDONLY); m = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC); print(m[1:4])", "b'ELF'"),
    ("rename-exchange", "write('a', b'1'); write('b', b'2'); print(call('renameat2', -100, b'a', -100, b'b', 2), read('a'), read('b'))", "0 b'2' b'1'"),
    ("rename-without-replacing", "write('a'); write('b'); print(call('renameat2', -100, b'a', -100, b'b', 1), call('renameat2', -100, b'a', -100, b'c', 1), sorted(os.listdir()))", r"EEXIST 0 \['b', 'c'\]"),
    ("rename-over-an-open-file", "write('a', b'old'); write('b', b'new'); fd = os.open('a', os.O_RDONLY); os.rename('b', 'a'); print(os.read(fd, 9), read('a'), os.listdir())", r"b'old' b'new' \['a'\]"),
    ("rename-folders", "os.makedirs('a/b'); os.mkdir('c'); write('c/f'); print(tried(os.rename, 'a', 'a/b/c'), tried(os.rename, 'a', 'c'), tried(os.rename, 'c', 'a/b')); print(sorted(os.listdir('a/b')))", r"EINVAL ENOTEMPTY None\n\['f'\]"),
    ("rename-between-file-systems", "write('a'); print(tried(os.rename, 'a', '/dev/shm/a'), tried(os.link, 'a', '/dev/shm/a'))", "EXDEV EXDEV"),
    ("hard-links", "write('a'); os.link('a', 'b'); os.symlink('a', 's'); os.link('s', 't', follow_symlinks=False); print(os.stat('a').st_nlink, os.path.samefile('a', 'b'), os.readlink('t')); os.unlink('a'); print(os.stat('b').st_nlink)", "2 True a\n1"),
    ("link-an-open-file", "write('a', b'data'); fd = os.open('a', os.O_RDONLY); print(tried(os.link, f'/proc/self/fd/{fd}', 'b', follow_symlinks=True)); print(read('b'))", "None\nb'data'"),
    ("link-a-folder", "os.mkdir('d'); print(tried(os.link, 'd', 'e'), tried(os.unlink, 'd'), tried(os.rmdir, '.'))", "EPERM EISDIR EINVAL"),
    ("symbolic-link-loop", "os.symlink('b', 'a'); os.symlink('a', 'b'); print(tried(os.stat, 'a'), tried(os.open, 'a', os.O_RDONLY | os.O_NOFOLLOW), tried(os.readlink, 'a'))", "ELOOP ELOOP b"),
    ("long-symbolic-link", "os.symlink('x' * 4000, 'a'); print(len(os.readlink('a')), os.lstat('a').st_size, tried(os.symlink, 'x' * 4096, 'b'))", "4000 4000 ENAMETOOLONG"),
    ("attributes", "write('f'); os.setxattr('f', 'user.a', b'1'); os.setxattr('f', 'user.b', b'\\0\\xff' * 500); print(sorted(os.listxattr('f')), os.getxattr('f', 'user.a'), len(os.getxattr('f', 'user.b'))); os.removexattr('f', 'user.a'); print(os.listxattr('f'), tried(os.getxattr, 'f', 'user.a'))", r"\['user.a', 'user.b'\] b'1' 1000\n\['user.b'\] ENODATA"),
    ("attributes-made-or-replaced", "write('f'); print(tried(os.setxattr, 'f', 'user.a', b'1', os.XATTR_REPLACE), tried(os.setxattr, 'f', 'user.a', b'1', os.XATTR_CREATE), tried(os.setxattr, 'f', 'user.a', b'2', os.XATTR_CREATE), os.getxattr('f', 'user.a'))", "ENODATA None EEXIST b'1'"),
    ("attributes-refused", "write('f'); print(tried(os.setxattr, 'f', 'user.' + 'n' * 251, b'1'), tried(os.setxattr, 'f', 'user.big', bytes(70000)), tried(os.setxattr, 'f', 'trusted.a', b'1'), tried(os.setxattr, 'f', 'nonsense', b'1'))", "ERANGE E2BIG EPERM ENOTSUP"),
    ("access-lists", "write('f'); acl = struct.pack('<I' + 'HHI' * 5, 2, 1, 6, 0xffffffff, 2, 4, 1000, 4, 4, 0xffffffff, 16, 4, 0xffffffff, 32, 4, 0xffffffff); print(tried(os.setxattr, 'f', 'system.posix_acl_access', acl), len(os.getxattr('f', 'system.posix_acl_access'))); os.mkdir('d'); os.setxattr('d', 'system.posix_acl_default', acl); write('d/f'); print(len(os.getxattr('d/f', 'system.posix_acl_access')))", "None 44\n44"),
    ("holes", "fd = os.open('f', os.O_CREAT | os.O_RDWR); os.pwrite(fd, b'x', 1 << 30); s = os.fstat(fd); print(s.st_size, s.st_blocks * 512 < 1 << 20, os.lseek(fd, 0, os.SEEK_DATA) > 1 << 29, os.lseek(fd, 0, os.SEEK_HOLE), os.pread(fd, 3, 5))", r"1073741825 True True 0 b'\\x00\\x00\\x00'"),
    ("allocate", "fd = os.open('f', os.O_CREAT | os.O_RDWR); os.posix_fallocate(fd, 0, 1 << 20); s = os.fstat(fd); print(s.st_size, s.st_blocks * 512 >= 1 << 20)", "1048576 True"),
    ("allocate-beyond-the-end", "fd = os.open('f', os.O_CREAT | os.O_RDWR); print(call('fallocate', fd, 1, 0, 1 << 20), os.fstat(fd).st_size)", "^0 0"),
    ("punch-a-hole", "write('f', b'x' * 65536); fd = os.open('f', os.O_RDWR); print(call('fallocate', fd, 3, 8192, 16384), os.fstat(fd).st_size, os.pread(fd, 2, 8191), os.pread(fd, 2, 24575))", r"0 65536 b'x\\x00' b'\\x00x'"),
    ("zero-a-range", "write('f', b'x' * 65536); fd = os.open('f', os.O_RDWR); print(call('fallocate', fd, 16, 4096, 4096), os.pread(fd, 2, 4095))", r"0 b'x\\x00'"),
    ("copy-file-range", "write('a', bytes(range(256)) * 4096); a = os.open('a', os.O_RDONLY); b = os.open('b', os.O_CREAT | os.O_RDWR); n = 0\nwhile n < 1 << 20:\n    n += os.copy_file_range(a, b, (1 << 20) - n)\nprint(n, read('a') == read('b')); print(os.copy_file_range(a, b, 100, 0, 5), os.pread(b, 4, 5))", r"1048576 True\n100 b'\\x00\\x01\\x02\\x03'"),
    ("send-file", "write('a', b'0123456789' * 1000); a = os.open('a', os.O_RDONLY); b = os.open('b', os.O_CREAT | os.O_RDWR); print(os.sendfile(b, a, 100, 9000), len(read('b')))", "9000 9000"),
    ("splice-through-a-pipe", "write('a', b'y' * 5000); a = os.open('a', os.O_RDONLY); b = os.open('b', os.O_CREAT | os.O_RDWR); r, w = os.pipe(); print(os.splice(a, w, 5000), os.splice(r, b, 5000), len(read('b')))", "5000 5000 5000"),
    ("direct-io", "fd = os.open('f', os.O_CREAT | os.O_RDWR | os.O_DIRECT); m = mmap.mmap(-1, 8192); m[:] = b'd' * 8192; print(os.pwritev(fd, [m], 0), os.preadv(fd, [m], 4096), read('f') == b'd' * 8192)", "8192 4096 True"),
    ("vectors", "fd = os.open('f', os.O_CREAT | os.O_RDWR); print(os.writev(fd, [b'a' * 10, b'', b'b' * 5])); x, y = bytearray(4), bytearray(20); print(os.preadv(fd, [x, y], 8), x, y[:7])", r"15\n7 bytearray\(b'aabb'\) bytearray\(b'bbb"),
    ("append-from-two", "a = os.open('f', os.O_CREAT | os.O_WRONLY | os.O_APPEND)\ndef other():\n    b = os.open('f', os.O_WRONLY | os.O_APPEND)\n    for n in range(40): os.write(b, b'b' * 50)\npid = child(other)\nfor n in range(40): os.write(a, b'a' * 50)\nend(pid); data = read('f'); print(len(data), {data[n:n + 50].count(data[n:n + 1]) for n in range(0, 4000, 50)})", r"4000 \{50\}"),
    ("append-does-not-seek", "write('f', b'1234'); fd = os.open('f', os.O_RDWR | os.O_APPEND); os.pwrite(fd, b'56', 0); print(read('f'))", "b'123456'"),
    ("truncate", "write('f', b'x' * 100); os.truncate('f', 10); os.truncate('f', 20); print(read('f')); print(tried(os.truncate, 'f', -1), tried(os.open, 'f', os.O_WRONLY | os.O_CREAT | os.O_EXCL))", r"x\\x00.*\nEINVAL EEXIST"),
    ("sync", "fd = os.open('f', os.O_CREAT | os.O_RDWR | os.O_DSYNC); os.write(fd, b'x'); d = os.open('.', os.O_RDONLY); print(tried(os.fsync, fd), tried(os.fdatasync, fd), tried(os.fsync, d), call('syncfs', fd), call('sync_file_range', fd, 0, 0, 2), os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED))", "None None None 0 0 None"),
    ("watch-a-folder", "n = libc.inotify_init1(os.O_NONBLOCK); libc.inotify_add_watch(n, b'.', 0xfff & ~0x31); write('a'); os.rename('a', 'b'); os.chmod('b', 0o600); os.unlink('b'); os.mkdir('d'); data = os.read(n, 4096); at = 0\nwhile at < len(data):\n    _, mask, _, length = struct.unpack_from('iIII', data, at); print(hex(mask), data[at + 16:at + 16 + length].rstrip(b'\\0').decode()); at += 16 + length", "0x100 a\n0x2 a\n0x8 a\n0x40 a\n0x80 b\n0x4 b\n0x200 b\n0x40000100 d"),
    ("watch-a-file-that-goes", "write('f'); n = libc.inotify_init1(os.O_NONBLOCK); libc.inotify_add_watch(n, b'f', 0xc04); os.unlink('f'); print([hex(x[1]) for x in struct.iter_unpack('iIII', os.read(n, 4096))])", "'0x400', '0x8000'"),
    ("unix-socket", "s = socket.socket(socket.AF_UNIX); s.bind('s'); s.listen(); print(stat.filemode(os.stat('s').st_mode)[0]); c = socket.socket(socket.AF_UNIX); c.connect('s'); a, _ = s.accept(); c.sendall(b'hi'); print(a.recv(9), a.getpeername() == '', c.getpeername()); print(struct.unpack('iii', a.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1:])", r"s\nb'hi' True s\n\(0, 0\)"),
    ("unix-socket-without-listener", "s = socket.socket(socket.AF_UNIX); s.bind('s'); s.close(); c = socket.socket(socket.AF_UNIX); print(tried(c.connect, 's'), tried(c.connect, 'none'), tried(socket.socket(socket.AF_UNIX).bind, 's'))", "ECONNREFUSED ENOENT EADDRINUSE"),
    ("unix-socket-passes-files", "write('f', b'through'); s, c = socket.socketpair(); socket.send_fds(s, [b'x'], [os.open('f', os.O_RDONLY)]); print(os.read(socket.recv_fds(c, 9, 1)[1][0], 9))", "b'through'"),
    ("fifo", "os.mkfifo('p'); print(tried(os.open, 'p', os.O_WRONLY | os.O_NONBLOCK))\ndef other():\n    write('p', b'through', os.O_WRONLY)\npid = child(other); print(read('p'), end(pid))", "ENXIO\nb'through' 0"),
    ("longest-name", "write('n' * 255, b'1'); print(read('n' * 255), tried(os.open, 'n' * 256, os.O_CREAT), tried(os.mkdir, 'ü' * 128), tried(os.mkdir, 'ü' * 127))", "b'1' ENAMETOOLONG ENAMETOOLONG None"),
    ("strange-names", "names = [b'\\xff\\xfe', b'a\\nb', b'*', b'-rf', b' ', '✓ ünï'.encode(), b'\\\\', b'con:', b'..a']\nfor n in names: write(n)\nprint(sorted(os.listdir(b'.')) == sorted(names), tried(os.open, b'', os.O_CREAT))", "True ENOENT"),
    ("deep-folders", "for n in range(21): os.mkdir('d' * 200); os.chdir('d' * 200)\nwrite('f'); path = tried(os.getcwd); print(os.path.exists('f'), len(path) > 4100 if len(path) > 99 else path, tried(os.stat, '/'.join(['..'] * 21) + '/' + '/'.join(['d' * 200] * 21)))", "True True ENAMETOOLONG|True ENAMETOOLONG ENAMETOOLONG"),
    ("many-files", "for n in range(60): write(f'file-{n}')\nprint(len(os.listdir()), len(set(os.listdir())))\nfor entry in os.scandir(): os.unlink(entry.path)\nprint(os.listdir())", r"60 60\n\[\]"),
    ("listing-while-files-come", "for n in range(40): write(f'a{n}')\nseen = []\nfor entry in os.scandir():\n    seen.append(entry.name)\n    if len(seen) < 15: write(f'b{len(seen)}')\nold = [n for n in seen if n[0] == 'a']; print(len(old), len(set(old)))", "40 40"),
    ("types-in-listings", "write('f'); os.mkdir('d'); os.symlink('x', 'l'); os.mkfifo('p'); print(sorted((e.name, e.is_file(follow_symlinks=False), e.is_dir(follow_symlinks=False), e.is_symlink(), e.inode() == os.lstat(e.name).st_ino) for e in os.scandir()))", r"\('d', False, True, False, True\)"),
    ("times", "write('f'); os.utime('f', ns=(1234567890123456789, 987654321987654321)); s = os.stat('f'); print(s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns > 10 ** 18); os.utime('f', (-5, 5)); print(os.stat('f').st_atime)", "1234567890123456789 987654321987654321 True\n-5"),
    ("times-follow-changes", "write('f'); os.utime('f', (1, 1)); os.utime('.', (1, 1)); write('f', b'y', os.O_WRONLY); s = os.stat('f'); print(s.st_mtime > 10 ** 9, os.stat('.').st_mtime); write('g'); print(os.stat('.').st_mtime > 10 ** 9, abs(time.time() - os.stat('g').st_mtime) < 5); os.utime('f', (1, 1)); read('f'); print(os.stat('f').st_mtime)", "True 1.0\nTrue True\n1.0"),
    ("birth-time", "write('f'); b = ctypes.create_string_buffer(256); print(call('statx', -100, b'f', 0, 0xfff, b), bool(struct.unpack_from('I', b, 0)[0] & 0x800))", "0 True", "0 False", NOT_PASSED_ON),
    ("file-flags", "write('f'); fd = os.open('f', os.O_RDONLY); print(tried(fcntl.ioctl, fd, 0x80086601, bytes(8)).__class__.__name__)", "bytes", "str", NOT_PASSED_ON),
    ("file-system", "s = os.statvfs('.'); print(s.f_namemax, s.f_frsize, s.f_bfree <= s.f_blocks, s.f_files > 0)", "255 4096 True True"),
    ("modes", "os.umask(0); write('f'); os.chmod('f', 0o7777); print(oct(os.stat('f').st_mode)); os.mkdir('d', 0o2770); os.chown('d', 0, 2000); os.chmod('d', 0o2770); write('d/f'); os.mkdir('d/e'); print(os.stat('d/f').st_gid, os.stat('d/e').st_gid, oct(os.stat('d/e').st_mode))", "0o107777\n2000 2000 0o42"),
    ("writing-clears-set-id", "os.chmod('.', 0o755); write('f'); os.chown('f', 1000, 1000); os.chmod('f', 0o6755)\ndef other():\n    os.setgid(1000); os.setuid(1000); write('f', b'new', os.O_WRONLY)\nprint(end(child(other)), oct(os.stat('f').st_mode)); os.chmod('f', 0o6755); os.chown('f', 0, 0); print(oct(os.stat('f').st_mode))", "0 0o100755\n0o100755"),
    ("rights-of-another-user", "os.chmod('.', 0o755); os.mkdir('shut', 0o700); write('shut/f'); write('mine'); os.chmod('mine', 0o600); os.mkdir('open'); os.chmod('open', 0o1777); write('open/f')\ndef other():\n    os.setgroups([]); os.setgid(1000); os.setuid(1000)\n    print(tried(os.listdir, 'shut'), tried(os.open, 'mine', os.O_RDONLY), tried(os.unlink, 'open/f'), tried(os.chmod, 'mine', 0), tried(os.open, 'new', os.O_CREAT), os.access('mine', os.R_OK)); write('open/g'); print(os.stat('open/g').st_uid, tried(os.chown, 'open/g', 0, 0), tried(os.unlink, 'open/g'))\nend(child(other))", "EACCES EACCES EPERM EPERM EACCES False\n1000 EPERM None"),
    ("rights-of-a-group", "os.chmod('.', 0o755); write('f'); os.chown('f', 0, 2000); os.chmod('f', 0o640)\ndef other(groups):\n    os.setgroups(groups); os.setgid(1000); os.setuid(1000); print(tried(os.open, 'f', os.O_RDONLY).__class__.__name__, tried(os.open, 'f', os.O_WRONLY))\nend(child(other, [2000])); end(child(other, [2001]))", "int EACCES\nstr EACCES"),
    ("open-by-folder", "os.mkdir('d'); write('d/f', b'x'); d = os.open('d', os.O_PATH); print(tried(os.open, 'f', os.O_RDONLY, dir_fd=d).__class__.__name__, tried(os.read, d, 1), tried(os.open, 'd/f/g', os.O_RDONLY), tried(os.open, 'd', os.O_WRONLY), tried(os.open, 'd/f', os.O_DIRECTORY))", "int EBADF ENOTDIR EISDIR ENOTDIR"),
    ("open-beneath", "os.mkdir('d'); write('f'); os.symlink('../f', 'd/up'); os.symlink('/etc/passwd', 'd/out'); d = os.open('d', os.O_PATH); how = lambda flags: ctypes.create_string_buffer(struct.pack('QQQ', 0, 0, flags), 24); print([call(437, d, name, how(flags), 24) if isinstance(call(437, d, name, how(flags), 24), str) else 'open' for name, flags in ((b'up', 8), (b'up', 0), (b'out', 0x10), (b'up', 4))])", r"\['EXDEV', 'open', 'ENOENT', 'ELOOP'\]"),
    ("locks-of-flock", "fd = os.open('f', os.O_CREAT | os.O_RDWR); fcntl.flock(fd, fcntl.LOCK_SH)\ndef other():\n    o = os.open('f', os.O_RDWR); print(tried(fcntl.flock, o, fcntl.LOCK_EX | fcntl.LOCK_NB), tried(fcntl.flock, o, fcntl.LOCK_SH | fcntl.LOCK_NB))\nend(child(other)); fcntl.flock(fd, fcntl.LOCK_EX); end(child(other)); os.close(fd); end(child(other))", "EAGAIN None\nEAGAIN EAGAIN\nNone None"),
    ("locks-of-posix", "fd = os.open('f', os.O_CREAT | os.O_RDWR); fcntl.lockf(fd, fcntl.LOCK_EX, 10, 5)\ndef other():\n    o = os.open('f', os.O_RDWR); print(tried(fcntl.lockf, o, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0), tried(fcntl.lockf, o, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 12)); got = struct.unpack('hhqqi4x', fcntl.fcntl(o, fcntl.F_GETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))); print(got[0], got[2], got[3], got[4] == os.getppid())\nend(child(other)); os.close(os.open('f', os.O_RDONLY)); end(child(other))", "None EAGAIN|None EACCES"),
    ("locks-of-descriptions", "fd = os.open('f', os.O_CREAT | os.O_RDWR); lock = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0); fcntl.fcntl(fd, 37, lock); o = os.open('f', os.O_RDWR); print(tried(fcntl.fcntl, o, 37, lock)); os.close(os.open('f', os.O_RDONLY)); print(tried(fcntl.fcntl, o, 37, lock)); os.close(fd); print(type(tried(fcntl.fcntl, o, 37, lock)))", "EAGAIN\nEAGAIN\n<class 'bytes'>"),
    ("lock-is-waited-for", "fd = os.open('f', os.O_CREAT | os.O_RDWR); fcntl.flock(fd, fcntl.LOCK_EX); r, w = os.pipe()\ndef other():\n    o = os.open('f', os.O_RDWR); os.write(w, b'1'); fcntl.flock(o, fcntl.LOCK_EX); os.write(w, b'got')\npid = child(other); os.read(r, 1); print(select.select([r], [], [], 0.3)[0]); fcntl.flock(fd, fcntl.LOCK_UN); print(os.read(r, 3), end(pid))", r"\[\]\nb'got' 0"),
    ("lock-goes-with-its-owner", "fd = os.open('f', os.O_CREAT | os.O_RDWR); r, w = os.pipe()\ndef other():\n    fcntl.lockf(os.open('f', os.O_RDWR), fcntl.LOCK_EX); os.write(w, b'1'); time.sleep(15)\npid = child(other); os.read(r, 1); print(tried(fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)); os.kill(pid, 9); fcntl.lockf(fd, fcntl.LOCK_EX); print('got', end(pid))", "EAGAIN\ngot -9|EACCES\ngot -9"),
    ("deadlock-is-seen", "fd = os.open('f', os.O_CREAT | os.O_RDWR); fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0); r, w = os.pipe()\ndef other():\n    o = os.open('f', os.O_RDWR); fcntl.lockf(o, fcntl.LOCK_EX, 1, 1); os.write(w, b'1'); fcntl.lockf(o, fcntl.LOCK_EX, 1, 0)\npid = child(other); os.read(r, 1); time.sleep(0.3); print(tried(fcntl.lockf, fd, fcntl.LOCK_EX, 1, 1)); os.close(fd); print(end(pid))", "EDEADLOCK\n0", "^ended with -14", "a lock's server does not know who waits for whom"),
    ("program-that-runs-is-not-written", "write('s', read('/bin/sleep')); os.chmod('s', 0o755); pid = child(lambda: os.execv('./s', ['s', '15'])); time.sleep(0.3); print(tried(os.open, 's', os.O_WRONLY)); os.kill(pid, 9); end(pid); print(tried(os.open, 's', os.O_WRONLY).__class__.__name__)", "ETXTBSY\nint"),
    ("programs-of-the-folder", "write('s', b'#!/bin/sh\\necho $0 $1\\n'); os.chmod('s', 0o755); print(end(child(os.execv, './s', ['s', 'x']))); os.chmod('s', 0o644); print(tried(os.execv, './s', ['s']))", "./s x\n0\nEACCES"),
    ("folder-goes-under-a-process", "os.mkdir('d'); os.chdir('d'); os.rmdir('../d'); print(tried(os.getcwd), tried(os.open, 'f', os.O_CREAT), os.listdir('.')); os.chdir('/')", r"ENOENT ENOENT \[\]"),
    ("leases", "fd = os.open('f', os.O_CREAT | os.O_RDWR); print(tried(fcntl.fcntl, fd, fcntl.F_SETLEASE, fcntl.F_WRLCK))", "^0"),
    ("change-folder-owner-recursively", "os.makedirs('a/b/c'); write('a/b/f')\nfor top, folders, files in os.walk('a'):\n    for name in folders + files: os.lchown(os.path.join(top, name), 1000, 1001)\nprint(os.stat('a/b/f').st_uid, os.stat('a/b/c').st_gid, os.stat('a').st_uid)", "1000 1001 0"),
    ("files-that-are-many-times-open", "write('f'); resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); fds = []\nwhile True:\n    fd = tried(os.open, 'f', os.O_RDONLY)\n    if isinstance(fd, str): break\n    fds.append(fd)\nprint(fd, len(fds) > 50)", "EMFILE True"),
    ("read-what-is-gone-and-not-cached", "write('f', b'data' * 3000); fd = os.open('f', os.O_RDONLY); os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED); os.unlink('f'); print(os.read(fd, 8), os.fstat(fd).st_nlink, os.fstat(fd).st_size, os.listdir())", r"b'datadata' 0 12000 \[\]"),
    ("descriptor-for-reading", "write('f', b'x' * 5000); os.truncate('f', 1 << 20); fd = os.open('f', os.O_RDONLY); print(5000 <= os.lseek(fd, 0, os.SEEK_HOLE) < 1 << 20, tried(os.fsync, fd), tried(os.fchmod, fd, 0o600), tried(os.ftruncate, fd, 0), tried(os.write, fd, b'y'), os.isatty(fd))", "True None None EINVAL EBADF False"),
    ("emptied-by-opening-for-reading", "write('f', b'xyz'); fd = os.open('f', os.O_RDONLY | os.O_TRUNC); print(os.fstat(fd).st_size, os.read(fd, 5))", "0 b''"),
    ("locks-of-descriptors-for-reading", "write('f'); a, b = (os.open('f', os.O_RDONLY) for _ in '12'); fcntl.flock(a, fcntl.LOCK_EX); print(tried(fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB)); os.close(a); print(tried(fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB))", "EAGAIN\nNone"),
    ("read-by-several-at-once", "import threading; data = os.urandom(1 << 20); write('f', data); fd = os.open('f', os.O_RDONLY); os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED); parts = [b''] * 4\ndef part(n):\n    parts[n] = os.pread(fd, 1 << 18, n << 18)\nthreads = [threading.Thread(target=part, args=(n,)) for n in range(4)]\nfor thread in threads: thread.start()\nfor thread in threads: thread.join()\nprint(b''.join(parts) == data)", "True"),
    ("big-file", "fd = os.open('f', os.O_CREAT | os.O_RDWR); block = bytes(range(256)) * 4096\nfor n in range(5): os.write(fd, block)\nprint(os.fstat(fd).st_size, os.pread(fd, 4, 3 * (1 << 20) + 7), os.pread(fd, 9, 5 << 20), tried(os.lseek, fd, -1, 0))", r"5242880 b'\\x07\\x08\\t\\n' b'' EINVAL"),
)

ROOT = PythonGroup("files-of-root", "", tuple(Fact(*question) for question in QUESTIONS))


def on_volume(question):
    """The same question in a folder of the volume."""
    name, source, *rest = question
    return Fact(name, f"os.mkdir('/data/{name}'); os.chdir('/data/{name}')\n{source}", *rest)


ON_VOLUME = (
    "map-shared",
    "map-between-processes",
    "rename-exchange",
    "rename-over-an-open-file",
    "attributes",
    "holes",
    "punch-a-hole",
    "copy-file-range",
    "direct-io",
    "append-from-two",
    "watch-a-folder",
    "unix-socket",
    "fifo",
    "longest-name",
    "strange-names",
    "times",
    "modes",
    "writing-clears-set-id",
    "rights-of-another-user",
    "locks-of-flock",
    "locks-of-posix",
    "open-beneath",
)

VOLUME = PythonGroup(
    "files-of-volume",
    "--mount type=bind,src=$W/data,dst=/data,options=rbind:rw",
    tuple(on_volume(question) for question in QUESTIONS if question[0] in ON_VOLUME),
    before="mkdir $W/data",
)

GROUPS = (ROOT, VOLUME)


@each_fact(GROUPS)
def test_fact(group, fact, asker):
    asker.check(group, fact)


@each_group(GROUPS)
def test_ending(group, asker):
    asker.check_ending(group)
