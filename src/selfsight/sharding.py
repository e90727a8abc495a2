"""Parameters in shards: fully sharded data parallelism (FSDP2, arXiv 2304.11277), one tensor at a time.

Each process keeps its share of the first axis of every parameter, gradient and optimizer state, and gathers the whole
weights of a few layers while it computes with them. What hooks and optimizers need of it is in distributed.py.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from selfsight import distributed, encoders
from selfsight.errors import WrongUse

LARGE = 100_000_000  #: a layer with more weights is gathered alone (the convolutions of RegNetY-10B)


def shard(method: nn.Module, device: torch.device) -> None:
    """Shard every parameter of a method, in place: large layers, residual blocks, and what is left of each part.

    Hooks and evaluations can call each part alone. Between calls parameters are shards. Names and the state dict's keys
    stay. Raises WrongUse for one process.
    """
    if distributed.world() == 1:
        raise WrongUse(
            "--strategy fsdp divides the parameters among several processes, and this run has one: add --processes 2 "
            "(or more), or leave out --strategy"
        )
    mesh = init_device_mesh(device.type, (distributed.world(),))
    for part in _parts(method):
        part.register_forward_hook(_no_view)
        large = [m for m in part.modules() if sum(p.numel() for p in m.parameters(recurse=False)) > LARGE]
        for module in dict.fromkeys([*large, *encoders.blocks_of(part), part]):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
        _also(
            part, "tokens", "attention", "scales", "feature_map", "forward_features"
        )  # what encoders do beside features
    fully_shard(method, mesh=mesh, reshard_after_forward=True)
    warnings.filterwarnings("ignore", message=".* returned a view tensor")  # the loop changes no output in place
    _also(method, "encode", "embed", "pictures", "extra_repr")
    method.extra_repr()  # who is called first becomes the root of all, whose parts may then be called in any order


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """What is called as one, from inside out: encoders (known by their `.dim`), and the heads beside them."""
    for child in module.children():
        below = [m for m in child.modules() if m is not child and next(m.parameters(), None) is not None]
        one = hasattr(child, "dim") or (isinstance(child, nn.Sequential) and not any(hasattr(m, "dim") for m in below))
        if not one:
            yield from _parts(child)
        if next(child.parameters(recurse=one), None) is not None:
            yield child


def _also(module: nn.Module, *ways: str) -> None:
    """Let other methods than `forward` gather the weights, too."""
    for way in ways:
        if hasattr(module, way):
            register_fsdp_forward_method(module, way)


def _no_view(module: nn.Module, inputs: Any, output: Any) -> Any:
    """A view that its reader changes in place would lose the hook that gathers the weights again for the backward."""
    return output.clone() if isinstance(output, torch.Tensor) and output._is_view() else output
