"""A data set: facts, and a function that finds the pictures and their labels."""

import torch

from selfsight.data import Known
from selfsight.data.files import Pictures, Source

CLASSES = ("across", "down")


def _part(count, seed):
    """`count` noisy pictures of 16 px with stripes: (count, 3, 16, 16) uint8, and their class numbers."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    wave = (torch.arange(16) // 2 % 2 * 120.0).expand(count, 16, 16)
    stripes = torch.where(labels[:, None, None] == 0, wave.mT, wave)[:, None]
    noise = torch.rand((count, 3, 16, 16), generator=rng) * 60
    shade = torch.rand((count, 3, 1, 1), generator=rng) * 60
    return Pictures(pixels=(stripes + noise + shade).to(torch.uint8), labels=labels)


def find(request):
    """`stripes`, or `stripes:COUNT`."""
    count = int(request.options[0]) if request.options else 400
    return Source(_part(count, 0), _part(100, 1), list(CLASSES))


STRIPES = Known("noisy stripes, across or down; stripes:COUNT for another number", CLASSES, 16, 400, 100, "free", find)
