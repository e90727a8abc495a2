"""What is evaluated on what. Legend: N training pictures, M test pictures, C channels, S side, D features, K classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from selfsight.checkpoint import Encoder
from selfsight.data import Part
from selfsight.errors import WrongUse
from selfsight.evaluate.features import Mirrored, chunks, extract
from selfsight.evaluate.stored import Sets


@dataclass(frozen=True)
class Subject:
    """An encoder, labelled pictures that classifiers learn from, and labelled pictures that are asked."""

    encoder: Encoder | None  #: on `device`, in eval mode; None: pixels are the features
    train: Part | None  #: N pictures; None where no protocol asks for them
    labels: Tensor | None  #: (N,) int64
    test: Part  #: M pictures
    test_labels: Tensor | None  #: (M,) int64, counting the same classes
    classes: list[str] | None
    side: int  #: S of the pictures that the encoder sees
    channels: int  #: C
    device: torch.device
    flip: bool = False  #: features are the mean of a picture's and of its mirror image's
    log: Callable[[str], None] = lambda line: None  #: gets lines about long work

    @property
    def net(self) -> nn.Module:
        """(B, C, S, S) in [0, 1] -> (B, D)."""
        net: nn.Module = nn.Flatten() if self.encoder is None else self.encoder
        return self.seen_by(net)

    def seen_by(self, net: nn.Module) -> nn.Module:
        """A network as features are taken from it: of mirror images, too, if these count."""
        return Mirrored(net) if self.flip else net

    @property
    def dim(self) -> int:
        """D."""
        return self.channels * self.side**2 if self.encoder is None else self.encoder.dim

    @property
    def count(self) -> int:
        """K: of the names, or of the labels if there are more."""
        found = [int(labels.max()) + 1 for labels in (self.labels, self.test_labels) if labels is not None]
        return max([len(self.classes or ()), *found])

    def chunks(self, part: Part, crop: float = 1.0) -> Iterator[Tensor]:
        """Pictures of a part, see `features.chunks`."""
        return chunks(part, self.side, self.channels, self.device, crop)

    @cached_property
    def sets(self) -> Sets:
        """Features of both parts, computed once."""
        train = None if self.train is None else extract(self.net, self.chunks(self.train), self.device)
        return Sets(
            train, self.labels, extract(self.net, self.chunks(self.test), self.device), self.test_labels, self.classes
        )

    def learner(self, protocol: str) -> tuple[Encoder, Part, Tensor, Tensor]:
        """The encoder, training pictures, and labels of both parts.

        Raises:
            WrongUse: there is no network, or no training part.
        """
        if self.encoder is None:
            raise WrongUse(f"{protocol} trains on top of a network, and 'pixels' has none: leave it out")
        if self.train is None or self.labels is None or self.test_labels is None:
            raise WrongUse(f"{protocol} learns from labelled pictures: give --train DATA and --test DATA")
        return self.encoder, self.train, self.labels, self.test_labels
