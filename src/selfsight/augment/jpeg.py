"""What JPEG leaves of pictures, batched and on any device: ITU-T T.81 without the coding, which loses nothing.

Legend: b pictures, C channels, s side.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# T.81, tables K.1 (luminance) and K.2 (chrominance)
_BRIGHT = """16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99"""
_COLOUR = "17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99 " + (
    "99 " * 32
)


def jpeg(x: Tensor, quality: float) -> Tensor:
    """Pictures after JPEG, colours at full resolution (4:4:4).

    Args:
        x: (b, C, s, s) float in [0, 1]; three channels are RGB, else each is taken as gray.
        quality: 1 to 100, in libjpeg's scale.

    Returns:
        (b, C, s, s) float in [0, 1].
    """
    with torch.autocast(x.device.type, enabled=False):
        side = x.shape[-1]
        planes = (x.float().clamp(0, 1) * 255).round() - 128  # which the matrix below keeps: rows sum to 1, 0, 0
        coloured = x.shape[1] == 3
        if coloured:
            planes = torch.einsum("dc,bchw->bdhw", _to_ycc(x.device), planes).round()
        steps = _steps(quality, coloured, x.device)  # (C or 1, 8, 8)
        planes = F.pad(planes, [0, -side % 8, 0, -side % 8], mode="replicate")
        blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (b, C, rows, columns, 8, 8)
        basis = _cosines(x.device)
        steps = steps[:, None, None]
        kept = (basis @ blocks @ basis.T / steps).round() * steps
        planes = (basis.T @ kept @ basis).transpose(3, 4).flatten(4, 5).flatten(2, 3)[..., :side, :side]
        planes = planes.round().clamp(-128, 127)
        if coloured:
            planes = torch.einsum("cd,bdhw->bchw", _to_rgb(x.device), planes)
        return ((planes + 128).round() / 255).clamp(0, 1)


@lru_cache(maxsize=8)
def _to_ycc(device: torch.device) -> Tensor:
    """JFIF's matrix from RGB to YCbCr."""
    return torch.tensor(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], device=device
    )


@lru_cache(maxsize=8)
def _to_rgb(device: torch.device) -> Tensor:
    """And back."""
    return torch.tensor([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], device=device)


@lru_cache(maxsize=8)
def _cosines(device: torch.device) -> Tensor:
    """(8, 8) the orthonormal DCT-II: coefficients are basis @ block @ basis.T."""
    k = torch.arange(8, dtype=torch.float64)
    basis = ((2 * k + 1) * k[:, None] * (math.pi / 16)).cos() / 2
    basis[0] /= math.sqrt(2)
    return basis.float().to(device)


@lru_cache(maxsize=64)
def _steps(quality: float, coloured: bool, device: torch.device) -> Tensor:
    """(3, 8, 8), or (1, 8, 8) of gray pictures: steps of the coefficients, as libjpeg scales the tables."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    tables = [_BRIGHT, _COLOUR, _COLOUR] if coloured else [_BRIGHT]
    rows = torch.tensor([[float(word) for word in table.split()] for table in tables])
    return ((rows * scale + 50) / 100).floor().clamp(1, 255).view(-1, 8, 8).to(device)
