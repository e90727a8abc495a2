"""Modules that two methods share. Legend: V views, B batch, C channels, D features, K prototypes, Q rows of a queue."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from selfsight import distributed
from selfsight.errors import WrongUse
from selfsight.rng import Stream, generator

Norm = Literal["none", "batch", "batch-scale", "batch-plain", "layer"]


def mlp(
    dims: Sequence[int],
    *,
    norm: Norm = "batch",
    bias: bool = True,
    activation: Literal["relu", "gelu"] = "relu",
    last_norm: Norm = "none",
    last_bias: bool | None = None,
) -> nn.Sequential:
    """Linear layers from dims[0] to dims[-1] features, (B, dims[0]) -> (B, dims[-1]): any projector.

    Each hidden layer is Linear, norm, activation; the last one Linear, last_norm. Two dims make one Linear layer.
    norm: batch (scale and shift), batch-scale (no shift), batch-plain (neither), layer, none. bias is that of the hidden
    Linear layers, last_bias (default: the same) that of the last.
    """
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(dims[:-1]):
        layers += [nn.Linear(d_in, d_out, bias=bias), *_norm(norm, d_out)]
        layers.append(nn.ReLU(inplace=True) if activation == "relu" else nn.GELU())
    layers.append(nn.Linear(dims[-2], dims[-1], bias=bias if last_bias is None else last_bias))
    return nn.Sequential(*layers, *_norm(last_norm, dims[-1]))


def _norm(kind: Norm, dim: int) -> list[nn.Module]:
    if kind == "none":
        return []
    if kind == "layer":
        return [nn.LayerNorm(dim)]
    norm = nn.BatchNorm1d(dim, affine=kind != "batch-plain")
    if kind == "batch-scale":
        norm.register_parameter("bias", None)
    return [norm]


def each_view(net: nn.Module, views: Tensor, joint: bool) -> Tensor:
    """(V, B, ...) -> (V, B, D): in one pass, whose batch statistics span all views, or in a pass per view."""
    if joint:
        out: Tensor = net(views.flatten(0, 1))
        return out.unflatten(0, views.shape[:2])
    return torch.stack([net(view) for view in views])


def multi_crop(encoder: nn.Module, views: Mapping[str, Tensor]) -> Tensor:
    """Features of all crops, whole ones first: "global" and "local" (V, B, ...) -> (crops * B, D), crop by crop.

    One pass per size, so that batch statistics are those of crops of one size.
    """
    return torch.cat([encoder(views[name].flatten(0, 1)) for name in ("global", "local") if name in views])


def activated(encoder: nn.Module, features: Tensor) -> Tensor:
    """Features as a classifier reads them: after the ReLU that encoders with `pre_activation` (AlexNet) leave out."""
    return F.relu(features) if getattr(encoder, "pre_activation", False) else features


def share(count: int) -> slice:
    """This process's part of `count` rows that all processes have; the last parts may be short, or empty."""
    size = -(-count // distributed.world())
    start = min(count, distributed.rank() * size)
    return slice(start, min(count, start + size))


def collect(rows: Tensor, count: int) -> Tensor:
    """What every process made of its `share`, put together: (share, ...) -> (count, ...), without gradient."""
    missing = -(-count // distributed.world()) - len(rows)
    return distributed.gather(torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]))[:count]


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


class Ema(nn.Module):
    """A frozen copy that follows: teacher <- m * teacher + (1 - m) * student, over parameters only.

    Buffers are not averaged: the copy runs in train mode and keeps its own batch statistics, as in MoCo, BYOL and DINO.
    Dropout and stochastic depth are the student's alone.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False)
        for m in self.module.modules():
            if isinstance(m, nn.Dropout):
                m.p = 0.0
            elif isinstance(m, DropPath):
                m.drop_prob = 0.0

    @torch.no_grad()
    def follow(self, module: nn.Module, momentum: float) -> None:
        """One update towards `module`, parameter by parameter name; momentum 1 stands still."""
        teacher, student = dict(self.module.named_parameters()), dict(module.named_parameters())
        if teacher.keys() != student.keys():
            raise RuntimeError(f"student and teacher differ in {sorted(teacher.keys() ^ student.keys())[:5]}")
        torch._foreach_lerp_(list(teacher.values()), [student[name] for name in teacher], 1 - momentum)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The copy's output, without gradient."""
        return self.module(*args, **kwargs)


class Queue(nn.Module):
    """First in, first out. `rows`: (Q, D), the newest batch first; fixed random unit rows before anything is pushed."""

    rows: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int):
        super().__init__()
        start = torch.randn(size, dim, generator=generator(0, Stream.INIT, size, dim))
        self.register_buffer("rows", F.normalize(start, dim=1))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    @property
    def full(self) -> bool:
        """Whether every row was pushed (waits for the device)."""
        return bool(self.filled >= len(self.rows))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Put (B, D) in front, in their order; the oldest B rows leave. Of B > Q rows the first Q stay."""
        size = len(self.rows)
        self.rows.copy_(torch.cat([rows.to(self.rows.dtype), self.rows])[:size])
        self.filled.add_(len(rows)).clamp_(max=size)


class Prototypes(nn.Module):
    """K learnt directions, scores by dot product: (B, D) -> (B, K), in full precision also under autocast."""

    def __init__(self, dim: int, k: int):
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(dim, k, bias=False).weight.detach())
        self.normalise()

    @torch.no_grad()
    def normalise(self) -> None:
        """Bring every prototype to unit length, in place; with unit rows the scores are cosines."""
        self.weight.copy_(F.normalize(self.weight, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(self.weight.dtype), self.weight)


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
