"""Commands of four reference projects in the words of this system: what `main.py` at the root of the repository runs.

A file for each project; docs/seed-map.md has every option and feature of theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from selfsight.errors import WrongUse
from selfsight.references import eleven, jigsaw_deepcluster, siamese, simclr
from selfsight.references.translation import Translation, with_flags

PROJECTS = (jigsaw_deepcluster, simclr, siamese, eleven)
"""Asked in this order whose a command line is."""
HELP = "\n".join([
    "Runs the commands of four older projects by selfsight: prints what they are here, and does it.",
    "",
    *(project.ABOUT for project in (eleven, simclr, siamese, jigsaw_deepcluster)),
    "",
    "all of them: --print-only prints the commands and does nothing; flags after -- are given to `selfsight pretrain`,",
    "             such as  -- --data-root ~/data --download --device cpu",
    "docs/seed-map.md says where everything went. selfsight --help has all that is new.",
])  # fmt: skip


def translate(argv: Sequence[str]) -> Translation:
    """The commands that a reference project's command line stands for. WrongUse if it is none."""
    words = list(argv)
    extra = words[words.index("--") + 1 :] if "--" in words else []
    words = words[: words.index("--")] if "--" in words else words
    project = next((project for project in PROJECTS if project.asked(words)), None)
    if project is None:
        raise WrongUse(f"{' '.join(words)!r} is no command of the four projects: python main.py --help shows theirs")
    found = project.translate(words)
    if not extra:
        return found
    if not any(command[0] == "pretrain" for command in found.commands):
        raise WrongUse("flags after -- are for a training, and this command has none: leave them out")
    if any(word.split("=", 1)[0] == "--out" for word in extra):
        raise WrongUse(
            "--out after -- would leave the evaluation behind: name the folder as the project does, before --"
        )
    commands = tuple(with_flags(c, extra) if c[0] == "pretrain" else c for c in found.commands)
    return Translation(commands, found.notes)


def main(argv: Sequence[str] | None = None) -> int:
    """Print and run the commands; the exit code of the first that fails, else 0."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    dry = "--print-only" in words
    try:
        found = translate([word for word in words if word != "--print-only"])
    except WrongUse as error:
        print(f"main.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print("\n".join(found.lines()), flush=True)
    if dry:
        return 0
    from selfsight import cli

    for command in found.commands:
        code = cli.run(list(command))
        if code:
            return code
    return 0
