"""Random numbers as a function of where they are used, so that no generator state is ever saved."""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a random number is for; two streams never share a seed."""

    ORDER = 0  #: order of the samples; key: epoch
    VIEWS = 1  #: augmentation draws of the global batch; key: step
    SHARED = 2  #: the same on every rank, for the two hooks of a method; key: step
    OWN = 3  #: dropout and friends; key: step, rank
    INIT = 4  #: initial weights; no key
    SPLIT = 5  #: hold-out part, fractions, subsets; no key
    DATA = 6  #: procedural pictures; key: part, index
    PROBE = 7  #: evaluation (sampled images of monitors); key: step


def seed_of(seed: int, stream: Stream, *key: int) -> int:
    """A 63-bit seed that is a pure function of its arguments (all >= 0)."""
    return int(np.random.SeedSequence((seed, int(stream), *key)).generate_state(1, np.uint64)[0]) >> 1


def generator(seed: int, stream: Stream, *key: int) -> torch.Generator:
    """A CPU generator seeded by `(seed, stream, *key)`."""
    return torch.Generator().manual_seed(seed_of(seed, stream, *key))
