"""Batch normalisation beyond one process and one batch: global, in groups, frozen. Legend: B batch, C channels."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from selfsight import distributed
from selfsight.errors import WrongUse

Apart = Literal["global", "split", "shuffle"]
"""How keys are kept from sharing batch statistics with their queries, which would give the answer away (MoCo, section 3.3).
global: not at all, statistics of the whole batch. split: in groups, the keys' groups drawn anew at each step, as if the batch
lay on several GPUs. shuffle: each process has its own, and keys are encoded by other processes than queries."""


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation in train mode uses its batch but leaves the running statistics alone."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for m in norms:
        m.track_running_stats = False  # in train mode, torch reads this as: do not update
    try:
        yield
    finally:
        for m in norms:
            m.track_running_stats = True


class _GlobalNorm(torch.autograd.Function):
    """Batch normalisation with the statistics of all processes; of (B, C, ...) tensors it keeps the input only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims = [d for d in range(x.ndim) if d != 1]
        variance, mean = torch.var_mean(x if x.dtype == torch.float64 else x.float(), dims, correction=0)
        count = mean.new_full((1,), x.numel() // x.shape[1])
        # one message, combined from deviations (Chan et al.), never as a difference of large squares
        each = distributed.gather(torch.cat([count, mean, variance])[None])
        counts, means, variances = each[:, :1], *each[:, 1:].chunk(2, 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        y = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), total)
        ctx.mark_non_differentiable(mean, variance, total)
        return y, mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, total = ctx.saved_tensors
        dims, shape = [d for d in range(x.ndim) if d != 1], [1, -1] + [1] * (x.ndim - 2)
        wide = grad.to(mean.dtype)
        centred = x.to(mean.dtype) - mean.view(shape)
        # derivatives by bias and weight, of this process's rows: DDP averages them as it does every parameter's
        shift, tilt = wide.sum(dims), (wide * centred).sum(dims) * scale
        d_x = None
        if ctx.needs_input_grad[0]:
            all_shift, all_tilt = (distributed.all_sum(torch.cat([shift, tilt])) / total).chunk(2)
            factor = scale if weight is None else scale * weight
            d_x = centred.mul_((-scale * all_tilt).view(shape)).add_(wide).sub_(all_shift.view(shape))
            d_x = d_x.mul_(factor.view(shape)).to(x.dtype)
        return d_x, tilt if ctx.needs_input_grad[1] else None, shift if ctx.needs_input_grad[2] else None, None


class _Global(nn.modules.batchnorm._BatchNorm):
    """What the two classes below share. Submodules `drop` and `act`: what a fused layer (timm's) does after its norm."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and distributed.world() > 1:
            self._check_input_dim(x)
            x, mean, variance, total = _GlobalNorm.apply(x, self.weight, self.bias, self.eps)
            self._remember(mean, variance * (total / (total - 1)))
        else:
            x = super().forward(x)
        for name in ("drop", "act"):
            after = self._modules.get(name)
            x = x if after is None else after(x)
        return x

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            share = (1 / self.num_batches_tracked).to(running.dtype) if self.momentum is None else self.momentum
            running.lerp_(new.to(running.dtype), share)


class GlobalBatchNorm1d(_Global, nn.BatchNorm1d):
    """nn.BatchNorm1d over the batches of all processes together, on any device; alone it is nn.BatchNorm1d."""


class GlobalBatchNorm2d(_Global, nn.BatchNorm2d):
    """nn.BatchNorm2d over the batches of all processes together, on any device; alone it is nn.BatchNorm2d."""


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation in `splits` groups of a batch, as if each lay on a GPU of its own (MoCo's CIFAR demo).

    Sample j belongs to group j mod splits. Running statistics are the mean over groups; in eval mode it is
    nn.BatchNorm2d, and its state has the same names. Processes keep their own groups.
    """

    splits: int

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count, channels = x.shape[:2]
        if count % self.splits:
            raise WrongUse(f"{count} views do not split into {self.splits} equal groups: choose another batch size")
        grouped = x.reshape(count // self.splits, self.splits * channels, *x.shape[2:])
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        wide = lambda p: None if p is None else p.repeat(self.splits)
        means, variances = self.running_mean.repeat(self.splits), self.running_var.repeat(self.splits)
        momentum = float(self.momentum or 0.0) if self.track_running_stats else 0.0
        y = F.batch_norm(grouped, means, variances, wide(self.weight), wide(self.bias), True, momentum, self.eps)
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                self.running_mean.copy_(means.unflatten(0, (self.splits, -1)).mean(0))
                self.running_var.copy_(variances.unflatten(0, (self.splits, -1)).mean(0))
        return y.reshape(x.shape)


def split_batch_norm(module: nn.Module, splits: int) -> nn.Module:
    """Make every BatchNorm2d in `module` a SplitBatchNorm2d, in place; returns `module`."""
    for m in module.modules():
        if type(m) is nn.BatchNorm2d:
            m.__class__ = SplitBatchNorm2d
            m.splits = splits  # type: ignore[assignment]
    return module


def keep_apart(encoder: nn.Module, kind: Apart, splits: int) -> None:
    """Prepare an encoder, in place, for `in_other_groups`."""
    if kind != "global":
        split_batch_norm(
            encoder, splits if kind == "split" else 1
        )  # shuffle: one group in each process, which stay apart


def check_apart(kind: Apart, splits: int, part: int) -> None:
    """Raise WrongUse if `part` pictures, which one process encodes at a time, cannot be kept apart."""
    if kind == "split" and part % splits:
        raise WrongUse(
            f"{part} pictures are encoded at a time, which {splits} groups (method.splits) do not share evenly: choose "
            "another batch size or method.splits"
        )
    if kind == "shuffle" and distributed.world() == 1:
        raise WrongUse("method.batch_norm shuffle needs --processes above 1: in one process choose split")


def in_other_groups(
    net: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor, kind: Apart, rng: torch.Generator
) -> tuple[Tensor, ...]:
    """net(x), computed in an order that queries do not have and put back in order: (B, ...) -> some of (B, ...).

    rng: the same on every process.
    """
    if kind == "global":
        return net(x)
    everyone = distributed.gather(x) if kind == "shuffle" else x
    order = torch.randperm(len(everyone), generator=rng).to(x.device)
    if kind == "split":
        return tuple(y[order.argsort()] for y in net(x[order]))
    return tuple(distributed.own(distributed.gather(y)[order.argsort()]) for y in net(distributed.own(everyone[order])))


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Give every process the mean of all processes' running statistics, so that they evaluate alike."""
    if distributed.world() > 1:
        buffers = [b for name, b in module.named_buffers() if name.endswith(("running_mean", "running_var"))]
        mean = distributed.all_sum(torch.cat(buffers)) / distributed.world()
        torch._foreach_copy_(buffers, list(mean.split([len(b) for b in buffers])))


def sync_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm1d and BatchNorm2d in `module` by its global twin; returns `module`.

    Parameters and buffers stay the same objects under the same names. Raises TypeError for a subclass whose forward
    does more than norm, `drop` and `act`.
    """
    twins: dict[nn.Module, nn.Module] = {}

    def visit(m: nn.Module) -> nn.Module:
        if m not in twins:
            twins[m] = _twin(m)
            for name, child in m._modules.items():
                if child is not None and twins[m] is m:
                    m._modules[name] = visit(child)
        return twins[m]

    return visit(module)


def _twin(norm: nn.Module) -> nn.Module:
    if not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) or isinstance(norm, (_Global, SplitBatchNorm2d)):
        return norm
    fused = hasattr(norm, "act") and hasattr(norm, "drop")
    if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d) and not fused:
        raise TypeError(f"{type(norm).__name__} cannot share its statistics between processes: its forward is unknown")
    kind = GlobalBatchNorm1d if isinstance(norm, nn.BatchNorm1d) else GlobalBatchNorm2d
    twin = kind.__new__(kind)
    twin.__dict__ = norm.__dict__ | {
        name: dict(norm.__dict__[name]) for name in ("_parameters", "_buffers", "_modules")
    }
    return twin
