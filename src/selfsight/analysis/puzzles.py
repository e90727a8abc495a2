"""Jigsaw puzzles as a method gets them and as it solves them.

Shapes legend: B puzzles, T tiles, C channels, t side of a tile.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from selfsight import distributed
from selfsight.analysis.figure import figure
from selfsight.augment.sheet import plain_tiles, puzzle
from selfsight.augment.tiles import shuffled
from selfsight.checkpoint import atomic
from selfsight.core import Method
from selfsight.measure import sample
from selfsight.rng import Stream, generator
from selfsight.train import Pictures, evaluating, to_device

RIGHT, WRONG = (0.18, 0.6, 0.3), (0.8, 0.2, 0.2)


def save_puzzles(pictures: Pictures, method: Method, seed: int, path: Path, count: int = 8) -> None:
    """A PNG: sample pictures, their puzzles, and the method's solutions, framed green where right and red where wrong.

    Nothing for a method that solves no puzzles. Every process computes it and the first one writes.
    """
    rows = sample(len(pictures), count, seed, 8)
    made = pictures.views(
        to_device(pictures.part.gather(rows), pictures.device),
        pictures.views.draw(len(rows), generator(seed, Stream.PROBE, 9)),
    )
    with evaluating(method):
        found = method.solve(made)
    if found is None or distributed.rank() != 0:
        return
    order, answer = found
    mixed = shuffled(plain_tiles(pictures.views, made["tiles"]), order)
    views = pictures.views
    images = pictures.plain(rows) * views.std[:, None, None] + views.mean[:, None, None]
    image = figure({
        "picture": images.clamp(0, 1).cpu(),
        "puzzle": puzzle(mixed).clamp(0, 1).cpu(),
        "solution": solution(mixed, order, answer).cpu(),
    })  # fmt: skip
    atomic(path, lambda part: image.save(part, "PNG"))


def solution(mixed: Tensor, order: Tensor, answer: Tensor) -> Tensor:
    """Every tile where the answer has it, in a frame that says whether it belongs there: -> (B, 3, S, S) in [0, 1].

    mixed: (T, B, C, t, t) in [0, 1]; order, answer: (B, T) which tile lies in each place, in truth and as answered.
    """
    placed = shuffled(mixed, answer.argsort(1)).clamp(0, 1)
    right = shuffled(order.mT, answer.argsort(1)) == torch.arange(len(mixed), device=order.device)[:, None]  # (T, B)
    colour = torch.where(
        right[..., None], order.new_tensor(RIGHT, dtype=torch.float), order.new_tensor(WRONG, dtype=torch.float)
    )
    framed = colour[..., None, None].expand(-1, -1, -1, placed.shape[-2] + 2, placed.shape[-1] + 2).clone()
    framed[..., 1:-1, 1:-1] = placed
    return puzzle(framed)
