"""Options, fixtures and failure reports of the end-to-end suites; they run inside the test host as root."""

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from harness import answers, facts, leftovers, shell  # noqa: E402 (the path comes first)

CONTAINERD_LOG = Path("/var/log/containerd.log")
LOG_LINES = 60
# The failures as they come, for whoever cannot wait for the end.
FAILURES = Path("/shared/failures.txt")
# Of the suites that are marked in_turns, a run with --turn takes one part of so many.
TURNS = 4
# runc's answers to the cases of a session, with --record.
RECORDED = Path("/shared/runc_answers.json")


def pytest_addoption(parser):
    parser.addoption("--runc-only", action="store_true", help="only record and check what runc answers")
    parser.addoption("--runc-fresh", action="store_true", help="ask runc again although its answers are recorded")
    parser.addoption("--record", action="store_true", help="also write runc's answers to RECORDED, for the tree")
    parser.addoption("--long", action="store_true", help="the long suites too")
    parser.addoption("--turn", type=int, help=f"a number: of the suites that are marked in_turns one of {TURNS} parts")
    parser.addoption("--part", type=percentages, default=(0, 100), help="FROM-TO: only this part of the tests, in percent")


def percentages(text):
    """The two numbers of --part."""
    start, end = (int(number) for number in text.split("-"))
    if not 0 <= start < end <= 100:
        raise argparse.ArgumentTypeError(f"{text} is no part: 0-60, for one, are the first sixty percent")
    return start, end


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes minutes; runs only with --long")
    config.addinivalue_line("markers", "in_turns: many cases of one kind; a run with --turn takes a part of them")
    config.addinivalue_line("markers", "bulkhead: has no counterpart under runc; left out with --runc-only")
    config.addinivalue_line("markers", "needs_containerd2: uses what containerd 1.7 does not have")
    config.addinivalue_line("markers", "shim_sandboxer: pods through containerd's sandbox API")
    config.addinivalue_line("markers", "callers: a smoke run of a caller; these run on every flavour of the host")


def pytest_sessionstart(session):
    FAILURES.unlink(missing_ok=True)


def containerd_major():
    answer, _ = shell.bash("containerd --version", {}, 30)
    found = re.search(r" v?(\d+)\.\d+\.\d+", answer.stdout)
    return int(found.group(1)) if found else 2


def known_gaps():
    """(pattern of a test's id, reason) of each line of known_gaps.txt."""
    lines = (Path(__file__).parent / "known_gaps.txt").read_text(encoding="utf-8").splitlines()
    return [line.split(None, 1) for line in lines if line and not line.startswith("#")]


def waiting(items, turn):
    """Those of the tests marked in_turns that a run of this turn leaves out. Facts that share a container take their turn together."""
    numbers = {}
    left_out = []
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        asked = parameters.get("case") or parameters.get("group")
        if asked and item.get_closest_marker("in_turns"):
            number = numbers.setdefault((item.path, asked.name), len(numbers))
            if number % TURNS != turn % TURNS:
                left_out.append(item)
    return left_out


def pytest_collection_modifyitems(config, items):
    turn = config.getoption("--turn")
    if turn is not None:
        left_out = waiting(items, turn)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    start, end = (len(items) * percent // 100 for percent in config.getoption("--part"))
    config.hook.pytest_deselected(items=items[:start] + items[end:])
    items[:] = items[start:end]
    old = containerd_major() < 2
    gaps = known_gaps()
    for item in items:
        for pattern, reason in gaps:
            if fnmatch.fnmatchcase(item.nodeid.replace("[", "(").replace("]", ")"), pattern):
                item.add_marker(pytest.mark.xfail(reason=reason, strict=False))
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="long; run with --long"))
        if item.get_closest_marker("bulkhead") and config.getoption("--runc-only"):
            item.add_marker(pytest.mark.skip(reason="--runc-only"))
        if item.get_closest_marker("needs_containerd2") and old:
            item.add_marker(pytest.mark.skip(reason="containerd 1.7 does not have this"))


@pytest.fixture(scope="session")
def warm(request):
    """The first container of a boot makes folders and cgroups that stay by design, such as a namespace's own."""
    shell.bash("ctr run --rm --runtime io.containerd.runc.v2 $BUSYBOX warm-runc true", {}, 60)
    if not request.config.getoption("--runc-only"):
        shell.bash("ctr run --rm --runtime io.containerd.bulkhead.v2 $BUSYBOX warm-bulkhead true", {}, 60)


@pytest.fixture(scope="session")
def crictl(tmp_path_factory):
    """A started crictl, for the scripts' function of this name; where the host has none of its own."""
    if shutil.which("crictl"):
        yield
        return
    path = tmp_path_factory.mktemp("crictl") / "socket"
    server = subprocess.Popen([sys.executable, str(shell.TOOLS / "crictl"), "serve", str(path)], stdin=subprocess.DEVNULL)
    # Its imports take seconds.
    patience = time.monotonic() + 120
    while not path.exists():
        assert server.poll() is None and time.monotonic() < patience, "crictl does not come up"
        time.sleep(0.1)
    os.environ["CRICTL"] = str(path)
    yield
    server.kill()
    server.wait()


@pytest.fixture(scope="session")
def collected(request, warm, crictl):
    """The answers of both runtimes to every case of this session."""
    found = answers.Answers(fresh=request.config.getoption("--runc-fresh"))
    wanted = []
    for item in request.session.items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if item.get_closest_marker("skip") or not {"case", "group"} & parameters.keys():
            continue
        case = parameters.get("case") or parameters["group"].case()
        wanted.append((case, None if request.config.getoption("--runc-only") else runtime_of(item)))
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        found.collect(wanted)
    yield found
    if request.config.getoption("--record"):
        found.records.export({case.key() for case, _ in wanted}, RECORDED)
    # What bears no container's name, such as a socket, is counted after all cases together.
    if found.left:
        answers.fail("left behind by the cases of this session:\n" + "\n".join(found.left))


def runtime_of(item):
    return answers.SHIM_SANDBOXER if item.get_closest_marker("shim_sandboxer") else answers.BULKHEAD


@pytest.fixture
def beside_runc(request, collected):
    """A function that compares the answers of runc and of Bulkhead to a case."""

    def check(case):
        collected.runc(case)
        if request.config.getoption("--runc-only"):
            return
        bulkhead, left = collected.bulkhead(case, runtime_of(request.node))
        collected.compared(case, lambda: answers.compare(case, collected.runc(case), bulkhead, left))

    return check


@pytest.fixture(scope="session")
def asker(request, collected):
    """Compares single facts of the answers to their groups."""
    return facts.Asker(collected, request.config.getoption("--runc-only"))


@pytest.fixture
def nothing_left(warm):
    """Fails the test when the host has more processes, mounts, sockets, cgroups or files after it than before."""
    before = leftovers.snapshot()
    yield
    left = leftovers.wait_for_nothing_new(before, seconds=15)
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    # Cases may have run before their test: their part of the log is found by name.
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")
    item.log_word = case.id_start() if case and not case.alone else ""
    item.log_start = CONTAINERD_LOG.stat().st_size if CONTAINERD_LOG.exists() and not item.log_word else 0
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        report.sections.append((f"containerd's and the shims' log, last {LOG_LINES} lines of this test", log_tail(item)))
        report.sections.append(("runtime processes on the host", runtime_processes()))
        with FAILURES.open("a", encoding="utf-8") as file:
            file.write(f"==== {item.nodeid}\n{report.longreprtext}\n")
    return report


def log_tail(item):
    """What containerd and, through its log pipe, the shims wrote during the test."""
    if not CONTAINERD_LOG.exists():
        return "no log"
    with CONTAINERD_LOG.open("rb") as file:
        file.seek(getattr(item, "log_start", 0))
        lines = file.read().decode(errors="replace").splitlines()
    lines = [line for line in lines if getattr(item, "log_word", "") in line]
    return "\n".join(line[:400] for line in lines[-LOG_LINES:])


def runtime_processes():
    return "\n".join(sorted(line for line in leftovers.snapshot() if line.startswith("process ")))
