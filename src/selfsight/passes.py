"""One batch through a method: forward and backward, whole, in parts that add up, or with cached gradients; and no backward.

Legend: B pictures of this process.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from selfsight import distributed
from selfsight.batchnorm import frozen_statistics
from selfsight.core import Images, Method, Output, Step, Views
from selfsight.rng import Stream, seed_of
from selfsight.run import Run

Pixels = Images | dict[str, Tensor]
"""Pictures, or views of them that workers have cropped."""


def to_device(batch: Pixels, device: torch.device) -> Pixels:
    """Pixels to the device; sizes stay on the CPU, where draws become boxes."""
    if isinstance(batch, dict):
        return {name: x.to(device, non_blocking=True) for name, x in batch.items()}
    return Images(batch.pixels.to(device, non_blocking=True), batch.sizes)


def slice_batch(batch: Pixels, rows: slice) -> Pixels:
    """Some rows of a batch: dimension 1 of cropped views (V, B, ...), dimension 0 of pictures."""
    if isinstance(batch, dict):
        return {name: x[:, rows] for name, x in batch.items()}
    return Images(batch.pixels[rows], None if batch.sizes is None else batch.sizes[rows])


class Pass(nn.Module):
    """What several processes average gradients around: the method, whole or in the second pass of `_cached`."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: Views, index: Tensor, step: Step, gradients: Views | None = None) -> Output:
        if gradients is None:
            return self.method(views, index, step)
        outputs = self.method.encode(views, step)
        return Output(torch.stack([(outputs[name] * g).sum() for name, g in gradients.items()]).sum())


class Batch(NamedTuple):
    """This process's rows of a step."""

    method: Method
    images: Pixels
    draws: dict[str, Tensor]
    rows: Tensor
    labels: Tensor | None
    device: torch.device

    @torch.no_grad()
    def views(self, part: slice) -> Views:
        """The views of some rows."""
        views = self.method.views(slice_batch(self.images, part), {name: d[part] for name, d in self.draws.items()})
        return views if self.labels is None else views | {"label": self.labels[None, part].to(self.device)}

    def numbers(self, part: slice) -> Tensor:
        """Which pictures some rows are."""
        return self.rows[part].to(self.device, non_blocking=True)


def _seed(run: Run[Any], step: Step, part: int) -> None:
    """Seed dropout and friends: the same whenever this part of the step is encoded."""
    torch.manual_seed(seed_of(run.seed, Stream.OWN, step.index, distributed.rank(), part))


def _half(run: Run[Any], batch: Batch) -> AbstractContextManager[Any]:
    return torch.autocast(batch.device.type, torch.bfloat16) if run.precision == "bf16" else nullcontext()


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def forward_backward(model: nn.Module, batch: Batch, step: Step, run: Run[Any]) -> list[Output]:
    """Forward and backward of the rows, in `accumulate` micro-batches; gradients add up to those of the mean loss."""
    if run.micro_batch:
        return [_cached(model, batch, step, run)]
    outputs, parts = [], _parts(len(batch.rows), len(batch.rows) // run.accumulate)
    for i, part in enumerate(parts):
        _seed(run, step, i)
        with distributed.without_sync(model, skip=i + 1 < len(parts)):
            with _half(run, batch):
                out: Output = model(batch.views(part), batch.numbers(part), step)
            (out.loss / run.accumulate).backward()
        outputs.append(out)
    return outputs


def _cached(model: nn.Module, batch: Batch, step: Step, run: Run[Any]) -> Output:
    """The whole batch's loss and gradient, `micro_batch` pictures at a time: cached gradients (arXiv 2101.06983).

    Outputs of all parts without a graph; their loss; its gradients by the outputs, fed back part by part.
    """
    parts = _parts(len(batch.rows), run.micro_batch // distributed.world())
    outputs = _encoded(batch, step, run, parts)
    leaves = {name: x.requires_grad_(x.is_floating_point()) for name, x in outputs.items()}
    with _half(run, batch):
        out = batch.method.loss(leaves, batch.numbers(slice(None)), step)
    out.loss.backward()
    gradients = {name: x.grad for name, x in leaves.items() if x.grad is not None}
    for i, part in enumerate(parts):
        _seed(run, step, i)
        with distributed.without_sync(model, skip=i + 1 < len(parts)):
            with _half(run, batch):
                fed = model(batch.views(part), batch.numbers(part), step, {n: g[:, part] for n, g in gradients.items()})
            fed.loss.backward()
    return out


@torch.no_grad()
def _encoded(batch: Batch, step: Step, run: Run[Any], parts: list[slice]) -> Views:
    """What the loss compares, part by part without a graph; running statistics stand still."""
    pieces: list[Views] = []
    with _half(run, batch), frozen_statistics(batch.method):
        for i, part in enumerate(parts):
            _seed(run, step, i)
            pieces.append(batch.method.encode(batch.views(part), step))
    return {name: torch.cat([piece[name] for piece in pieces], dim=1) for name in pieces[0]}


@torch.no_grad()
def forward(batch: Batch, step: Step, run: Run[Any]) -> Output:
    """The loss of the rows as training computes it, without a gradient; state stays as it is."""
    size = run.micro_batch // distributed.world() or len(batch.rows)
    outputs = _encoded(batch, step, run, _parts(len(batch.rows), size))
    with _half(run, batch):
        return batch.method.loss(outputs, batch.numbers(slice(None)), step)
