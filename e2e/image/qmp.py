#!/usr/bin/env python3
"""Talks to the test host's QEMU over its QMP socket.

usage: qmp.py SOCKET state        prints QEMU's run state
       qmp.py SOCKET save FILE    stops the machine, writes its state to FILE and ends QEMU
       qmp.py SOCKET load FILE    loads the state from FILE into a QEMU that was started with -incoming defer, and runs
       qmp.py SOCKET quit         ends QEMU
"""

import json
import socket
import sys
import time

CALL_SECONDS = 30
STATE_SECONDS = 180


class Monitor:
    """One QMP session. Every answer is awaited for at most CALL_SECONDS."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(CALL_SECONDS)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r", encoding="utf-8")
        self.read()
        self.call("qmp_capabilities")

    def read(self):
        line = self.lines.readline()
        if not line:
            sys.exit("QEMU closed its monitor")
        return json.loads(line)

    def call(self, command, **arguments):
        message = json.dumps({"execute": command, "arguments": arguments})
        self.socket.sendall(message.encode() + b"\n")
        while True:
            answer = self.read()
            if "error" in answer:
                sys.exit(f"QEMU refused {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


def save(monitor, path):
    monitor.call("stop")
    mapped_ram(monitor)
    monitor.call("migrate", uri="file:" + path)
    await_completion(monitor, "save")
    monitor.call("quit")


def load(monitor, path):
    mapped_ram(monitor)
    monitor.call("migrate-incoming", uri="file:" + path)
    await_completion(monitor, "load")
    if monitor.call("query-status")["status"] != "running":
        monitor.call("cont")


def mapped_ram(monitor):
    """Each page has its place in the file, so that loading needs no order and zero pages cost nothing."""
    monitor.call("migrate-set-capabilities", capabilities=[{"capability": "mapped-ram", "state": True}])


def await_completion(monitor, verb):
    end = time.monotonic() + STATE_SECONDS
    while True:
        state = monitor.call("query-migrate")
        if state.get("status") == "completed":
            break
        if state.get("status") in ("failed", "cancelled"):
            sys.exit(f"QEMU could not {verb} the machine: " + state.get("error-desc", "no reason given"))
        if time.monotonic() > end:
            sys.exit(f"QEMU did not {verb} the machine within {STATE_SECONDS} s")
        time.sleep(0.05)


def main(arguments):
    if len(arguments) < 2:
        sys.exit(__doc__)
    path, command, *rest = arguments
    monitor = Monitor(path)
    if command == "state":
        print(monitor.call("query-status")["status"])
    elif command == "save" and len(rest) == 1:
        save(monitor, rest[0])
    elif command == "load" and len(rest) == 1:
        load(monitor, rest[0])
    elif command == "quit":
        monitor.call("quit")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
