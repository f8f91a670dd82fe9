"""The beginning of the program that asks facts in Python inside a container: imports and helpers of the snippets."""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)


def tried(function, *arguments, **named):
    """What the function returns, or the name of its errno."""
    try:
        return function(*arguments, **named)
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)


def call(name, *arguments):
    """What a function of the C library (or a system call, by number) returns, or the name of its errno."""
    ctypes.set_errno(0)
    arguments = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    function = libc.syscall if isinstance(name, int) else getattr(libc, name)
    function.restype = ctypes.c_long
    result = function(ctypes.c_long(name), *arguments) if isinstance(name, int) else function(*arguments)
    # Functions that return int leave the upper half as it was.
    if result in (-1, 0xFFFFFFFF):
        return errno.errorcode.get(ctypes.get_errno(), ctypes.get_errno())
    return result


def write(path, data=b"x", flags=os.O_CREAT | os.O_WRONLY | os.O_TRUNC):
    fd = os.open(path, flags, 0o644)
    done = os.write(fd, data)
    os.close(fd)
    return done


def read(path):
    with open(path, "rb") as file:
        return file.read()


def child(function, *arguments):
    """Starts a child that calls the function, and returns its pid. Its status is what the function returns, or 99."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            signal.alarm(20)
            status = function(*arguments) or 0
        except BaseException as error:
            print(type(error).__name__, error)
        finally:
            sys.stdout.flush()
            os._exit(status)
    return pid


def end(pid):
    """Waits for a child: its status, or minus its signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ask(name, source, place="/tmp"):
    """Runs the source in a child, in an empty folder, which goes with the container."""
    print(f"\n@@ {name}", flush=True)

    def answer():
        os.mkdir(f"{place}/{name}")
        os.chdir(f"{place}/{name}")
        try:
            exec(compile(source, name, "exec"), dict(globals()))
        except OSError as error:
            print(errno.errorcode.get(error.errno), error.strerror)

    status = end(child(answer))
    if status:
        print("ended with", status)
