"""What was found as JSON, as a table and in plain words."""

import sys
from collections import Counter
from typing import Any

from selfsight.data.feed import printable
from selfsight.doctor.examine import OTHER, TEST, TRAIN, Checked, Finding, sizes
from selfsight.doctor.kinds import KINDS

_COLOURS = {"serious": "red", "warning": "yellow", "note": "cyan"}


def to_dict(checked: Checked) -> dict[str, Any]:
    """Everything, ready for JSON. `files`: one a finding; `groups`: those that belong together."""
    parts = {}
    for side, name in ((TRAIN, "train"), (TEST, "test"), (OTHER, "against")):
        mine = checked.sides == side
        if mine.any():
            parts[name] = {"pictures": int(mine.sum()), "unreadable": int((mine & checked.broken).sum())}
    classes = {
        name: {"counts": counts, "imbalance": _imbalance(counts)}
        for side, name in ((TRAIN, "train"), (TEST, "test"))
        if (counts := checked.counts(side))
    }
    return {
        "data": checked.name,
        "against": checked.against,
        "level": checked.level,
        "parts": parts,
        "findings": {kind: _finding(checked, finding) for kind, finding in checked.findings.items()},
        "classes": classes,
        "sizes": sizes(checked),
        "formats": dict(_total(checked, "formats").most_common()),
        "modes": dict(_total(checked, "modes").most_common()),
        "left_out": sum(map(len, checked.left_out().values())),
        "notices": checked.notices,
        "seconds": round(checked.seconds, 3),
    }


def _finding(checked: Checked, finding: Finding) -> dict[str, Any]:
    kind = KINDS[finding.kind]
    told: dict[str, Any] = {"count": finding.count, "level": kind.level, "what": kind.what, "advice": kind.advice}
    if finding.lines:
        return told | {"lines": finding.lines}
    if all(len(group) == 1 for group in finding.groups):
        return told | {"files": [checked.file(group[0]) for group in finding.groups]}
    return told | {"groups": [[checked.file(row) for row in group] for group in finding.groups]}


def _imbalance(counts: dict[str, int]) -> float:
    there = [count for count in counts.values() if count]
    return round(max(there) / min(there), 2)


def _total(checked: Checked, what: str) -> Counter[str]:
    return sum((getattr(part, what) for part in checked.parts), Counter())


def shown(name: str) -> str:
    """A file name for people: what could move a cursor, or is no text, is written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in printable(name))


def example(checked: Checked, finding: Finding) -> str:
    """The first file or pair of a finding, or the first line."""
    if finding.lines:
        return shown(finding.lines[0])
    files = [checked.file(row) for row in finding.groups[0][:2]]
    text = (" ~ " if finding.kind.startswith("near") else " = ").join(shown(file["file"]) for file in files)
    return text + (f" ({files[0]['why']})" if len(files) == 1 and "why" in files[0] else "")


def headline(checked: Checked) -> str:
    """The result in one sentence."""
    levels = Counter(KINDS[kind].level for kind in checked.findings)
    told = [f"{levels['serious']} serious"] if levels["serious"] else []
    told += [f"{levels[level]} {level}{'s' * (levels[level] > 1)}" for level in ("warning", "note") if levels[level]]
    return f"kinds of findings: {', '.join(told)}" if told else "nothing was found that is wrong with these pictures"


def facts(checked: Checked) -> list[tuple[str, str]]:
    """What the set is: (name, text)."""
    found = [("data", checked.name)]
    if checked.against:
        found.append(("held against", checked.against))
    for side, name in ((TRAIN, "training pictures"), (TEST, "test pictures"), (OTHER, "pictures held against")):
        if count := int((checked.sides == side).sum()):
            found.append((name, f"{count:,}"))
    for what in ("formats", "modes"):
        found.append((what, ", ".join(f"{name} {count:,}" for name, count in _total(checked, what).most_common(6))))
    spread = sizes(checked)
    if spread:
        shorter = spread["percentiles"]["shorter"]
        found.append(("shorter side", f"{shorter['0']} to {shorter['100']} pixels, median {shorter['50']}"))
        common = ", ".join(f"{size} ({count:,})" for size, count in spread["most_common"][:3])
        found.append(("sizes", f"{spread['different']:,} different; {common}"))
    for side, name in ((TRAIN, "classes"), (TEST, "test classes")):
        if counts := {label: count for label, count in checked.counts(side).items() if count}:
            text = f"{len(counts)} with {min(counts.values()):,} to {max(counts.values()):,} pictures"
            found.append((name, text))
    return found


def console(checked: Checked) -> None:
    """A table on stdout, then what to do."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = Console(width=None if sys.stdout.isatty() else 160, highlight=False)

    def say(text: str) -> None:
        out.print(text, markup=False)

    for line in checked.notices:
        say(shown(line))
    for name, text in facts(checked):
        say(f"{name:<22} {shown(text)}")
    say("")
    if checked.findings:
        table = Table("level", "count", "finding", "for example", box=None, pad_edge=False)
        table.columns[1].justify = "right"
        for finding in checked.findings.values():
            kind = KINDS[finding.kind]
            table.add_row(
                Text(kind.level, _COLOURS[kind.level]), f"{finding.count:,}", kind.said(finding.count),
                Text(example(checked, finding)),
            )  # fmt: skip
        out.print(table)
        say("\nwhat to do")
        for finding in checked.findings.values():
            say(f"- {KINDS[finding.kind].what}: {KINDS[finding.kind].advice}")
        say("")
    say(headline(checked))
