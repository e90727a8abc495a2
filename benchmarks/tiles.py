"""Tiles per second on two CPU cores, beside a loop over pictures; sets of permutations: python benchmarks/tiles.py.

The fastest of some rounds counts, as others may use the machine.
"""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import torch
from torch import Tensor

from selfsight.augment import TilesConfig, ViewsConfig, build
from selfsight.augment.permutations import Kind, permutations
from selfsight.rng import Stream, generator
from speed import RESULTS, clock, machine, pictures

CASES: dict[str, dict[str, Any]] = {
    "jigsaw, 9 tiles of 12 px": {"grid": 3, "cell": 16, "size": 12, "shift": 1, "standardise": True},
    "jigsaw, 9 tiles of 32 px": {"grid": 3, "cell": 42, "size": 32, "shift": 2, "standardise": True},
    "pirl, 9 tiles of 12 px, each with its colours": {"grid": 3, "cell": 16, "size": 12, "per_tile": True},
    "cpc, 49 tiles of 8 px, each with its colours": {"grid": 7, "cell": 8, "stride": 4, "size": 7, "pad": True,
                                                     "per_tile": True},
}  # fmt: skip
TARGET = 20_000  #: tiles per second at 32 px


def loop(batch: Tensor) -> None:
    """Nine standardised tiles of 32 px of each picture, the way data loaders make them."""
    from torchvision.transforms import v2

    whole = v2.Compose([v2.Resize(126, antialias=True), v2.RandomHorizontalFlip(), v2.RandomGrayscale(0.3)])
    for picture in batch:
        x = whole(picture).float() / 255
        for cell in range(9):
            part = x[:, cell // 3 * 42 :, cell % 3 * 42 :]
            top, left = torch.randint(0, 7, (2,)).tolist()
            channels = []
            for c in range(3):
                down, right = torch.randint(0, 5, (2,)).tolist()
                channels.append(part[c, top + down :, left + right :][:32, :32])
            tile = torch.stack(channels)
            (tile - tile.mean((1, 2), keepdim=True)) / tile.std((1, 2), keepdim=True)


def main() -> None:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    batch = 256
    x = pictures(batch)
    found: dict[str, Any] = {"batch": batch, "pictures": "32 px", "target": TARGET}
    for name, tiles in CASES.items():
        policy = "simclr-cifar" if tiles.get("per_tile") else "jigsaw"
        config = ViewsConfig(policy=policy, views=0, tiles=TilesConfig(**tiles))
        views = build(config, 32, 3, torch.full((3,), 0.5), torch.full((3,), 0.25))
        seconds = [clock(lambda: views(x, views.draw(batch, generator(0, Stream.VIEWS, 0)))) for _ in range(15)]  # noqa: B023
        found[name] = round(batch * config.tiles.grid**2 / min(seconds))
    few = x[:32]
    found["a loop over pictures, 9 tiles of 32 px"] = round(
        len(few) * 9 / min(clock(lambda: loop(few)) for _ in range(5))
    )
    sets: tuple[tuple[Kind, int], ...] = (("algebraic", 504), ("greedy-min", 1000))
    for kind, count in sets:
        found[f"{count} permutations of 9 tiles, {kind}, seconds"] = round(
            clock(partial(permutations, 9, count, kind)), 2
        )
    found["machine"] = machine()
    (RESULTS / "tiles.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
