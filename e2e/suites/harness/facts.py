"""Many small questions asked inside one container, each compared on its own: a container's start costs seconds."""

import dataclasses
import re
from pathlib import Path

import pytest

from . import answers

INTERVIEW = Path(__file__).with_name("interview.py")


@dataclasses.dataclass(frozen=True)
class Fact:
    """A line of shell that runs in the container, and what its output must hold under runc (a regular expression).

    bulkhead: the pattern of a documented difference, with its reason.
    """

    name: str
    snippet: str
    says: str = ""
    bulkhead: str | None = None
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Group:
    """Facts that share a container: options are those of `ctr run`, before is shell that runs on the host first."""

    name: str
    options: str
    facts: tuple
    before: str = ":"
    image: str = "$BUSYBOX"

    def all_facts(self):
        """Everything that is asked."""
        return self.facts

    def case(self):
        inside = questions(self.facts)
        # The quoted delimiter keeps the text as it is; the container's shell gets it as one argument.
        script = f"{self.before}\nFACTS=$(cat <<'END-OF-FACTS'\n{inside}\nEND-OF-FACTS\n)\n"
        script += f'run {self.options} {self.image} "$ID" sh -c "$FACTS"'
        return answers.Case(f"facts-{self.name}", script)


def each_fact(groups):
    """Marks a test that goes through all facts of the groups."""
    pairs = [(group, fact) for group in groups for fact in group.all_facts()]
    return pytest.mark.parametrize(("group", "fact"), [pytest.param(group, fact, id=f"{group.name}-{fact.name}") for group, fact in pairs])


def each_group(groups):
    """Marks a test that goes through the groups."""
    return pytest.mark.parametrize("group", groups, ids=lambda group: group.name)


def questions(facts):
    """Shell that asks one fact after the other, each below its name."""
    return "\n".join(f"echo; echo '@@ {fact.name}'\n( {fact.snippet}\n) 2>&1 </dev/null" for fact in facts)


@dataclasses.dataclass(frozen=True)
class PythonGroup(Group):
    """Facts whose snippets are Python, asked by one interpreter; interview.py says what it gives them."""

    image: str = "$DEBIAN"

    def case(self):
        program = INTERVIEW.read_text(encoding="utf-8")
        program += "".join(f"ask({fact.name!r}, {fact.snippet!r})\n" for fact in self.facts)
        script = f"{self.before}\nFACTS=$(cat <<'END-OF-FACTS'\n{program}\nEND-OF-FACTS\n)\n"
        script += f'run {self.options} {self.image} "$ID" python3 -I -S -c "$FACTS"'
        return answers.Case(f"facts-{self.name}", script)


def split(stdout):
    """The output of each fact by its name."""
    found = {}
    for part in re.split(r"^@@ ", stdout, flags=re.MULTILINE)[1:]:
        name, _, text = part.partition("\n")
        # The empty line belongs to the next heading.
        found[name] = text.removesuffix("\n\n") + "\n"
    return found


class Asker:
    """Looks single facts up in the answers to their groups."""

    def __init__(self, collected, runc_only):
        self.collected = collected
        self.runc_only = runc_only

    def ask(self, group):
        """runc's answer, Bulkhead's answer (None with --runc-only) and what Bulkhead's container left behind."""
        case = group.case()
        runc = self.collected.runc(case)
        bulkhead, left = (None, []) if self.runc_only else self.collected.bulkhead(case)
        return runc, bulkhead, left

    def check(self, group, fact):
        self.collected.compared(group.case(), lambda: self._check(group, fact))

    def check_ending(self, group):
        self.collected.compared(group.case(), lambda: self._check_ending(group))

    def _check(self, group, fact):
        runc, bulkhead, _ = self.ask(group)
        theirs = split(runc.stdout)[fact.name]
        if not re.search(fact.says, theirs):
            answers.fail(f"runc does not say /{fact.says}/ but {theirs!r}")
        if bulkhead is None:
            return
        everything = split(bulkhead.stdout)
        if fact.name not in everything:
            answers.fail(f"no answer: status {bulkhead.status}, {bulkhead.stderr}\n{bulkhead.stdout[-500:]}")
        ours = everything[fact.name]
        if fact.bulkhead is None:
            if ours != theirs:
                answers.fail(f"bulkhead says\n{ours}\nand runc says\n{theirs}")
        elif not re.search(fact.bulkhead, ours):
            answers.fail(f"not as the documented difference says ({fact.reason}): {ours!r}")
        elif ours == theirs:
            answers.fail(f"the documented difference is gone: {fact.reason}")

    def _check_ending(self, group):
        runc, bulkhead, left = self.ask(group)
        if bulkhead is not None and (bulkhead.status, bulkhead.stderr) != (runc.status, runc.stderr):
            answers.fail(f"bulkhead ends with {bulkhead.status}, {bulkhead.stderr}\nand runc with {runc.status}, {runc.stderr}")
        if left:
            answers.fail("left behind:\n" + "\n".join(left))
