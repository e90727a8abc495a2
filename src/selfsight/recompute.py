"""Activation checkpointing: Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174), per residual block."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from selfsight import encoders
from selfsight.errors import WrongUse


def checkpoint_blocks(method: nn.Module) -> None:
    """Let each residual block in a module keep its input alone and compute its inside again in the backward pass, in place.

    Loss, gradients and running statistics are as without it, also with dropout, whose random numbers are put back. No
    module is added, so names and the state dict's keys stay. Raises WrongUse for a network without known blocks.
    """
    blocks = encoders.blocks_of(method)
    if not blocks:
        raise WrongUse(
            "--checkpoint-activations works on residual blocks, and this encoder has no known ones: leave it out, or "
            "choose another --encoder"
        )
    kinds = {kind: _checkpointed(kind) for kind in {type(block) for block in blocks}}
    for block in blocks:
        block.__class__ = kinds[type(block)]


def _checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    """The same class with another `forward`."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return kind.forward(self, *args, **kwargs)
        contexts = lambda: (nullcontext(), _spare_statistics(self))
        return checkpoint(kind.forward, self, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return type(f"Checkpointed{kind.__name__}", (kind,), {"forward": forward})


@contextmanager
def _spare_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation updates copies of its running statistics.

    Switching them off would save other tensors than the first pass did, which checkpointing refuses.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(m._buffers) for m in norms]
    for m in norms:
        m._buffers.update({name: None if b is None else b.clone() for name, b in m._buffers.items()})
    try:
        yield
    finally:
        for m, buffers in zip(norms, kept, strict=True):
            m._buffers.update(buffers)
