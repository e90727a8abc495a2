"""What verbs share: words before flags, tables."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from selfsight.arguments import check_flags, parse, take
from selfsight.errors import WrongUse


@dataclasses.dataclass(frozen=True)
class NoFlags:
    """The verb takes no flags but --json."""


def words_and_flags(
    argv: list[str],
    default: Any,
    verb: str,
    what: str,
    about: str,
    many: bool = False,
    more: Sequence[str] = (),
) -> tuple[list[str], bool, Any]:
    """Words before the flags, --json, and the flags. `more`: names of flags that the caller took out."""
    json_flag, argv = take(argv, "--json", valued=False)
    if any(token in ("-h", "--help") for token in argv):
        parse(type(default), ["--help"], default, verb, what, about + "\n\nAlso: --json (one JSON object on stdout).")
    words: list[str] = []
    while argv and not argv[0].startswith("-"):
        words.append(argv.pop(0))
    if not words and len(argv) > 1 and not argv[-1].startswith("-") and not argv[-2].startswith("--"):
        words.append(argv.pop())
    needed = not what.startswith("[")
    if needed and (not words or (len(words) > 1 and not many)):
        raise WrongUse(f"{verb} takes {'' if many else 'one '}{what} before its flags (see `selfsight {verb} --help`)")
    if not needed and len(words) > 1:
        raise WrongUse(f"unexpected {words[1]!r} (see `selfsight {verb} --help`)")
    check_flags(argv, default, verb, more)
    return words, bool(json_flag), parse(type(default), argv, default, verb, what, about)


def table(header: str, rows: list[list[str]]) -> None:
    """Print a table; the header is words."""
    from rich.console import Console
    from rich.table import Table

    made = Table(*header.split(), box=None, pad_edge=False)
    for row in rows:
        made.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(made)
