"""Many starts at once: how long until all containers have run and are gone, and what of the host's memory they take meanwhile."""

import statistics
import subprocess
import sys
import threading
import time

from common import (
    COMMAND_SECONDS,
    RUNTIMES,
    available_kib,
    cgroups_of,
    counted_rounds,
    now_us,
    program_of,
    user_processes,
    wait_until_gone,
)

SAMPLE_SECONDS = 0.02


class Sampler(threading.Thread):
    """Reads how little memory is left, again and again until `stop`."""

    def __init__(self):
        super().__init__(daemon=True)
        self.before = self.least = available_kib()
        self.samples = 0
        self.ending = threading.Event()

    def run(self):
        while not self.ending.wait(SAMPLE_SECONDS):
            self.least = min(self.least, available_kib())
            self.samples += 1

    def stop(self):
        """MiB by which what is available had sunk at its lowest."""
        self.ending.set()
        self.join()
        return (self.before - self.least) / 1024


def crowd(settings, name, number):
    """(milliseconds until all have run `true` and are gone, MiB of the host's memory at the peak)."""
    word = f"crowd-{name}-{number}"
    before = user_processes()
    # What former rounds have freed is counted as available only after a moment.
    time.sleep(1)
    sampler = Sampler()
    sampler.start()
    start = now_us()
    clients = [
        subprocess.Popen(
            ["ctr", "run", "--rm", "--runtime", RUNTIMES[name], settings.busybox, f"{word}-{one}", "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for one in range(settings.crowd)
    ]
    for client in clients:
        output, _ = client.communicate(timeout=COMMAND_SECONDS)
        if client.returncode != 0:
            sys.exit(f"figures: {' '.join(client.args)} ended with {client.returncode}: {output.decode(errors='replace').strip()}")
    mine = {pid for pid in user_processes() - before if (program_of(pid) or "").startswith(("containerd-shim", "bulkhead"))}
    wait_until_gone(mine, cgroups_of(word))
    total = (now_us() - start) / 1000
    return total, sampler.stop()


def figures(table, settings):
    rounds = counted_rounds(settings, min(settings.rounds, 3), "starts at once", lambda name, number: crowd(settings, name, number))
    for position, (text, unit) in enumerate(
        ((f"{settings.crowd} starts at once, until all are gone", "ms"), ("  the host's memory at the peak", "MiB"))
    ):
        table.add(text, unit, **{name: statistics.median(one[position] for one in values) for name, values in rounds.items()})
