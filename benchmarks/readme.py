"""Fills the measured columns of README.md's method table from results/: python benchmarks/readme.py.

The first three columns (name, paper, what it does) are written by hand in README.md; the rest is computed here, and a test
keeps both equal.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks/results/cifar10-methods.json"
START, END = "<!-- methods: the last three columns are printed by benchmarks/readme.py -->\n", "<!-- end of methods -->"
HEADER = "| method | paper | what it does | k-NN on CIFAR-10 (untrained) | gain | verdict, steps |"
GAIN = 0.10  #: from here on a gain is called one without a remark


def measured(found: dict[str, Any] | None) -> tuple[str, str, str]:
    """The three columns of a method: accuracy and that of its untrained encoder, gain in points, verdict and steps."""
    if found is None:
        return "not measured", "", ""
    gain = found["trained"] - found["untrained"]
    told = f"{100 * gain:+.1f}{'' if gain >= GAIN else ', little'}"
    return f"{found['trained']:.1%} ({found['untrained']:.1%})", told, f"{found['health']}, {found['steps']}"


def table(text: str, results: dict[str, Any]) -> str:
    """README.md with the table filled anew."""
    before, rest = text.split(START)
    body, after = rest.split(END)
    lines = [HEADER, "|" + "---|" * 6]
    for row in body.splitlines()[2:]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        name = re.match(r"\[(\w+)\]", cells[0])
        assert name, row
        lines.append(f"| {' | '.join([*cells[:3], *measured(results['methods'].get(name[1]))])} |")
    return before + START + "\n".join(lines) + "\n" + END + after


def main() -> None:
    README.write_text(table(README.read_text(), json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
