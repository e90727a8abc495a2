"""The verb `check`."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from selfsight.doctor.kinds import Limits
from selfsight.doctor.run import Policy, check, verdict
from selfsight.verbs.common import words_and_flags

ABOUT = """What is wrong with a set of pictures: files that cannot be read, odd formats and sizes, copies, look-alikes,
pictures that training and test share, unbalanced classes.

Example: selfsight check photos/train --against photos/test --html sheet.html --exclude leave-out.txt
"""


@dataclass(frozen=True)
class CheckFlags(Limits):
    """Flags of `check`."""

    against: str | None = None
    """A set that must not share pictures with the training part, such as the test set."""
    html: str | None = None
    """Write a contact sheet of the findings."""
    exclude: str | None = None
    """Write a list of files to leave out, for `selfsight pretrain --exclude`."""
    policy: Policy = "list"
    """Exit code 1 for serious findings: never (list), for all of them (error), for those that loading would not leave out
    (skip)."""
    data_root: str | None = None
    """Where named sets live."""
    download: bool = False
    """Allow the download of a named set that is missing."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    words, as_json, flags = words_and_flags(argv, CheckFlags(), "check", "DATA", ABOUT)
    from selfsight.doctor import show

    limits = Limits(**{f.name: getattr(flags, f.name) for f in fields(Limits)})
    found = check(
        words[0], flags.against, limits=limits, root=flags.data_root, download=flags.download, html=flags.html,
        exclude=flags.exclude,
    )  # fmt: skip
    if as_json:
        told = show.to_dict(found) | {"html": flags.html, "exclude": flags.exclude, "policy": flags.policy}
        print(json.dumps(told))
    else:
        show.console(found)
        left_out = sum(map(len, found.left_out().values()))
        if flags.exclude:
            print(f"{left_out:,} files are in {flags.exclude}: selfsight pretrain --exclude {Path(flags.exclude)}")
        elif left_out:
            print(f"{left_out:,} files are better left out: --exclude FILE lists them")
        if flags.html:
            print(f"contact sheet: {flags.html}")
    return verdict(found, flags.policy, flags.exclude is not None)
