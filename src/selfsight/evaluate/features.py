"""Features of pictures: computed once without augmentation, then every evaluation is small linear algebra."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from selfsight.errors import WrongUse


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
    forked = [] if device.type == "cpu" else [device.index if device.index is not None else 0]
    try:
        for module, _ in flags:
            module.training = False  # .eval() may be overridden (frozen parts do that), the flag is what layers read
        with torch.random.fork_rng(forked, device_type=_forkable(device)), torch.no_grad():
            for chunk in chunks:
                with cast:  # inside the loop: making the pictures is none of the encoder's business
                    features = encoder(chunk.to(device, non_blocking=True))
                found.append(features.float().cpu())
    finally:
        for module, training in flags:
            module.training = training
    return _joined(found)


def pixels(chunks: Iterable[Tensor]) -> Tensor:
    """The pictures themselves as features, the baseline that needs no network: (B, C, H, W) each -> (N, C * H * W).

    Raises:
        WrongUse: `chunks` is empty.
    """
    return _joined([chunk.flatten(1).float().cpu() for chunk in chunks])


def _forkable(device: torch.device) -> str:
    return "cuda" if device.type == "cpu" else device.type  # with no device listed only the CPU's state is kept


def _joined(parts: list[Tensor]) -> Tensor:
    if not parts:
        raise WrongUse("there is no picture to compute features of; give a data set with at least one picture")
    return torch.cat(parts)
