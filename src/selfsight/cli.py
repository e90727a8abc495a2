"""The command line: finds the verb, turns errors into one line and an exit code.

Exit codes: 0 done, 2 wrong use (one line, no traceback), 1 a run failed or `check` found what its policy forbids,
130/143 interrupted (a checkpoint is written).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from selfsight import verbs
from selfsight._version import __version__
from selfsight.errors import WrongUse, perhaps
from selfsight.verbs import VERBS

VERB_LINES = "\n".join(f"  {form:<31}{about}" for form, about in VERBS.values())
HELP = f"""selfsight {__version__}: learn visual representations from unlabelled pictures

usage: selfsight VERB ...        (selfsight VERB --help says more, with an example)

{VERB_LINES}

try:  selfsight pretrain simclr --data shapes --out runs/first
      selfsight pretrain simclr --data ~/photos --out runs/photos

every verb takes --json: one JSON object on stdout, everything else on stderr
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the `selfsight` command."""
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Run a command line; its exit code."""
    try:
        return _run(argv)
    except WrongUse as error:
        print(f"selfsight: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("selfsight: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if argv[0] in ("-V", "--version"):
        print(__version__)
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        known = ", ".join(VERBS)
        hint = perhaps(verb, set(VERBS))
        raise WrongUse(f"unknown verb {verb!r}.{hint if 'Perhaps' in hint else f' Known: {known}.'}")
    return verbs.run(verb, rest)
