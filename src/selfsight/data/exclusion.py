"""Lists of pictures to leave out: `selfsight check` writes them, `open_data` reads them.

A text file with a name on each line, as the data set calls its pictures: relative to the folder, as a list of paths has
them, PART:NUMBER (train:17) for pictures of an array. `#` starts a comment. A name that would not survive this (line
breaks, blanks at its ends, `#` or `"` at its start, bytes that are no text) stands as a JSON string.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from selfsight.data.files import Pictures
from selfsight.errors import WrongUse
from selfsight.tables import whole

TITLE = "# pictures to leave out, written by `selfsight check`; for --exclude of `selfsight pretrain`"


def name_of(pictures: Pictures, part: str, row: int) -> str:
    """What a list calls a picture. `part`: train or test."""
    return f"{part}:{row}" if pictures.names is None else pictures.names[row]


def write(file: Path, groups: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Write a list: (reason, names) of each group.

    Raises:
        WrongUse: the file holds something else than such a list, or cannot be written.
    """
    check_out(file)
    lines = [TITLE]
    for reason, names in groups:
        lines += [f"# {reason}", *map(_line, names)]
    whole(file, "\n".join(lines) + "\n")


def check_out(file: Path) -> None:
    """Refuse a file that is no list of ours, or that could not be written. Raises WrongUse."""
    if file.is_dir() or not os.access(file.absolute().parent, os.W_OK):
        raise WrongUse(
            f"--exclude {str(file)!r} cannot be written: give a file in a folder that is there and takes files"
        )
    if file.exists() and file.stat().st_size and not file.read_bytes().startswith(TITLE[:24].encode()):
        raise WrongUse(f"--exclude {str(file)!r} exists and is no list of `selfsight check`: choose another name")


def read(file: Path) -> frozenset[str]:
    """The names in a list.

    Raises:
        WrongUse: there is no such file, or it is no list.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(
            f"--exclude {str(file)!r} cannot be read ({type(error).__name__}): give a text file with a name on each line"
        ) from None
    names = set()
    for number, text in enumerate(lines, 1):
        line = text.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith('"'):
            try:
                line = json.loads(line)
            except ValueError:
                raise WrongUse(f"{file}, line {number}: a name in quotes must be a JSON string") from None
        names.add(line)
    return frozenset(names)


def kept(pictures: Pictures, part: str, names: frozenset[str]) -> Tensor:
    """(n,) ascending positions of the pictures that are not in the list."""
    if not names:
        return torch.arange(len(pictures))
    rows = [row for row in range(len(pictures)) if name_of(pictures, part, row) not in names]
    return torch.tensor(rows, dtype=torch.int64)


def _line(name: str) -> str:
    plain = name.isprintable() and name == name.strip() and name[:1] not in ("", "#", '"')
    return name if plain else json.dumps(name)
