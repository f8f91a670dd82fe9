"""Cases that are run beside runc: a script, what it must answer, and the comparison of the two runtimes' answers.

A script is bash with the functions of prelude.sh and never names a runtime. runc's answer is recorded (records.py), so it runs
under runc only once.
"""

import concurrent.futures
import dataclasses
import hashlib
import re
import time
import uuid

import pytest

from . import leftovers, shell
from .records import Records

RUNC = {"RT": "io.containerd.runc.v2", "DRT": "runc", "HANDLER": "runc"}
BULKHEAD = {"RT": "io.containerd.bulkhead.v2", "DRT": "bulkhead", "HANDLER": "bulkhead"}
SHIM_SANDBOXER = {**BULKHEAD, "HANDLER": "bulkhead-sandboxed"}


@dataclasses.dataclass(frozen=True)
class Differs:
    """A documented difference from runc: why, and what Bulkhead answers instead (None: the same as runc).

    stdout and stderr are regular expressions for the whole text. lines names single lines of stdout and has all others be
    runc's: from a regular expression of runc's line to one of what Bulkhead says there. \\g<NAME> in the latter is what runc's
    line has for the group of that name. The first one that fits a line counts.
    """

    reason: str
    status: int | None = None
    stdout: str | None = None
    stderr: str | None = None
    lines: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Case:
    """One script and what both runtimes must answer to it.

    stdout is the exact text, without the last newline; says and complains are regular expressions of which each must
    be found in stdout or stderr. stderr is compared word by word unless complains is given: then the runtimes word
    their messages each in their way.
    """

    name: str
    script: str
    status: int = 0
    stdout: str | None = None
    says: tuple = ()
    complains: tuple = ()
    timeout: float = 150
    terminal: tuple | None = None
    dialogue: tuple = ()
    differs: Differs | None = None
    # Disturbs other containers of the host, so that nothing may run beside it.
    alone: bool = False

    def id_start(self):
        """What the ids of its containers begin with; containerd takes no two signs in a row."""
        return self.name[:40].rstrip("-")

    def key(self):
        """Names its answers: by the content that decides whether a recorded answer is still an answer to this case."""
        parts = (self.script, self.terminal, self.dialogue, shell.PRELUDE.read_text(encoding="utf-8"))
        return f"{self.name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| ?[+-]\d\d:?\d\d( UTC)?)?")
_RUNTIME_NAMES = re.compile(r"io\.containerd\.(runc|bulkhead)\.v2")


def normalise(text, identifier, folder):
    """Takes out what differs from run to run: the id, the folder, times, and the name of the runtime."""
    text = text.replace(identifier, "ID").replace(folder, "W")
    text = _RUNTIME_NAMES.sub("RUNTIME", text)
    return _TIME.sub("TIME", text)


def run_script(case, runtime):
    """Runs the case's script with the given runtime; returns its normalised answer and its container's id."""
    identifier = f"{case.id_start()}-{uuid.uuid4().hex[:6]}"
    variables = {**runtime, "ID": identifier}
    answer, folder = shell.bash(case.script, variables, case.timeout, case.terminal, case.dialogue)
    if answer.status == shell.Answer.TIMED_OUT:
        sweep(identifier)
    answer.stdout = normalise(answer.stdout, identifier, folder)
    answer.stderr = normalise(answer.stderr, identifier, folder)
    return answer, identifier


def run_case(case, runtime, crowd=False):
    """Runs the case; returns its normalised answer and what it left behind on the host.

    crowd: other cases run at the same time, so only what bears the name of this one's container counts.
    """
    before = leftovers.snapshot() if not crowd else set()
    answer, identifier = run_script(case, runtime)
    left = leftovers.wait_for_nothing_new(before, naming=identifier if crowd else "")
    if left and answer.status != shell.Answer.TIMED_OUT:
        sweep(identifier)
    return answer, left


def sweep(identifier):
    """Removes the containers of a failed case, as far as containerd can."""
    script = """
        for id in $(ctr container ls -q | grep -F "$ID"); do
            timeout 10 ctr task kill -s KILL "$id"; timeout 10 ctr task rm -f "$id"; timeout 10 ctr container rm "$id"
        done
        docker ps -aq --filter "name=$ID" | xargs -r docker rm -f"""
    shell.bash(script, {"ID": identifier}, 60)


def complaints(case, answer, expected_status=None):
    """What is wrong with an answer by the case's own expectations, as a list of sentences."""
    wrong = []
    status = case.status if expected_status is None else expected_status
    if answer.status == shell.Answer.TIMED_OUT:
        return [f"it did not end within {case.timeout} s"]
    if answer.status != status:
        wrong.append(f"the exit status is {answer.status} and not {status}")
    if case.stdout is not None and answer.stdout.rstrip("\n") != case.stdout:
        wrong.append(f"stdout is not {case.stdout!r}")
    wrong += [f"stdout does not say /{word}/" for word in case.says if not re.search(word, answer.stdout)]
    wrong += [f"stderr does not say /{word}/" for word in case.complains if not re.search(word, answer.stderr)]
    return wrong


def fail(text):
    """Fails the test with the text alone: where in the harness that happened says nothing."""
    pytest.fail(text, pytrace=False)


def _show(name, answer):
    return f"--- {name}: status {answer.status}\nstdout:\n{answer.stdout}\nstderr:\n{answer.stderr}"


class Answers:
    """The answers of both runtimes to all cases of a session. runc's are kept; fresh: ask runc again nevertheless.

    Most of a container's start is waiting of one process for another, so several cases run at the same time, before the
    first test looks at its own. What none of them may leave, all together, is in `left`.
    """

    # The emulated host has one CPU: more at a time end no sooner.
    WORKERS = 1
    # runc's shim now and then ends before its last event has left: an answer that the case does not expect is asked again.
    RUNC_ATTEMPTS = 3
    SLOWEST = 12

    def __init__(self, fresh=False):
        self.fresh = fresh
        self.records = Records()
        self.of_runc = {}
        self.of_bulkhead = {}
        self.seconds = {}
        self.left = []

    def collect(self, wanted):
        """Runs what will be asked for. wanted: pairs of a case and the runtime that is compared, or None for runc alone."""
        cases = {case.name: case for case, _ in wanted}
        missing = {name: case for name, case in cases.items() if self._recorded(case) is None}
        theirs = [(case, RUNC) for case in missing.values() if not case.alone]
        ours = {(case.name, runtime["HANDLER"]): (case, runtime) for case, runtime in wanted if runtime and not case.alone}
        if len(theirs) + len(ours) < 2:
            return
        known = len(cases) - len(missing)
        print(
            f"\nrunning {len(theirs)} cases under runc ({known} have a recorded answer) and {len(ours)} under bulkhead: ",
            end="",
            flush=True,
        )
        with concurrent.futures.ThreadPoolExecutor(self.WORKERS) as pool:
            list(pool.map(self._run_in_crowd, theirs))
            # What runc has left is not ours.
            before = leftovers.snapshot()
            list(pool.map(self._run_in_crowd, ours.values()))
        print(flush=True)
        self._print_slowest()
        self.left = leftovers.wait_for_nothing_new(before)

    def runc(self, case):
        """runc's answer to the case; fails when it is not what the case expects of it."""
        answer = self.of_runc.get(case.name) or self._recorded(case) or self._run_runc(case)
        wrong = complaints(case, answer)
        if wrong and self._ask_again(case):
            answer = self.of_runc[case.name]
            wrong = complaints(case, answer)
        if wrong:
            fail(f"runc does not answer as the case says: {'; '.join(wrong)}\n{_show('runc', answer)}")
        return answer

    def compared(self, case, comparison):
        """Makes a comparison; once more with a new answer of runc when it fails by an old one."""
        try:
            comparison()
        except pytest.fail.Exception:
            if not self._ask_again(case):
                raise
            comparison()

    def bulkhead(self, case, runtime=BULKHEAD):
        """Bulkhead's answer to the case and what it left behind."""
        key = (case.name, runtime["HANDLER"])
        if key not in self.of_bulkhead:
            self.of_bulkhead[key] = run_case(case, runtime)
        return self.of_bulkhead[key]

    def _run_runc(self, case):
        for _ in range(self.RUNC_ATTEMPTS):
            answer = self.of_runc[case.name] = run_script(case, RUNC)[0]
            if not complaints(case, answer):
                self.records.keep(case.key(), answer)
                break
        return answer

    def _recorded(self, case):
        return None if self.fresh else self.records.find(case.key())

    def _ask_again(self, case):
        """Asks runc if its answer is not of this host. False: it is."""
        if case.name in self.of_runc or self.records.is_of_this_host(case.key()):
            return False
        self._run_runc(case)
        return True

    def _run_in_crowd(self, job):
        case, runtime = job
        start = time.monotonic()
        if runtime is RUNC:
            self._run_runc(case)
        else:
            self.of_bulkhead[(case.name, runtime["HANDLER"])] = run_case(case, runtime, crowd=True)
        self.seconds[(case.name, runtime["HANDLER"])] = time.monotonic() - start
        print(".", end="", flush=True)

    def _print_slowest(self):
        """pytest's own list of the slowest knows nothing of what ran before the first test."""
        for name in (RUNC["HANDLER"], BULKHEAD["HANDLER"]):
            took = {case: seconds for (case, handler), seconds in self.seconds.items() if handler.startswith(name)}
            slowest = sorted(took, key=took.get, reverse=True)[: self.SLOWEST]
            listed = ", ".join(f"{case} {took[case]:.0f}" for case in slowest)
            print(f"{name}: {sum(took.values()):.0f} s for {len(took)} cases; the slowest: {listed}", flush=True)


def _expected(line, lines):
    """The regular expression of what Bulkhead says where runc says line, and whether that is a documented difference."""
    for theirs, ours in lines.items():
        found = re.fullmatch(theirs, line)
        if found:
            return re.sub(r"\\g<(\w+)>", lambda group: re.escape(found[group[1]]), ours), True
    return re.escape(line), False


def wrong_lines(theirs, ours, lines):
    """What is wrong with Bulkhead's text beside runc's when only the documented lines may differ, as a list of sentences."""
    at, documented = 0, 0
    for line in theirs.split("\n"):
        expected, differs = _expected(line, lines)
        documented += differs
        found = re.compile(f"(?:{expected})(?:\n|\\Z)").match(ours, at)
        if not found:
            return [f"stdout has {ours[at:].partition(chr(10))[0]!r} where runc has {line!r}"]
        at = found.end()
    if at < len(ours):
        return [f"stdout goes on with {ours[at:].partition(chr(10))[0]!r} where runc's ends"]
    return [] if documented else ["runc's stdout has none of the lines that differ"]


def compare(case, runc, bulkhead, left):
    """Fails unless Bulkhead answered as runc did, or as the documented difference says, and left nothing."""
    differs = case.differs or Differs("")
    wrong = []
    for field in ("status", "stdout", "stderr"):
        theirs, ours, expected = getattr(runc, field), getattr(bulkhead, field), getattr(differs, field)
        if expected is not None:
            same = ours == expected if field == "status" else re.search(expected, ours) is not None
            if not same:
                wrong.append(f"{field} is not what the documented difference says: {expected!r}")
            elif ours == theirs:
                wrong.append(f"{field} is the same as runc's: the documented difference is gone ({differs.reason})")
        elif field == "stderr" and case.complains:
            continue
        elif field == "stdout" and differs.lines:
            wrong += wrong_lines(theirs, ours, differs.lines)
            if ours == theirs:
                wrong.append(f"stdout is the same as runc's: the documented difference is gone ({differs.reason})")
        elif ours != theirs:
            wrong.append(f"{field} differs from runc's")
    if case.differs is None:
        wrong += complaints(case, bulkhead)
    elif bulkhead.status == shell.Answer.TIMED_OUT:
        wrong.append(f"it did not end within {case.timeout} s")
    wrong += [f"left behind: {line}" for line in left]
    if wrong:
        fail("\n".join([case.name, *wrong, _show("runc", runc), _show("bulkhead", bulkhead)]))
