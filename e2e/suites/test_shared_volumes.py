"""Volumes that several have: what leads from one container of a pod to the other through a file, and what of the host's changes is seen."""

import pytest

from harness.answers import Case

pytestmark = pytest.mark.in_turns

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

# see LINE...: waits until the container has printed each, 2 s at most for all of them.
SEE = r"""
see() {
    local line now end=$((${EPOCHREALTIME/[.,]/} + 2000000))
    for line in "$@"; do
        until grep -qsxF -- "$line" $W/out; do
            now=${EPOCHREALTIME/[.,]/}
            ((now < end)) || { echo "not seen: $line"; cat $W/out; break; }
            sleep 0.05
        done
        grep -sxF -- "$line" $W/out | head -n 1
    done
}
"""
# Tells what it sees of the files whenever that has changed: of `opened` by the descriptor that it had from the start, else by the name.
POLLING = """
said = {}
def say(what, value):
    if said.get(what) != value:
        said[what] = value
        print(what, value, flush=True)
def seen(look):
    try: return look()
    except FileNotFoundError: return "gone"
fd = os.open("opened", os.O_RDONLY)
ready()
while not os.path.exists("end"):
    say("closed:", seen(lambda: open("closed").read()))
    say("mode:", seen(lambda: oct(os.stat("closed").st_mode & 0o777)))
    say("opened:", os.pread(fd, 99, 0).decode())
    say("its size, mode, links:", (os.fstat(fd).st_size, oct(os.fstat(fd).st_mode & 0o777), os.fstat(fd).st_nlink))
    say("linked:", seen(lambda: open("linked").read()))
    time.sleep(0.05)
"""

CASES += (
    Case(
        # The last change is how Kubernetes replaces a ConfigMap.
        "volume-that-the-host-changes",
        FUNCTIONS
        + SEE
        + f"""
        cd $W/v; umask 022; printf first | tee closed >opened; mkdir ..1 ..2; printf one >..1/linked; printf two >..2/linked; ln -s ..1 ..data; ln -s ..data/linked linked
        one '{POLLING}'
        see "closed: first" "mode: 0o644" "opened: first" "its size, mode, links: (5, '0o644', 1)" "linked: one"
        printf other | tee closed >opened; see "closed: other" "opened: other"
        printf 'much longer' | tee closed >opened; see "closed: much longer" "opened: much longer" "its size, mode, links: (11, '0o644', 1)"
        chmod 600 closed opened; see "mode: 0o600" "its size, mode, links: (11, '0o600', 1)"
        ln -s ..2 ..new; mv -T ..new ..data; rm -r ..1; see "linked: two"
        rm closed opened; see "closed: gone" "mode: gone" "its size, mode, links: (11, '0o600', 0)"
        touch end; wait $CTR; echo "ended with $?"; cat $W/err >&2""",
        stdout="closed: first\nmode: 0o644\nopened: first\nits size, mode, links: (5, '0o644', 1)\nlinked: one\n"
        "closed: other\nopened: other\n"
        "closed: much longer\nopened: much longer\nits size, mode, links: (11, '0o644', 1)\n"
        "mode: 0o600\nits size, mode, links: (11, '0o600', 1)\n"
        "linked: two\n"
        "closed: gone\nmode: gone\nits size, mode, links: (11, '0o600', 0)\n"
        "ended with 0",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_beside_runc(case, beside_runc):
    beside_runc(case)
