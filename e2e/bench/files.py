#!/usr/bin/env python3
"""File work inside a container, for `make bench`: prepares below /bench, or prints what one kind of work takes in microseconds.

usage: files.py prepare | forget | KIND     (KIND: a name in WORK)
"""

import mmap
import os
import py_compile
import random
import shutil
import sys
import time

FOLDER = "/bench"
BIG = f"{FOLDER}/big"
TREE = f"{FOLDER}/tree"
SIZE = 16 << 20
CHUNK = 1 << 20
PAGE = 4096
RANDOM_READS = 1000
FOLDERS, FILES = 20, 25
MODULES = 40


def read_all():
    buffer = mmap.mmap(-1, CHUNK)
    with open(BIG, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def read_randomly():
    places = random.Random(1)
    pages = SIZE // PAGE
    with open(BIG, "rb", buffering=0) as file:
        for _ in range(RANDOM_READS):
            os.pread(file.fileno(), PAGE, places.randrange(pages) * PAGE)


def write_all():
    data = os.urandom(CHUNK)
    with open(f"{FOLDER}/written", "wb", buffering=0) as file:
        for _ in range(SIZE // CHUNK):
            file.write(data)
        os.fsync(file.fileno())


def walk():
    found = 0
    for folder, folders, files in os.walk(TREE):
        for name in folders + files:
            os.lstat(os.path.join(folder, name))
            found += 1
    if found != FOLDERS * (FILES + 1):
        sys.exit(f"files: {found} names in the tree")


def create(folder=f"{FOLDER}/new"):
    for number in range(FOLDERS):
        os.makedirs(f"{folder}/{number}")
        for name in range(FILES):
            with open(f"{folder}/{number}/{name}", "wb", buffering=0) as file:
                file.write(b"content\n")


def read_small():
    for number in range(FOLDERS):
        for name in range(FILES):
            with open(f"{TREE}/{number}/{name}", "rb", buffering=0) as file:
                file.read()


def delete():
    shutil.rmtree(f"{FOLDER}/new")


def compile_modules():
    """Python's compiler over modules of its own library, which write a file each."""
    library = os.path.dirname(os.__file__)
    names = sorted(name for name in os.listdir(library) if name.endswith(".py"))[:MODULES]
    if len(names) < MODULES:
        sys.exit(f"files: {len(names)} modules in {library}")
    for name in names:
        py_compile.compile(f"{library}/{name}", cfile=f"{FOLDER}/compiled/{name}c", doraise=True)


WORK = {
    "write": write_all,
    "read": read_all,
    "read-4k": read_randomly,
    "walk": walk,
    "read-small": read_small,
    "create": create,
    "delete": delete,
    "compile": compile_modules,
}


def main():
    kind = sys.argv[1]
    if kind == "prepare":
        os.mkdir(FOLDER)
        write_all()
        os.rename(f"{FOLDER}/written", BIG)
        create(TREE)
        os.sync()
    elif kind == "forget":
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("3\n")
    else:
        start = time.monotonic_ns()
        WORK[kind]()
        print((time.monotonic_ns() - start) // 1000)


if __name__ == "__main__":
    main()
