"""How fast bytes go out of a container and into it, through its standard streams and `ctr run`."""

import os
import statistics
import subprocess
import sys

from common import COMMAND_SECONDS, RUNTIMES, counted_rounds, now_us

CHUNK = 1 << 20
# What dd in the container reads and writes at a time, bytes.
BLOCK = 1 << 16


def run(settings, name, identifier, script, **streams):
    command = ["ctr", "run", "--rm", "--runtime", RUNTIMES[name], settings.busybox, identifier, "sh", "-c", script]
    return subprocess.Popen(command, stdout=subprocess.PIPE, **streams)


def finish(process):
    if process.wait(COMMAND_SECONDS) != 0:
        sys.exit(f"figures: {' '.join(process.args)} ended with {process.returncode}")


def rate(size, start):
    return size / (1 << 20) / ((now_us() - start) / 1_000_000)


def out(settings, name, number):
    """MiB/s from the first byte that arrives to the last."""
    size = settings.stream_mib << 20
    script = f"exec dd if=/dev/zero bs={BLOCK} count={size // BLOCK} 2>/dev/null"
    process = run(settings, name, f"out-{name}-{number}", script, stdin=subprocess.DEVNULL)
    got, start = 0, None
    with open("/dev/null", "wb", buffering=0) as sink:
        while count := os.splice(process.stdout.fileno(), sink.fileno(), CHUNK):
            start = start or now_us()
            got += count
    result = rate(got, start) if start else 0
    finish(process)
    if got != size:
        sys.exit(f"figures: {got} bytes of {size} came out of the container of {name}")
    return result


def into(settings, name, number):
    """MiB/s from the first byte that is sent, when the container waits for it, until it says that it has got all."""
    size = settings.stream_mib << 20
    script = f"echo ready; dd of=/dev/null bs={BLOCK} count={size // BLOCK} iflag=fullblock 2>/dev/null && echo done"
    process = run(settings, name, f"into-{name}-{number}", script, stdin=subprocess.PIPE, bufsize=0)
    answers = [process.stdout.readline()]
    chunk = bytes(CHUNK)
    start = now_us()
    try:
        for _ in range(settings.stream_mib):
            rest = memoryview(chunk)
            while rest:
                rest = rest[process.stdin.write(rest) :]
        answers.append(process.stdout.readline())
    except BrokenPipeError:
        answers.append(b"the stream was closed")
    result = rate(size, start)
    process.stdin.close()
    finish(process)
    if answers != [b"ready\n", b"done\n"]:
        sys.exit(f"figures: the container of {name} answered {answers}")
    return result


def figures(table, settings):
    rounds = min(settings.rounds, 3)
    for what, measure in (("out of", out), ("into", into)):
        # Small enough to be read in one line; the number tells apart what the containers are called.
        found = counted_rounds(settings, rounds, "streams", lambda name, number, measure=measure: measure(settings, name, number))
        medians = {name: statistics.median(values) for name, values in found.items()}
        table.add(f"streams: {settings.stream_mib} MiB {what} a container", "MiB/s", **medians)
