#!/usr/bin/env python3
"""Draws the picture of `make bench`: where a start's time goes and what a pod's memory is, Bulkhead beside runc.

usage: picture.py FIGURES.json [PICTURE.html]     (by default figures.html beside figures.json)
One page with everything in it, light or dark as the reader's system is. What the file does not have is left out.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

RUNTIMES = {"bulkhead": "Bulkhead", "runc": "runc"}

# What is at work in a phase of a start, and its colour (a class of STYLE).
WORKERS = {
    "client": "containerd and ctr",
    "shim": "shim",
    "machine": "microVM",
    "container": "container",
    "program": "the program",
    "end": "teardown",
}
# The rows of the timeline: what lies before each mark, in their order, with what is at work. Those of one runtime alone say how it does
# what stands above them.
PHASES = {
    "shim-start": ("containerd, before the shim", "client"),
    "shim-serving": ("shim start", "shim"),
    "create": ("until asked to create", "client"),
    "mounts": ("mounts", "shim"),
    "vmm": ("monitor", "machine"),
    "kernel": ("kernel handed over", "machine"),
    "agent": ("kernel and agent, until it answers", "machine"),
    "created": ("create", "container"),
    "start": ("until asked to start", "client"),
    "started": ("start", "container"),
    "exited": ("run", "program"),
    "delete": ("until asked to delete", "client"),
    "deleted": ("delete", "end"),
    "shutdown": ("end of pod and shim", "end"),
    "end": ("containerd and ctr, after", "client"),
}
# Owners of a pod's memory, and their colour.
OWNERS = {
    "guest": ("guest", "machine"),
    "monitor": ("monitor", "shim"),
    "shim": ("shim", "client"),
    "container": ("container's program", "program"),
}

WIDTH, LABEL, RIGHT = 1000, 300, 96
PLOT = WIDTH - LABEL - RIGHT
BAR, ROW = 30, 24
# Parts below this, KiB, are put together.
SMALL_KIB = 64

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1b2330; --faint: #5b6675; --line: #d8dee6; --band: #f4f6f9;
  --client: #8793a3; --shim: #2f78d0; --machine: #d9821b; --container: #2b9a68; --program: #8f56cf; --end: #cf4f62; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --text: #e4e9f0; --faint: #98a4b3; --line: #303a46; --band: #1a2029;
  --client: #78859a; --shim: #4a93ea; --machine: #e0922f; --container: #3bb17c; --program: #a577e0; --end: #e0687a; } }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 1040px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 4px; }
p { margin: 4px 0 10px; max-width: 80ch; } .faint { color: var(--faint); }
.wide { overflow-x: auto; } svg { display: block; width: 100%; min-width: 720px; height: auto; }
svg text { font: 13px system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: var(--text); }
svg .faint { fill: var(--faint); } svg .strong { font-weight: 600; }
svg .right { text-anchor: end; } svg .middle { text-anchor: middle; }
svg line { stroke: var(--line); } svg .band { fill: var(--band); } svg .part { stroke: var(--page); stroke-width: 1; }
.client { fill: var(--client); } .shim { fill: var(--shim); } .machine { fill: var(--machine); }
.container { fill: var(--container); } .program { fill: var(--program); } .end { fill: var(--end); }
svg .other { opacity: 0.55; }
table { border-collapse: collapse; font-size: 14px; } th, td { padding: 3px 14px 3px 0; border-bottom: 1px solid var(--line); }
th { text-align: left; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.detail { padding-left: 20px; color: var(--faint); }
"""


@dataclass
class Part:
    """One piece of a bar: where it begins and how long it is, in the bar's unit, and its colour."""

    text: str
    begin: float
    length: float
    colour: str


class Drawing:
    """An SVG picture that grows downwards, with one axis across."""

    def __init__(self, title, most, unit):
        self.title, self.unit = title, unit
        self.step = axis_step(most)
        self.most = max(most, self.step)
        self.below, self.parts = 0, []

    def x(self, value):
        return LABEL + PLOT * value / self.most

    def put(self, text):
        self.parts.append(text)

    def text(self, x, y, text, *classes):
        self.put(f'<text x="{x:.1f}" y="{y:.1f}" class="{" ".join(classes)}">{escape(text)}</text>')

    def box(self, part, y, height, *classes):
        width = max(0.75, PLOT * part.length / self.most)
        tip = f"{part.text}: {number(part.length)} {self.unit}"
        self.put(
            f'<rect x="{self.x(part.begin):.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" '
            f'class="{" ".join((part.colour, *classes))}"><title>{escape(tip)}</title></rect>'
        )

    def axis(self):
        """Values across the top; their lines go all the way down when the drawing is finished."""
        self.axis_at = self.below + 16
        value = 0
        while value <= self.most * 1.0001:
            self.text(self.x(value), self.axis_at, f"{value:g}", "faint", "middle")
            value += self.step
        self.text(WIDTH, self.axis_at, self.unit, "faint", "right")
        self.below += 24

    def bar(self, label, parts, total):
        """One bar of all parts, one after the other."""
        self.text(LABEL - 12, self.below + BAR / 2 + 5, label, "strong", "right")
        for part in parts:
            self.box(part, self.below, BAR, "part")
        end = max(part.begin + part.length for part in parts)
        self.text(self.x(end) + 8, self.below + BAR / 2 + 5, total, "strong")
        self.below += BAR + 8

    def legend(self, entries):
        x = LABEL
        for colour, text in entries:
            self.put(f'<rect x="{x}" y="{self.below + 4}" width="12" height="12" class="{colour}"/>')
            self.text(x + 18, self.below + 15, text, "faint")
            x += 18 + 7.5 * len(text) + 22
        self.below += 30

    def row(self, label, bars, banded, indented=False):
        """One line of its own for a phase or part: (part or None, whether it is the second runtime's) one below the other."""
        height = ROW if len(bars) == 1 else ROW + 14
        if banded:
            self.put(f'<rect x="0" y="{self.below}" width="{WIDTH}" height="{height}" class="band"/>')
        self.text(LABEL - 12, self.below + height / 2 + 4.5, label, "right", *(("faint",) if indented else ()))
        each = (height - 8) / len(bars)
        for place, (part, other) in enumerate(bars):
            if part:
                y = self.below + 4 + place * each
                self.box(part, y, f"{each - 1.5:.1f}", *(("other",) if other else ()))
                beside = self.x(part.begin + part.length) + 6
                self.text(beside, y + each / 2 + 4, number(part.length), *(("faint",) if other else ()))
        self.below += height

    def heading(self, text):
        self.below += 14
        self.text(LABEL - 12, self.below + 14, text, "strong", "right")
        self.below += 22

    def svg(self):
        lines = []
        value = 0
        while value <= self.most * 1.0001:
            lines.append(f'<line x1="{self.x(value):.1f}" x2="{self.x(value):.1f}" y1="{self.axis_at + 6}" y2="{self.below}"/>')
            value += self.step
        # Bands lie below the lines, and these below all else.
        bands = [part for part in self.parts if 'class="band"' in part]
        rest = [part for part in self.parts if 'class="band"' not in part]
        body = "\n".join([*bands, *lines, *rest])
        return (
            f'<div class="wide"><svg viewBox="0 0 {WIDTH} {self.below + 6:.0f}" role="img" aria-label="{escape(self.title)}">\n'
            f"<title>{escape(self.title)}</title>\n{body}\n</svg></div>"
        )


def axis_step(most):
    """A round distance that divides the axis into four to nine parts."""
    step = 1.0
    while most / step > 10:
        step *= 10
    while most / step < 1:
        step /= 10
    for smaller in (step / 5, step / 2, step):
        if most / smaller <= 9:
            return smaller
    return step * 2


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 0.1 else f"{value:.2f}"


def ratio_text(ours, theirs):
    return f", {ours / theirs:.2f} times as much" if ours and theirs else ""


def start_picture(timelines):
    """The start of each runtime, phase by phase."""
    known = [name for name in RUNTIMES if timelines.get(name, {}).get("phases")]
    totals = {name: timelines[name]["total_ms"] for name in known}
    drawing = Drawing("A start by phases, both runtimes", max(totals.values()), "ms")
    parts = {name: {} for name in known}
    for name in known:
        for phase in timelines[name]["phases"]:
            text, worker = PHASES.get(phase["name"], (phase.get("text", phase["name"]), "client"))
            parts[name][phase["name"]] = Part(phase.get("text", text), phase["from_ms"], phase["ms"], worker)
    drawing.axis()
    for name in known:
        drawing.bar(RUNTIMES[name], list(parts[name].values()), f"{number(totals[name])} ms")
    drawing.legend([(worker, text) for worker, text in WORKERS.items() if worker_used(worker, parts)])
    names = list(PHASES) + sorted({one for found in parts.values() for one in found} - set(PHASES))
    shown = [name for name in names if any(name in found for found in parts.values())]
    for place, phase in enumerate(shown):
        label = PHASES[phase][0] if phase in PHASES else next(found[phase].text for found in parts.values() if phase in found)
        # A step of one runtime alone has one bar.
        of = [name for name in known if phase in parts[name]]
        bars = [(parts[name][phase], name == "runc") for name in of]
        drawing.row(label, bars, place % 2 == 0, indented=len(of) < len(known))
    lead = ", ".join(f"{RUNTIMES[name]} {number(totals[name])} ms" for name in known)
    ratio = ratio_text(totals.get("bulkhead"), totals.get("runc"))
    words = (
        "The round whose time is the median. In a row the upper bar is Bulkhead's, the lower and paler one runc's; what one of them "
        "alone does has one bar. Milliseconds stand beside the bars. Bulkhead's steps are those that its shim logs; runc's are when "
        "the shim, runc and the program were started and ended. So what lies between differs a little: runc's mounts are in "
        "“until asked to create”, Bulkhead's are a row of their own, at the same time as the microVM's boot."
    )
    return section(f"A start: <code>ctr run --rm IMAGE true</code> — {escape(lead)}{ratio}", words, drawing.svg())


def worker_used(worker, parts):
    return any(part.colour == worker for found in parts.values() for part in found.values())


def memory_parts(entries):
    """Parts in the order of their owners, the largest first; (owner, Part in MiB). Small ones of an owner are one."""
    found, begin = [], 0.0
    owners = [*OWNERS, *sorted({entry["owner"] for entry in entries} - set(OWNERS))]
    for owner in owners:
        mine = [(entry["what"], entry["kib"]) for entry in entries if entry["owner"] == owner]
        large = sorted((one for one in mine if one[1] >= SMALL_KIB and not one[0].startswith("other")), key=lambda one: -one[1])
        large += [one for one in mine if one[1] >= SMALL_KIB and one[0].startswith("other")]
        small = [one for one in mine if one[1] < SMALL_KIB]
        if small:
            text = ", ".join(what for what, _ in small) if len(small) < 4 else f"{len(small)} small ones"
            large.append((text, sum(kib for _, kib in small)))
        for what, kib in large:
            colour = OWNERS.get(owner, (owner, "end"))[1]
            found.append((owner, Part(f"{OWNERS.get(owner, (owner,))[0]}: {what}", begin, kib / 1024, colour)))
            begin += kib / 1024
    return found


def memory_picture(memory):
    """The memory of one idle pod, part by part."""
    known = [name for name in RUNTIMES if memory.get(name)]
    parts = {name: memory_parts(memory[name]) for name in known}
    totals = {name: sum(part.length for _, part in found) for name, found in parts.items()}
    drawing = Drawing("The memory of an idle pod by parts, both runtimes", max(totals.values()), "MiB")
    drawing.axis()
    for name in known:
        drawing.bar(RUNTIMES[name], [part for _, part in parts[name]], f"{number(totals[name])} MiB")
    owners = {owner for found in parts.values() for owner, _ in found}
    drawing.legend([(colour, text) for owner, (text, colour) in OWNERS.items() if owner in owners])
    for name in known:
        drawing.heading(RUNTIMES[name])
        for place, (owner, part) in enumerate(parts[name]):
            # The colour says the owner, and the bar's tip all of the text.
            label = part.text.split(": ", 1)[1] if owner == "guest" else part.text
            drawing.row(label.split(" (")[0], [(part, False)], place % 2 == 0)
    lead = ", ".join(f"{RUNTIMES[name]} {number(totals[name])} MiB" for name in known)
    ratio = ratio_text(totals.get("bulkhead"), totals.get("runc"))
    words = (
        f"One of {memory.get('pods', 'several')} idle pods, proportional set size: a page that several processes share counts in parts. "
        "Pages of the guest are those that the host has given it, by what the guest's kernel says of each; what nothing says of stands "
        "as “other”. Files that all pods map are shared; the guest's own memory is private to the pod."
    )
    return section(f"An idle pod's memory — {escape(lead)}{ratio}", words, drawing.svg())


def section(title, words, body):
    return f'<h2>{title}</h2>\n<p class="faint">{escape(words)}</p>\n{body}'


def figure_table(figures):
    rows = []
    for figure in figures:

        def show(value, unit=figure["unit"]):
            text = "" if value is None else f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
            return f"{text} {unit}".strip() if text else ""

        name = figure["name"]
        detail = ' class="detail"' if name.startswith(" ") else ""
        ratio = figure.get("ratio")
        cells = [show(figure.get("bulkhead")), show(figure.get("runc")), "" if ratio is None else f"{ratio:.2f}"]
        numbers = "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells)
        rows.append(f"<tr><td{detail}>{escape(name.strip())}</td>{numbers}</tr>")
    head = '<tr><th>figure</th><th class="number">Bulkhead</th><th class="number">runc</th><th class="number">ratio</th></tr>'
    body = "\n".join(rows)
    return f'<h2>All figures</h2>\n<div class="wide"><table>\n{head}\n{body}\n</table></div>'


def host_line(host):
    words = [host.get("processor"), f"{host['cpus']} CPU" + ("s" if host["cpus"] != 1 else "") if host.get("cpus") else None]
    words += [f"{name} {host[key]}" for key, name in (("kernel", "Linux"), ("containerd", "containerd"), ("runc", "runc")) if host.get(key)]
    if host.get("clock"):
        words.append(f"times by {host['clock']}")
    return ", ".join(word for word in words if word)


def page(document):
    """The whole page from what figures.py has written."""
    blocks = []
    timelines, memory = document.get("timelines", {}), document.get("memory", {})
    if any(one.get("phases") for one in timelines.values()):
        blocks.append(start_picture(timelines))
    if any(memory.get(name) for name in RUNTIMES):
        blocks.append(memory_picture(memory))
    if document.get("figures"):
        blocks.append(figure_table(document["figures"]))
    body = "\n".join(blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Bulkhead beside runc</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>Bulkhead beside runc</h1>\n"
        f'<p class="faint">{escape(host_line(document.get("host", {})))}</p>\n{body}\n</body>\n</html>\n'
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path, help="JSON that figures.py has written")
    parser.add_argument("picture", type=Path, nargs="?", help="HTML to write; by default beside the figures")
    arguments = parser.parse_args()
    try:
        document = json.loads(arguments.figures.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"picture: {arguments.figures}: {error}")
    if not isinstance(document, dict):
        sys.exit(f"picture: {arguments.figures} is not what figures.py writes")
    target = arguments.picture or arguments.figures.with_suffix(".html")
    target.write_text(page(document), encoding="utf-8")
    print(f"picture in {target}")


if __name__ == "__main__":
    main()
