"""Features of pictures: computed once without augmentation, then every evaluation is small linear algebra."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from selfsight import augment
from selfsight.augment import Crops
from selfsight.core import Images
from selfsight.data import Part
from selfsight.errors import WrongUse
from selfsight.rng import Stream, generator


def chunks(
    part: Part, size: int, channels: int, device: torch.device, crop: float = 1.0, at_once: int = 256
) -> Iterator[Tensor]:
    """(b, C, S, S) float in [0, 1], in order, `at_once` pictures: the largest central square of each at S / crop px, of it
    S x S px.
    """
    zero, one = torch.zeros(channels), torch.ones(channels)
    views = augment.build(augment.ViewsConfig(policy="none", normalise=False), size, channels, zero, one).to(device)
    side = round(size / crop)
    edge = slice((side - size) // 2, (side - size) // 2 + size)
    for _, images in part.chunks(at_once):
        moved = Images(images.pixels.to(device, non_blocking=True), images.sizes)
        yield views.plain(moved, side)[..., edge, edge]


class Mirrored(nn.Module):
    """The mean of what a network says of pictures and of their mirror images: (B, C, S, S) -> (B, D)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = (self.net(images) + self.net(images.flip(-1))) / 2
        return features


def extract(
    encoder: nn.Module, chunks: Iterable[Tensor], device: torch.device | str, dtype: torch.dtype | None = None
) -> Tensor:
    """What `encoder` says of every picture, in eval mode and without gradient.

    The training flag of every module and the state of the global generators (CPU and `device`) are afterwards what
    they were, whatever encoder and `chunks` do and however the call ends.

    Args:
        encoder: (B, C, S, S) -> (B, D), already on `device`.
        chunks: normalised float pictures (B, C, S, S), any B, on any device.
        device: where the encoder runs.
        dtype: autocast to this type (torch.bfloat16); None: as the encoder's weights are.

    Returns:
        (N, D) float32 on the CPU, in the order of `chunks`.

    Raises:
        WrongUse: `chunks` is empty.
    """
    device = torch.device(device)
    flags = [(module, module.training) for module in encoder.modules()]
    cast = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
    found: list[Tensor] = []
    try:
        for module, _ in flags:
            module.training = False  # .eval() may be overridden (frozen parts do that), the flag is what layers read
        with forked(device), torch.no_grad():
            for chunk in chunks:
                with cast:  # inside the loop: making the pictures is none of the encoder's business
                    features = encoder(chunk.to(device, non_blocking=True))
                found.append(features.float().cpu())
    finally:
        for module, training in flags:
            module.training = training
    return _joined(found)


def extract_views(net: nn.Module, views: Crops, part: Part, rows: Tensor, device: torch.device, seed: int) -> Tensor:
    """Features of augmented views of some pictures.

    Args:
        net: normalised (B, C, s, s) -> (B, D), on `device`.
        views: makes V whole views, "global", on `device`.
        part: the pictures.
        rows: (n,) which of them.
        device: where.
        seed: of the draws.

    Returns:
        (n, V, D) float32 on the CPU.
    """
    draws = views.draw(len(rows), generator(seed, Stream.PROBE, 9))
    count = views.shapes["global"][0]

    def chunks() -> Iterator[Tensor]:
        for at in torch.arange(len(rows)).split(max(1, 256 // count)):
            pictures = part.gather(rows[at])
            moved = Images(pictures.pixels.to(device, non_blocking=True), pictures.sizes)
            made = views(moved, {name: drawn[at] for name, drawn in draws.items()})["global"]
            yield made.transpose(0, 1).flatten(0, 1)  # picture by picture

    return extract(net, chunks(), device).unflatten(0, (len(rows), count))


def pixels(chunks: Iterable[Tensor]) -> Tensor:
    """The pictures themselves as features, the baseline that needs no network: (B, C, H, W) each -> (N, C * H * W).

    Raises:
        WrongUse: `chunks` is empty.
    """
    return extract(nn.Flatten(), chunks, "cpu")


def forked(device: torch.device) -> AbstractContextManager[None]:
    """Inside, the state of the global generators (CPU and `device`) may change; afterwards it is what it was."""
    if device.type == "cpu":
        return torch.random.fork_rng([], device_type="cuda")  # with no device listed only the CPU's state is kept
    return torch.random.fork_rng([device.index if device.index is not None else 0], device_type=device.type)


def _joined(parts: list[Tensor]) -> Tensor:
    if not parts:
        raise WrongUse("there is no picture to compute features of; give a data set with at least one picture")
    return torch.cat(parts)
