"""A part of a data set (train, hold-out, test) and the data set: what training and evaluation see of the pictures.

Legend: N pictures of the part, B rows asked for, C channels, H, W height and width, V views, s side of a view.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from selfsight.core import Images
from selfsight.data.feed import Cutter, Decoded, Draws
from selfsight.data.spans import Strings
from selfsight.data.store import Resident


class Part:
    """Pictures by row, 0..N-1. Rows never change their meaning: a subset is another Part of the same store."""

    def __init__(
        self,
        store: Resident | Decoded,
        *,
        rows: Tensor | None = None,
        labels: Tensor | None = None,
        index: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """`rows`: (N,) where they lie in the store; `labels`, `index`: (N,) int64; `names`: N file names."""
        self.store = store
        self.rows = torch.arange(len(store)) if rows is None else rows
        self.labels = labels  #: (N,) int64 class numbers, -1: this one has none; or None
        self.index = self.rows if index is None else index  #: (N,) place in the source, bad files counted
        self.paths = None if names is None else Strings.of(names)  #: N file names relative to the source, or None

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, rows: Tensor) -> "Part":
        """Some rows (n,) as a part of their own."""
        return Part(
            self.store,
            rows=self.rows[rows],
            labels=None if self.labels is None else self.labels[rows],
            index=self.index[rows],
            names=None if self.paths is None else self.paths.select(rows),
        )

    def labelled(self) -> Tensor:
        """(n,) rows that have a label, ascending; every row of a part without labels."""
        if self.labels is None:
            return torch.arange(len(self))
        return (self.labels >= 0).nonzero()[:, 0]

    def shards(self) -> Tensor | None:
        """(N,) which file each picture is read from, where files hold many and are read while training; else None."""
        if isinstance(self.store, Decoded) and self.store.spans.total() is not None:
            return self.store.spans.file[self.rows]
        return None

    def whole(self) -> Tensor | None:
        """All pictures as one (N, C, H, W) uint8 tensor where they are at hand and of one size, else None.

        Not a copy where the part is all of its store.
        """
        pixels = self.store.uniform
        if pixels is None or torch.equal(self.rows, torch.arange(len(pixels))):
            return pixels
        return pixels.index_select(0, self.rows)

    def gather(self, rows: Tensor) -> Images:
        """(B,) rows -> their pictures."""
        return self.store.take(self.rows[rows])

    def feed(self, steps: Iterable[tuple[Tensor, Draws]], views: Cutter) -> Iterator[Images | dict[str, Tensor]]:
        """For each (rows (B,), draws) its pictures, or name -> (V, B, C, s, s) crops where workers decode them.

        Workers read `steps` ahead, so it must not depend on what the loop does with a step.
        """
        if isinstance(self.store, Decoded):
            yield from self.store.feed(((self.rows[rows], draws) for rows, draws in steps), views)
        else:
            for rows, _ in steps:
                yield self.gather(rows)

    def chunks(self, size: int = 512) -> Iterator[tuple[Tensor, Images]]:
        """(rows, pictures) of the whole part in order, `size` at a time; files are decoded one chunk ahead."""
        pieces = torch.arange(len(self)).split(size) if len(self) else ()
        if not isinstance(self.store, Decoded):
            for rows in pieces:
                yield rows, self.gather(rows)
            return
        with ThreadPoolExecutor(1) as ahead:
            coming = [ahead.submit(self.gather, rows) for rows in pieces[:1]]
            for i, rows in enumerate(pieces):
                now = coming.pop()
                coming += [ahead.submit(self.gather, after) for after in pieces[i + 1 : i + 2]]
                yield rows, now.result()


@dataclass
class DataSet:
    """A data set, opened."""

    name: str
    classes: list[str] | None  #: None: no labels
    channels: int
    image_size: int  #: side of a whole view in pixels
    mean: Tensor  #: (C,) of the training part, pixels in 0..1
    std: Tensor  #: (C,)
    train: Part
    holdout: Part | None
    test: Part | None
    skipped: list[tuple[str, str]]  #: (file, reason)
    fingerprint: str  #: hash of the content: the same pictures and labels give the same
    choices: list[str]  #: what was decided and why, in plain words
    policy: str = ""  #: augmentation that the pictures ask for; "": the method's own

    @property
    def disjoint(self) -> bool:
        """No class is in the training part and in the test part: pictures of one cannot name those of the other."""
        if self.test is None or self.test.labels is None or self.train.labels is None:
            return False
        return not torch.isin(self.test.labels, self.train.labels).any()


def moments(part: Part, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of some rows' pixels, each picture weighing the same: (C,) and (C,) in 0..1 units."""
    total = torch.zeros(3, 0, dtype=torch.float64)
    for some in rows.split(256):
        pixels, sizes = part.gather(some)
        x = pixels.double().div_(255)
        area = torch.tensor(x[0, 0].numel()) if sizes is None else sizes.prod(1)[:, None]  # the padding is zero
        sums = torch.stack([(x.sum((2, 3)) / area).sum(0), (x.square().sum((2, 3)) / area).sum(0)])
        total = sums if total.numel() == 0 else total + sums
    mean, square = total / len(rows)
    # a constant channel keeps a deviation of one grey level, so that nothing is divided by zero
    return mean.float(), (square - mean.square()).clamp(min=(1 / 255) ** 2).sqrt().float()
