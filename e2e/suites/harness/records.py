"""What runc has answered before, so that it need not be asked again: its containers take as long to start as Bulkhead's.

An answer is recorded in the host's shared folder, by the content of the host image and of the case. Others come with the tree
(runc_answers/), from hosts with the same versions of the programs that give the answer. These can be outdated, since
something else in the host or the images may have changed: a comparison that fails by one of them asks runc before it counts.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
from pathlib import Path

from . import shell

LOCAL = Path("/shared/runc-answers")
TREE = Path(__file__).parents[1] / "runc_answers"


def _said(*command):
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def host_image_id():
    """Names what runc's answers depend on: every package of the host, its kernel, its configuration and the images."""
    parts = [Path(name).read_bytes() for name in ("/etc/containerd/config.toml", "/etc/docker/daemon.json")]
    parts += [_said("dpkg-query", "-W"), _said("uname", "-rm"), _said("ctr", "images", "ls")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def versions():
    """The programs that an answer comes from."""
    packages = _said("dpkg-query", "-W", "-f", "${Package} ${Version}\\n", "containerd", "docker.io", "runc").decode()
    return {**dict(line.split() for line in packages.splitlines()), "linux": os.uname().release}


class Records:
    """Answers by the name and the content of their case."""

    def __init__(self, local=LOCAL, tree=TREE):
        self.folder = local / host_image_id()
        here = versions()
        files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(tree.glob("*.json"))]
        self.in_tree = next((file["answers"] for file in files if file["versions"] == here), {})

    def find(self, name):
        """An answer that can be used; None: runc has to be asked."""
        path = self.folder / f"{name}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else self.in_tree.get(name)
        return shell.Answer(**found) if found else None

    def is_of_this_host(self, name):
        """False: it came with the tree, or there is none."""
        return (self.folder / f"{name}.json").exists()

    def keep(self, name, answer):
        """Records an answer in the shared folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.json"
        partial = path.with_suffix(".tmp")
        partial.write_text(json.dumps(dataclasses.asdict(answer)), encoding="utf-8")
        partial.rename(path)

    def export(self, names, path):
        """Writes those of the answers that there are, for the tree."""
        found = {name: self.find(name) for name in sorted(names)}
        answers = {name: dataclasses.asdict(answer) for name, answer in found.items() if answer}
        text = json.dumps({"versions": versions(), "answers": answers}, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
