"""Jigsaw and DeepCluster on faces (CelebA), with the settings of one reference project and without its mistakes.

Its DeepCluster attached labels to the wrong pictures and saw two of them at a time: the batch here is 256, edges replace the
colours, which would cluster faces by background, and crops are random.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selfsight.augment import TilesConfig
from selfsight.encoders import EncoderConfig
from selfsight.methods.deepcluster import DeepClusterConfig
from selfsight.methods.jigsaw import JigsawConfig
from selfsight.optim import OptimizerConfig, ScheduleConfig
from selfsight.recipes.common import CONSTANT, CROP_AND_FLIP, views_of
from selfsight.run import ProbeConfig, Run


def _jigsaw() -> Run[Any]:
    """3 x 3 cells of 72 px, a tile of 64 px from each (theirs: 72 x 56 and 64 x 48), values moved by -2 to 1, gray 0.3."""
    tiles = TilesConfig(grid=3, cell=72, size=64, value_shift=(-2, 1), standardise=True)
    return Run(
        JigsawConfig(permutations=200, hidden=1024), data="celeba", encoder="alexnet-tile", image_size=216,
        views=views_of("jigsaw", "jigsaw", tiles=tiles),
        optimizer=OptimizerConfig(name="adam", lr=1e-3, scaling="none", weight_decay=1e-4),
        schedule=ScheduleConfig(name="step", step_epochs=35, gamma=0.2, per="epoch"), epochs=70, batch_size=32,
        probe=ProbeConfig(every=5), seed=1,
    )  # fmt: skip


def _deepcluster() -> Run[Any]:
    """k-means of 20 iterations on 128 whitened dimensions, two optimizers of rate 0.05, the head's without momentum."""
    return Run(
        DeepClusterConfig(clusters=200, pca=128), data="celeba", encoder="alexnet", image_size=224,
        net=EncoderConfig(sobel="only"), views=views_of("deepcluster", "deepcluster", **CROP_AND_FLIP),
        optimizer=OptimizerConfig(name="sgd", lr=0.05, scaling="none", weight_decay=1e-5, decay_bias_and_norm=True),
        schedule=CONSTANT, epochs=100, batch_size=256, probe=ProbeConfig(every=5), seed=1,
    )  # fmt: skip


CELEBA: dict[str, Callable[[], Run[Any]]] = {"jigsaw-celeba-70": _jigsaw, "deepcluster-celeba-100": _deepcluster}
"""Name -> Run."""
