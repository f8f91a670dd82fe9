"""Volumes that containers of one pod have in common: what leads from one container to the other through a file."""

import pytest

from harness.answers import Case

# one, other OPTIONS... PYTHON: containers of a pod, in the background until it is ready, and in the foreground; in both, /v is the
# volume, and nothing waits for ever.
FUNCTIONS = r"""
mkdir $W/v
GROUP="--annotation io.containerd.bulkhead.v2.group=$ID"
volume() { echo --mount type=bind,src=$W/v,dst=/v,options=rbind:$1; }
PROLOGUE='
import ctypes, mmap, os, select, signal, socket, struct, time
signal.alarm(60)
os.chdir("/v")
def ready():
    print("ready", flush=True)
def until(condition):
    while not condition():
        time.sleep(0.01)
def mapped(name):
    return mmap.mmap(os.open(name, os.O_RDWR), 4096)
'
one() { begin $GROUP $(volume rw) $DEBIAN $ID python3 -I -S -c "$PROLOGUE$1"; }
other() { local way=$1; shift; run $GROUP $(volume $way) $DEBIAN $ID-2 python3 -I -S -c "$PROLOGUE$1"; }
"""

CASES = (
    Case(
        "shared-volume-socket",
        FUNCTIONS
        + """
        one 's = socket.socket(socket.AF_UNIX); s.bind("s"); s.listen(); ready(); c, _ = s.accept(); print(c.recv(9)); c.sendall(b"answer"); print(socket.recv_fds(c, 9, 1)[0])'
        other rw 'c = socket.socket(socket.AF_UNIX); c.connect("s"); c.sendall(b"question"); print(c.recv(9)); socket.send_fds(c, [b"file"], [0])'
        finish""",
        stdout="b'answer'\nended with 0\nready\nb'question'\nb'file'",
    ),
    Case(
        "shared-volume-fifo",
        FUNCTIONS
        + """
        one 'os.mkfifo("p"); ready(); print(open("p").read())'
        other rw 'print(open("p", "w").write("through"))'
        finish""",
        stdout="7\nended with 0\nready\nthrough",
    ),
    Case(
        # Nobody calls msync.
        "shared-volume-mapping",
        FUNCTIONS
        + """
        one 'open("f", "wb").write(bytes(4096)); m = mapped("f"); ready(); until(lambda: m[0:4] == b"ping"); m[4:8] = b"pong"; until(lambda: m[8]); print(m[0:9])'
        other rw 'm = mapped("f"); m[0:4] = b"ping"; until(lambda: m[4:8] == b"pong"); m[8:9] = b"!"; print(m[0:9])'
        finish""",
        stdout="b'pingpong!'\nended with 0\nready\nb'pingpong!'",
    ),
    Case(
        "shared-volume-watch",
        FUNCTIONS
        + """
        one 'libc = ctypes.CDLL(None); n = libc.inotify_init1(0); libc.inotify_add_watch(n, b".", 0x100); ready(); event = os.read(n, 4096); print(struct.unpack_from("iI", event)[1], event[16:].rstrip(bytes(1)))'
        other rw 'open("made", "w")'
        finish""",
        stdout="ended with 0\nready\n256 b'made'",
    ),
    Case(
        # A file and not a folder.
        "shared-volume-of-a-file",
        FUNCTIONS
        + """
        head -c 4096 /dev/zero >$W/file
        volume() { echo --mount type=bind,src=$W/file,dst=/v/file,options=bind:rw; }
        one 'm = mapped("file"); ready(); until(lambda: m[0]); m[1:2] = b"y"; until(lambda: m[2]); print(m[0:3])'
        other rw 'm = mapped("file"); m[0:1] = b"x"; until(lambda: m[1]); m[2:3] = b"z"; print(m[0:3])'
        finish; head -c 3 $W/file""",
        stdout="b'xyz'\nended with 0\nready\nb'xyz'\nxyz",
    ),
    Case(
        "shared-volume-that-one-may-only-read",
        FUNCTIONS
        + """
        one 'open("f", "w").write("content"); ready(); until(lambda: os.path.exists("end"))'
        other ro 'print(open("f").read())
try: open("g", "w")
except OSError as error: print(error.strerror)'
        touch $W/v/end; finish""",
        stdout="content\nRead-only file system\nended with 0\nready",
    ),
    Case(
        "shared-volume-socket-for-one-that-may-only-read",
        FUNCTIONS
        + """
        one 's = socket.socket(socket.AF_UNIX); s.bind("s"); s.listen(); ready(); c, _ = s.accept(); print(c.recv(9))'
        other ro 'c = socket.socket(socket.AF_UNIX); c.connect("s"); print(c.send(b"question"))
try: os.unlink("s")
except OSError as error: print(error.strerror)'
        finish""",
        stdout="8\nRead-only file system\nended with 0\nready\nb'question'",
    ),
    Case(
        # What has the name now is another folder, and what is mounted in it now shows.
        "shared-volume-that-was-replaced",
        FUNCTIONS
        + """
        one 'ready(); until(lambda: os.path.exists("end")); print(sorted(os.listdir()))'
        mv $W/v $W/old; mkdir $W/v; touch $W/v/new
        other rw 'print(os.listdir()); open("written", "w")'
        mkdir $W/v/in; mount -t tmpfs t $W/v/in; touch $W/v/in/mounted
        other rw 'print(sorted(os.listdir()), os.listdir("in"))'
        umount $W/v/in; touch $W/old/end; finish; ls $W/v""",
        stdout="['new']\n['in', 'new', 'written'] ['mounted']\nended with 0\nready\n['end']\nin\nnew\nwritten",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)
