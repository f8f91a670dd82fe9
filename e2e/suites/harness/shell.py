"""Runs a bash script with a time limit, with pipes or on a terminal, and returns what it answered."""

import dataclasses
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import time
from pathlib import Path

PRELUDE = Path(__file__).with_name("prelude.sh")
# Programs that the host may not have; its own come first.
TOOLS = Path(__file__).parents[1] / "tools"
# Longer answers are cut in the middle: they are compared, recorded and printed.
MAX_OUTPUT = 200_000


@dataclasses.dataclass
class Answer:
    """What a script answered. status is negative when it had to be ended: the time was over."""

    status: int
    stdout: str
    stderr: str

    TIMED_OUT = -1


def _text(data):
    text = data.decode("utf-8", "backslashreplace")
    if len(text) > MAX_OUTPUT:
        text = text[: MAX_OUTPUT // 2] + "\n[...]\n" + text[-MAX_OUTPUT // 2 :]
    return text


def _end_group(process):
    """Ends what the script left of its own; containers belong to containerd and stay."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


# busybox's shell asks the terminal for the cursor's place after its prompt, but only while nobody has typed ahead, and draws the
# prompt once more when the terminal's size arrives later.
ASKS = "\x1b\\[6n"
_DRAWN_AGAIN = re.compile(r"([^\n]*)\x1b\[6n(?:\1\x1b\[J)?")


def bash(script, variables, timeout, terminal=None, dialogue=()):
    """Runs script after the prelude. variables are added to the environment; W is made and removed here."""
    folder = tempfile.mkdtemp(prefix="case-", dir="/var/tmp")
    path = f"{os.environ['PATH']}:{TOOLS}"
    environment = dict(os.environ, W=folder, LC_ALL="C.UTF-8", PATH=path, **variables)
    text = PRELUDE.read_text(encoding="utf-8") + "\n" + script + "\n"
    try:
        if terminal:
            return _on_terminal(text, environment, timeout, terminal, dialogue), folder
        return _on_pipes(text, environment, timeout), folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _on_pipes(text, environment, timeout):
    # Files, not pipes: a container's process that keeps the script's output open must not keep the harness waiting.
    with tempfile.TemporaryFile(dir="/var/tmp") as out, tempfile.TemporaryFile(dir="/var/tmp") as err:
        process = subprocess.Popen(
            ["bash", "-c", text], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, start_new_session=True
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = Answer.TIMED_OUT
        _end_group(process)
        out.seek(0)
        err.seek(0)
        return Answer(status, _text(out.read()), _text(err.read()))


def _resize(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def _on_terminal(text, environment, timeout, size, dialogue):
    """dialogue: pairs of a regular expression to wait for, and bytes to type or a (rows, columns) to change to."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe("bash", ["bash", "-c", "read -r _; " + text], environment)
    _resize(master, *size)
    os.write(master, b"\n")
    seen, searched, steps, end = b"", 0, list(dialogue), time.monotonic() + timeout
    status = None
    while True:
        left = end - time.monotonic()
        if left <= 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            status = Answer.TIMED_OUT
            break
        ready, _, _ = select.select([master], [], [], min(left, 0.2))
        if ready:
            try:
                data = os.read(master, 65536)
            except OSError:
                data = b""
            if not data:
                break
            seen += data
        while steps:
            found = re.search(steps[0][0].encode(), seen[searched:])
            if not found:
                break
            action = steps.pop(0)[1]
            searched += found.end()
            if isinstance(action, bytes):
                os.write(master, action)
            else:
                _resize(master, *action)
    if status is None:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(master)
    # The first lines are the echo of the newline that started the script.
    return Answer(status, _DRAWN_AGAIN.sub(r"\1", _text(seen.replace(b"\r", b"").lstrip(b"\n"))), "")
