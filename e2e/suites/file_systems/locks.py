"""Asks what file locks promise, of processes that share a file, and prints one line for each answer.

usage: locks.py FOLDER        every question within this container
       locks.py hold KIND FILE SECONDS    takes a lock, prints "ready", keeps it (KIND: flock, posix, ofd)
       locks.py try KIND FILE             prints whether the lock is free
       locks.py wait KIND FILE            waits for the lock, prints "got it"
"""

import errno
import fcntl
import os
import signal
import struct
import sys
import time

FLOCK = struct.Struct("hhqqi4x")
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
KINDS = ("flock", "posix", "ofd")
# How long a process that is to wait is watched while it waits, in seconds; short, since it can only be missed, never mistaken.
WHILE = 0.5


def lock(fd, kind, exclusive=True, wait=False, start=0, length=0):
    """Takes a lock; returns "yes" or the error's name."""
    try:
        if kind == "flock":
            mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            fcntl.flock(fd, mode if wait else mode | fcntl.LOCK_NB)
        else:
            commands = (fcntl.F_SETLK, fcntl.F_SETLKW) if kind == "posix" else (F_OFD_SETLK, F_OFD_SETLKW)
            mode = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
            fcntl.fcntl(fd, commands[wait], FLOCK.pack(mode, os.SEEK_SET, start, length, 0))
        return "yes"
    except OSError as error:
        return errno.errorcode[error.errno]


def unlock(fd, kind, start=0, length=0):
    if kind == "flock":
        fcntl.flock(fd, fcntl.LOCK_UN)
    else:
        command = fcntl.F_SETLK if kind == "posix" else F_OFD_SETLK
        fcntl.fcntl(fd, command, FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, length, 0))


def opened(path):
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


class Child:
    """A process that does one thing and tells its answer."""

    def __init__(self, work):
        reading, writing = os.pipe()
        self.go_reading, self.go_writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            os.close(self.go_writing)
            signal.alarm(120)

            def tell(word):
                os.write(writing, f"{word}\n".encode())

            def pause():
                os.read(self.go_reading, 1)

            try:
                work(tell, pause)
            finally:
                os._exit(0)
        os.close(writing)
        os.close(self.go_reading)
        self.answers = os.fdopen(reading)

    def answer(self):
        return self.answers.readline().strip()

    def go(self):
        os.write(self.go_writing, b"x")

    def silent(self):
        """Whether it has nothing to say for a while."""
        import select

        return not select.select([self.answers], [], [], WHILE)[0]

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        self.join()

    def join(self):
        os.waitpid(self.pid, 0)


def holder(path, kind, exclusive=True, start=0, length=0):
    def work(tell, pause):
        fd = opened(path)
        tell(lock(fd, kind, exclusive, start=start, length=length))
        pause()

    return Child(work)


def waiter(path, kind, exclusive=True):
    def work(tell, pause):
        tell("waits")
        tell(lock(opened(path), kind, exclusive, wait=True))
        pause()

    return Child(work)


def asked(path, kind, exclusive=True, start=0, length=0):
    """What another process is told that tries the lock."""
    child = holder(path, kind, exclusive, start, length)
    answer = child.answer()
    child.kill()
    return answer


def questions(folder, kind):
    """Yields (question, answer) of one kind of lock."""
    path = os.path.join(folder, f"lock-{kind}")
    first = holder(path, kind)
    yield "taken", first.answer()
    yield "exclusive beside exclusive", asked(path, kind)
    yield "shared beside exclusive", asked(path, kind, exclusive=False)
    first.go()
    first.join()
    yield "free after its holder's end", asked(path, kind)

    first = holder(path, kind, exclusive=False)
    first.answer()
    yield "shared beside shared", asked(path, kind, exclusive=False)
    yield "exclusive beside shared", asked(path, kind)
    first.kill()
    yield "free after its holder was killed", asked(path, kind)

    first = holder(path, kind)
    first.answer()
    second = waiter(path, kind)
    second.answer()
    yield "waits", second.silent()
    first.go()
    yield "gets it after the wait", second.answer()
    second.kill()

    first = holder(path, kind)
    first.answer()
    second, third = waiter(path, kind), waiter(path, kind)
    second.answer(), third.answer(), second.silent()
    second.kill()
    yield "still held after a waiter was killed", asked(path, kind)
    first.kill()
    yield "the next waiter gets it", third.answer()
    third.kill()
    yield "free after all of them", asked(path, kind)

    first = holder(path, kind)
    first.answer()

    def interrupted(tell, pause):
        class Alarm(Exception):
            pass

        def ring(*_):
            raise Alarm

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, WHILE)
        fd = opened(path)
        try:
            tell(lock(fd, kind, wait=True))
        except Alarm:
            tell("interrupted")
        pause()

    second = Child(interrupted)
    yield "a signal ends the wait", second.answer()
    first.kill()
    yield "free, as the interrupted waiter got nothing", asked(path, kind)
    second.kill()

    fd = opened(path)
    lock(fd, kind)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    yield "held after a fork's end", asked(path, kind)
    os.close(os.dup(fd))
    yield "held after a copy's close", asked(path, kind)
    os.close(opened(path))
    yield "held after another descriptor's close", asked(path, kind)
    lock(fd, kind)
    yield "made shared", lock(fd, kind, exclusive=False)
    yield "shared by others then", asked(path, kind, exclusive=False)
    yield "made exclusive again", lock(fd, kind)
    os.unlink(path)
    other = opened(path)
    yield "a new file of the name is free", asked(path, kind)
    os.close(other)
    os.close(fd)
    if kind == "flock":
        return

    fd = opened(path)
    lock(fd, kind, start=100, length=50)
    yield "the range", asked(path, kind, start=120, length=1)
    yield "before the range", asked(path, kind, start=0, length=100)
    yield "behind the range", asked(path, kind, start=150, length=0)
    unlock(fd, kind, 110, 10)
    yield "a hole in the range", asked(path, kind, start=110, length=10)
    yield "beside the hole", asked(path, kind, start=109, length=2)

    def who(tell, pause):
        command = fcntl.F_GETLK if kind == "posix" else F_OFD_GETLK
        mode, _, start, length, pid = FLOCK.unpack(
            fcntl.fcntl(opened(path), command, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        )
        tell(f"{mode} {start} {length} {'the parent' if pid == os.getppid() else pid}")
        pause()

    third = Child(who)
    yield "who holds it", third.answer()
    third.kill()
    reader = os.open(path, os.O_RDONLY)
    yield "exclusive on a read-only descriptor", lock(reader, kind, start=1000, length=1)
    os.close(reader)
    os.close(fd)


def between_kinds(folder):
    for holding in KINDS:
        path = os.path.join(folder, f"lock-kinds-{holding}")
        first = holder(path, holding)
        first.answer()
        for trying in KINDS:
            yield f"{trying} beside {holding}", asked(path, trying)
        first.kill()


def rest(folder):
    path = os.path.join(folder, "lock-rest")
    fd = opened(path)
    os.close(fd)
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        yield "lease", fcntl.fcntl(fd, fcntl.F_GETLEASE)
    except OSError as error:
        yield "lease", errno.errorcode[error.errno]
    os.close(fd)
    try:
        fd = os.open(folder, os.O_RDONLY)
        yield "lock of a folder", lock(fd, "flock")
        os.close(fd)
    except OSError as error:
        yield "lock of a folder", errno.errorcode[error.errno]
    fd = opened(path)
    yield "many ranges", sum(lock(fd, "posix", start=number * 2, length=1) == "yes" for number in range(200))
    yield "many ranges are seen", sum(asked(path, "posix", start=number, length=1) == "yes" for number in range(8))


def everything(folder):
    os.makedirs(folder, exist_ok=True)
    for kind in KINDS:
        for question, answer in questions(folder, kind):
            print(f"{kind}: {question}: {answer}", flush=True)
    for part in (between_kinds, rest):
        for question, answer in part(folder):
            print(f"{question}: {answer}", flush=True)


def main(arguments):
    signal.alarm(280)
    if len(arguments) == 1:
        everything(arguments[0])
    elif arguments[0] == "hold":
        _, kind, path, seconds = arguments
        fd = opened(path)
        print("ready" if lock(fd, kind) == "yes" else "not free", flush=True)
        time.sleep(float(seconds))
    elif arguments[0] == "try":
        print(lock(opened(arguments[2]), arguments[1]))
    elif arguments[0] == "wait":
        print("got it" if lock(opened(arguments[2]), arguments[1], wait=True) == "yes" else "failed", flush=True)
    else:
        sys.exit(__doc__)


main(sys.argv[1:])
