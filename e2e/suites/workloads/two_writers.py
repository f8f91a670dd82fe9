"""Writes into a database on a volume, in turn with others of its kind in other containers.

usage: two_writers.py delete|wal NUMBER OF     writes fifty rows, in a journal of this kind
       two_writers.py check FOLDER             prints what is there
"""

import os
import sqlite3
import sys
import time

ROWS = 50


def write(journal, number, of):
    base = sqlite3.connect("/volume/x.db", timeout=60, isolation_level=None)
    base.execute(f"pragma journal_mode={journal}")
    base.execute("create table if not exists t (writer int, n int)")
    open(f"/volume/ready{number}", "w").close()
    patience = time.monotonic() + 60
    while sum(name.startswith("ready") for name in os.listdir("/volume")) < of and time.monotonic() < patience:
        time.sleep(0.1)
    failures = set()
    for n in range(ROWS):
        try:
            base.execute("begin immediate")
            base.execute("insert into t values (?, ?)", (number, n))
            base.execute("commit")
        except sqlite3.Error as error:
            failures.add(str(error))
            if base.in_transaction:
                base.execute("rollback")
    base.close()
    print(f"writer {number}: {sorted(failures) or 'no failures'}")


def check(folder):
    base = sqlite3.connect(f"{folder}/x.db")
    print(base.execute("select writer, count(*) from t group by writer").fetchall())
    print(base.execute("pragma integrity_check").fetchall()[0][0])


if sys.argv[1] == "check":
    check(sys.argv[2])
else:
    write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
