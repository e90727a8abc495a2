"""Jigsaw: Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles (arXiv 1603.09246).

With `distractors` the puzzles of Jigsaw++: Boosting Self-Supervised Learning via Knowledge Transfer (arXiv 1805.00385).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.augment.permutations import Kind, distances, permutations
from selfsight.augment.sheet import plain_tiles, puzzle, solution
from selfsight.augment.tiles import shuffled
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse, at_least
from selfsight.nn import activated


@dataclass(frozen=True)
class JigsawConfig:
    """Settings of Jigsaw; defaults are the paper's for AlexNet, but for the choice of permutations."""

    permutations: int = 1000
    """Number of permutations P, the classes."""
    kind: Kind = "algebraic"
    """How they are chosen. algebraic: from groups (up to 1512 of 9 tiles), farther apart than what a search finds.
    greedy-min: for any number, the smallest distance first. greedy-mean: the paper's, which leaves pairs at distance 2."""
    file: str = ""
    """A .npy file of permutations (P, tiles), counted from 0 or 1, in place of chosen ones."""
    hidden: int = 512
    """Width of the layer that sees each tile alone (fc6)."""
    norm: bool = False
    """Batch normalisation in that layer (VISSL's ResNet-50)."""
    joint: int = 4096
    """Width of the layer that sees all tiles (fc7); 0: none."""
    dropout: float = 0.5
    """Dropout after that layer."""
    distractors: int = 0
    """At most so many tiles of each puzzle, a number drawn from 0 on, come from another picture (Jigsaw++: 2)."""

    def __post_init__(self) -> None:
        at_least(self, 2, "permutations")
        at_least(self, 1, "hidden")
        at_least(self, 0, "joint", "distractors")
        if not 0 <= self.dropout < 1:
            raise WrongUse(f"method.dropout is {self.dropout}, must be at least 0 and below 1")


class Jigsaw(Method):
    """Says which permutation shuffled the tiles of a picture; the trunk sees each tile alone (context-free)."""

    Config = JigsawConfig
    sample_mean = True
    global_views = 0
    tiled = True
    table: Tensor

    def __init__(self, config: JigsawConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        if config.distractors > data.tiles:
            raise WrongUse(f"method.distractors {config.distractors} is more than the {data.tiles} tiles of a puzzle")
        chosen = permutations(data.tiles, config.permutations, config.kind) if not config.file else read(config.file)
        if chosen.shape[1] != data.tiles:
            raise WrongUse(f"method.file has permutations of {chosen.shape[1]} tiles, pictures have {data.tiles}")
        self.register_buffer("table", chosen)  # (P, T)
        width = int(encoder.dim)  # type: ignore[arg-type]
        norm = [nn.BatchNorm1d(config.hidden)] if config.norm else []
        self.tile_head = nn.Sequential(nn.Linear(width, config.hidden), *norm, nn.ReLU(inplace=True))
        seen = data.tiles * config.hidden
        joint: list[nn.Module] = []
        if config.joint:
            joint = [nn.Linear(seen, config.joint), nn.ReLU(inplace=True), nn.Dropout(config.dropout)]
        self.head = nn.Sequential(*joint, nn.Linear(config.joint or seen, len(chosen)))

    def check(self, batch: int, part: int) -> None:
        if self.config.distractors and part % 2:
            raise WrongUse(
                f"method.distractors pairs the pictures, and {part} are encoded at a time: choose an even number"
            )

    def encode(self, views: Views, step: Step) -> Views:
        label, rest = self.label(views)
        return {"logits": self._logits(views, label, rest)[None], "label": label[None]}

    def _logits(self, views: Views, label: Tensor, rest: Tensor) -> Tensor:
        """(B, P) of the puzzles with these labels (B,); rest: (B, T) uniforms."""
        x = views["tiles"]  # (T, B, C, t, t)
        z = self.tile_head(activated(self.encoder, self.encoder(x.flatten(0, 1)))).unflatten(0, x.shape[:2])
        if self.config.distractors:
            z = self._distracted(z, rest)
        z = shuffled(z, self.table[label]).transpose(0, 1).flatten(1)  # (B, T H): in place t the tile table[label][t]
        return self.head(z)

    def label(self, views: Views) -> tuple[Tensor, Tensor]:
        """Class of each puzzle (B,) and uniforms (B, T) that do not depend on it."""
        u = views["shuffle"][0]
        first = u[:, :1] * len(self.table)
        label = first.floor().clamp(max=len(self.table) - 1)
        return label[:, 0].long(), torch.cat([first - label, u[:, 1:]], 1)

    def _distracted(self, z: Tensor, u: Tensor) -> Tensor:
        """Some of (T, B, H) replaced by tiles of the picture next to it in the batch; u: (B, T) uniforms.

        Pictures 2i and 2i + 1 lend to each other, which no division of the batch tears apart.
        """
        many = u[:, 1:2] * (self.config.distractors + 1)
        u = torch.cat([u[:, :1], many - many.floor(), u[:, 2:]], 1)
        order = u.argsort(1)
        lent = z.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)
        return torch.where((order.argsort(1) < many.floor()).mT[..., None], shuffled(lent, order), z)

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        logits, label = outputs["logits"][0], outputs["label"][0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision is raised
        accuracy = (logits.detach().argmax(1) == label).float().mean()
        return Output(F.cross_entropy(logits, label), {"accuracy": accuracy})

    def pictures(self, views: Views) -> dict[str, Tensor]:
        """The tiles of pictures in their order, as puzzles, and as the answer has them."""
        label, rest = self.label(views)
        order, answer = self.table[label], self.table[self._logits(views, label, rest).argmax(1)]
        tiles = plain_tiles(self.views, views["tiles"])
        mixed = shuffled(tiles, order)
        drawn = {"picture": puzzle(tiles), "puzzle": puzzle(mixed), "answer": solution(mixed, order, answer)}
        return {name: (x - self.views.mean[:, None, None]) / self.views.std[:, None, None] for name, x in drawn.items()}

    def study(self, data: Data, rng: torch.Generator) -> dict[str, Tensor]:
        least, mean = distances(self.table.cpu())
        return {"permutations": self.table, "distances": torch.tensor([least, mean])}

    def constant_loss(self, batch: int) -> float:
        """Log P: every permutation is equally likely."""
        return math.log(len(self.table))


def read(path: str) -> Tensor:
    """Permutations from a .npy file, (P, tiles) integers from 0 or from 1 -> (P, T) int64 from 0."""
    if not Path(path).is_file():
        raise WrongUse(f"method.file: no file {path!r}; give a .npy file of permutations, or leave it out")
    try:
        found = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.int64))
    except (ValueError, TypeError, EOFError, OSError):
        raise WrongUse(f"method.file: {path!r} is no .npy array of numbers: give a (P, tiles) array") from None
    found = found - found.amin() if found.numel() else found
    if found.dim() != 2 or not torch.equal(found.sort(1).values, torch.arange(found.shape[1]).expand_as(found)):
        raise WrongUse(f"method.file: {path!r} holds no permutations: give (P, tiles) rows of 0..tiles-1 or 1..tiles")
    return found
