"""check: look at a set, hold it against another one, write what was asked for."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from selfsight.data import exclusion
from selfsight.data.catalogue import class_names, numbered
from selfsight.data.files import Source
from selfsight.data.opening import find
from selfsight.data.store import home
from selfsight.doctor.examine import OTHER, TEST, TRAIN, Checked, examine
from selfsight.doctor.kinds import BROKEN, KINDS, Limits
from selfsight.doctor.look import Seen, look_at
from selfsight.errors import WrongUse

Policy = Literal["list", "skip", "error"]
_PLAIN_EVERY = 10.0  # seconds between two lines of progress where there is no terminal


def check(
    data: str | Path,
    against: str | Path | None = None,
    *,
    limits: Limits | None = None,
    root: str | Path | None = None,
    download: bool = False,
    html: str | Path | None = None,
    exclude: str | Path | None = None,
) -> Checked:
    """Look at every picture of a data set; progress goes to stderr.

    Args:
        data: what `open_data` takes: a name, a folder, a list of paths, arrays.
        against: another set that must not share pictures with this one's training part, such as the test set.
        limits: from where on something is a finding.
        root: where named sets lie; None: as `open_data`.
        download: a named set may be fetched.
        html: write a contact sheet of the findings.
        exclude: write a list of files to leave out, for `open_data(exclude=)` and `pretrain --exclude`.

    Raises:
        WrongUse: there is no such set, or a file cannot be written.
    """
    start = time.monotonic()
    sheet, listed = (None if path is None else Path(path).expanduser() for path in (html, exclude))
    if sheet is not None and (sheet.is_dir() or not os.access(sheet.absolute().parent, os.W_OK)):
        raise WrongUse(
            f"--html {str(sheet)!r} cannot be written: give a file in a folder that is there and takes files"
        )
    if listed is not None:
        exclusion.check_out(listed)
    place = home() if root is None else Path(root).expanduser()
    sources = [find(str(name), place, download, True, _say) for name in (data, against) if name is not None]
    checked = _look(str(data), None if against is None else str(against), sources, limits or Limits())
    examine(checked)
    checked.seconds = time.monotonic() - start
    if listed is not None:
        rows_of = checked.left_out()
        exclusion.write(listed, [(KINDS[kind].what, map(checked.called, rows)) for kind, rows in rows_of.items()])
    if sheet is not None:
        from selfsight.doctor.page import page
        from selfsight.tables import whole

        whole(sheet, page(checked))
    return checked


def verdict(checked: Checked, policy: Policy, excluded: bool) -> int:
    """The exit code. list: 0; error: 1 for a serious finding; skip: 1 for one that loading does not leave out."""
    serious = {kind for kind in checked.findings if KINDS[kind].level == "serious"}
    if policy == "skip":
        serious -= {*BROKEN, *(checked.left_out() if excluded else ())}
    return int(policy != "list" and bool(serious))


def _look(name: str, against: str | None, sources: list[Source], limits: Limits) -> Checked:
    own = sources[0]
    classes = class_names(own) or []
    parts: list[Seen] = []
    sides, labels = [], []
    todo = [
        (source is own, side, pictures)
        for source in sources
        for side, pictures in ((TRAIN, source.train), (TEST, source.test))
        if pictures is not None and len(pictures)
    ]
    with _Progress(sum(len(pictures) for _, _, pictures in todo)) as progress:
        for mine, side, pictures in todo:
            parts.append(look_at(pictures, ("train", "test")[side], limits, progress))
            sides.append(np.full(len(pictures), side if mine else OTHER))
            numbers = numbered(pictures.labels, classes) if mine else None
            labels.append(np.full(len(pictures), -1) if numbers is None else numbers.numpy())
    notices = [line for source in sources for line in source.notices]
    return Checked(name, against, limits, parts, np.concatenate(sides), np.concatenate(labels), classes, notices)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


class _Progress:
    """A bar on a terminal, else a line now and then; both on stderr."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.spoke = total, 0, time.monotonic()
        self.add: Callable[[int], object] | None = None

    def __enter__(self) -> "_Progress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self.bar = Progress(console=Console(stderr=True), transient=True)
            task = self.bar.add_task("looking at pictures", total=self.total)
            self.bar.start()
            self.add = lambda count: self.bar.advance(task, count)
        return self

    def __call__(self, count: int) -> None:
        self.done += count
        if self.add is not None:
            self.add(count)
        elif time.monotonic() > self.spoke + _PLAIN_EVERY:
            self.spoke = time.monotonic()
            _say(f"looked at {self.done:,} of {self.total:,} pictures")

    def __exit__(self, *_: object) -> None:
        if self.add is not None:
            self.bar.stop()
