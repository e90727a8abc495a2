"""The verb `report`."""

from __future__ import annotations

import dataclasses
import json

from selfsight.verbs.common import words_and_flags


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    """Flags of `report`."""

    out: str | None = None
    """The page; default: RUN/report.html of the first run."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    about = "One HTML page on one or several runs; it opens offline.\n\nExample: selfsight report runs/a runs/b --out compare.html"
    words, as_json, flags = words_and_flags(argv, ReportFlags(), "report", "RUN [RUN ...]", about, many=True)
    from pathlib import Path

    from selfsight.report import report as write

    out = Path(flags.out) if flags.out else Path(words[0]) / "report.html"
    path = write([Path(word) for word in words], out)
    print(json.dumps({"out": str(path)}) if as_json else str(path))
    return 0
