"""Containers made from a whole specification: that of `ctr oci spec` with a root folder of its own, changed by jq."""

import dataclasses
import json
import shlex

from . import answers, facts

# spec EDIT: writes $W/spec.json, which runs $SCRIPT in a shell, changed by the jq expression EDIT ($w and $id are known to it).
# $W/root is its root folder: a copy of one that is made once.
ROOT = r"""
ready=/var/tmp/oci-root
[[ -d $ready ]] || {
    mkdir -p $ready.$$/{bin,proc,sys,dev,etc,tmp} && chmod 1777 $ready.$$/tmp && cp /usr/bin/busybox $ready.$$/bin/
    for name in $(busybox --list); do [[ -e $ready.$$/bin/$name ]] || ln -s busybox $ready.$$/bin/$name; done
    printf 'root:x:0:0::/:/bin/sh\n' >$ready.$$/etc/passwd
    mv $ready.$$ $ready
}
chmod 755 $W; cp -a $ready $W/root
spec() {
    ctr oci spec | jq --arg w "$W" --arg id "$ID" '.root = {path: ($w + "/root")} | .linux.cgroupsPath = "/default/" + $id
        | .process.env = ["PATH=/bin"] | .process.args = ["sh", "-c", $ENV.SCRIPT] | '"$1" >$W/spec.json
}
"""


def _script(inside, edit, before, start="run"):
    return f"{ROOT}\n{before}\nexport SCRIPT=$(cat <<'END-OF-SCRIPT'\n{inside}\nEND-OF-SCRIPT\n)\nspec {shlex.quote(edit)}\n{start} --config $W/spec.json $ID"


def container(name, script, edit=".", before=":", after="", **expected):
    """A case that runs script in a container whose specification is changed by edit; before and after run on the host."""
    ending = f"\nstatus=$?\n{after}\nexit $status" if after else ""
    return answers.Case(f"oci-{name}", _script(script, edit, before) + ending, **expected)


def added(name, script, edit, first="true", **expected):
    """A case that runs script in a process that is added to a container, which has run the command `first` before."""
    added_process = f"ctr task exec --exec-id added $ID sh -c {shlex.quote(script)}; echo \"-> $?\"; ctr task kill -s KILL $ID; finish >/dev/null"
    return answers.Case(f"oci-{name}", _script(f"{first}; echo ready; exec sleep 1000", edit, ":", "begin") + f"\n{added_process}", **expected)


def refused(name, edit, *words, before=":", after="", **expected):
    """A case of a specification that must be refused: the message says the words, and the program never runs."""
    return container(name, "echo it ran", edit, before, after, status=1, stdout="", complains=words, **expected)


@dataclasses.dataclass(frozen=True)
class Spec(facts.Group):
    """Facts of one container that is made from a changed specification; those of `after` are asked on the host at its end."""

    edit: str = "."
    after: tuple = ()

    def all_facts(self):
        return (*self.facts, *self.after)

    def case(self):
        script = _script(facts.questions(self.facts), self.edit, self.before)
        if self.after:
            script += f"\nstatus=$?\n{facts.questions(self.after)}\nexit $status"
        return answers.Case(f"facts-{self.name}", script)


def mount(destination, kind, source, *options):
    """An edit that adds a mount. A source that begins with $w is below the case's folder; a kind of None is left out."""
    entry = {"destination": destination, "source": source, "options": list(options)}
    if kind is not None:
        entry["type"] = kind
    return ".mounts += [" + json.dumps(entry).replace('"$w', '$w + "') + "]"


def all_of(*edits):
    """One edit after the other."""
    return " | ".join(edits)
