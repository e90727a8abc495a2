"""Modules that two methods share.

Legend: V views, B batch, C channels, D features, K prototypes, N pictures, Q rows of a queue.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from selfsight import distributed
from selfsight.core import Step
from selfsight.encoders.patches import sincos
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


def reader(encoder: nn.Module, head: nn.Module) -> nn.Module:
    """The head as a module that reads what `encoder` gives, through the ReLU that some leave out (see `activated`)."""
    return nn.Sequential(nn.ReLU(), head) if getattr(encoder, "pre_activation", False) else head


def share(count: int) -> slice:
    """This process's part of `count` rows that all processes have; the last parts may be short, or empty."""
    size = -(-count // distributed.world())
    start = min(count, distributed.rank() * size)
    return slice(start, min(count, start + size))


def collect(rows: Tensor, count: int) -> Tensor:
    """What every process made of its `share`, put together: (share, ...) -> (count, ...), without gradient."""
    missing = -(-count // distributed.world()) - len(rows)
    return distributed.gather(torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]))[:count]


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


class Memory(nn.Module):
    """A unit row for every picture, `rows` (N, D), that follows what the network makes of it; random at the start."""

    rows: Tensor
    normaliser: Tensor

    def __init__(self, count: int, dim: int):
        super().__init__()
        start = torch.randn(count, dim, generator=generator(0, Stream.INIT, count, dim))
        self.register_buffer("rows", F.normalize(start, dim=1))
        self.register_buffer("normaliser", torch.ones(()))  # Z / N of NCE

    def asked(self, index: Tensor, count: int, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Own rows of the pictures `index` (B,) and `count` random ones, the same for all pictures of a step.

        (B, D), (K, D), and (B, K) bool where one of these is the picture's own. All rows if `count` is N or more.
        """
        total = len(self.rows)
        chosen = torch.arange(total) if count >= total else torch.randint(total, (count,), generator=step.fresh())
        chosen = chosen.to(index.device, non_blocking=True)
        return self.rows[index], self.rows[chosen], index[:, None] == chosen

    def mean_score(self, logits: Sequence[Tensor], step: Step) -> Tensor:
        """Z / N of NCE, (): the mean of exp(logits) at the first step, over all processes; it stays for the whole run."""
        if step.index:
            return self.normaliser
        mean = torch.stack([x.detach().exp().mean() for x in logits]).mean()
        return distributed.all_sum(mean) / distributed.world()

    @torch.no_grad()
    def follow(self, index: Tensor, rows: Tensor, momentum: float) -> None:
        """m <- m * momentum + row * (1 - momentum), to unit length, at `index` (B,); rows (B, D) have unit length.

        Of a picture that comes twice the last row counts, on every device.
        """
        place = torch.arange(len(index), device=index.device)
        last = torch.where(index[:, None] == index, place, 0).amax(1)
        mean = torch.lerp(rows[last].to(self.rows.dtype), self.rows[index], momentum)
        self.rows.index_copy_(0, index, F.normalize(mean, dim=1))


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


class Predictor(nn.Module):
    """A narrow transformer that says what is at places that were hidden: MAE's decoder, I-JEPA's predictor.

    Every token gets the fixed position of its place, so their order does not matter: tokens of what was seen, and one
    learnt token for each place that is asked.
    """

    def __init__(self, dim: int, out: int, *, width: int, depth: int, heads: int) -> None:
        """From tokens of D features, through `depth` blocks of `width` features, to `out` numbers for each place."""
        super().__init__()
        if width % 4 or width % heads:
            raise WrongUse(
                f"method.width {width} must be a multiple of 4 and of method.heads {heads}: choose another one"
            )
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.dim, self.width = out, width
        self.enter = nn.Linear(dim, width)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.norm, self.leave = norm(width), nn.Linear(width, out)

    def forward(self, tokens: Tensor, seen: Tensor, asked: Tensor, side: int) -> Tensor:
        """(B, t, D) tokens and their places (B, t), places that are asked (B, m) -> (B, m, out).

        Places are int64 on a grid of side * side patches: 0 the class token, 1 + i patch i.
        """
        positions = sincos(side, self.width, tokens.device)
        x = torch.cat([self.enter(tokens) + positions[seen], self.token + positions[asked]], dim=1)
        out: Tensor = self.leave(self.norm(self.blocks(x))[:, seen.shape[1] :])
        return out
