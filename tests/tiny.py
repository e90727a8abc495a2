"""Tiny runs for tests: the recipe `tiny` of each method, on built-in pictures, state by state."""

import copy
import os
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from selfsight import encoders, optim
from selfsight.data import DataSet
from selfsight.recipes import recipe
from selfsight.run import Run
from selfsight.session import open_for, prepare
from selfsight.train import Pictures, build, steps

CPU = torch.device("cpu")
DEVICE = torch.device(os.environ.get("SELFSIGHT_TEST_DEVICE", "cpu"))  #: where tiny runs train: `make test-gpu`


def tiny(method: str, **changes: Any) -> tuple[Run, DataSet]:
    """The resolved recipe `tiny` and its data."""
    run = replace(recipe(method, "tiny"), precision="fp32", threads=1, deterministic=DEVICE.type != "cpu", **changes)
    data = open_for(run, DEVICE)
    run, _ = prepare(run, data, DEVICE)
    return run, data


def make(run: Run, data: DataSet, encoder: Any = None) -> tuple[Any, torch.optim.Optimizer, Pictures]:
    method, pictures = build(run, data, DEVICE, encoder)
    return method, optim.build(run.optimizer, method, int(run.batch_size)), pictures


class Double(nn.Module):
    """A network in float64. In float32, rounding that depends on how sums are split tips units at the kink of ReLU."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.dim = net, net.dim

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.double())

    def feature_map(self, x: Tensor) -> Tensor:
        return encoders.feature_map(self.net, x.double())


class DoubleTokens(Double):
    """The same of a transformer: what methods ask of its tokens, too."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.net: Any = net
        self.patch = self.net.patch

    def embedding(self) -> nn.Module:
        return self.net.embedding()

    def tokens(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.net.tokens(x.double(), *args, **kwargs)

    def pooled(self, tokens: Tensor) -> Tensor:
        return self.net.pooled(tokens)

    def attention(self, x: Tensor) -> Tensor:
        return self.net.attention(x.double())

    def layers(self) -> list[list[nn.Parameter]]:
        return self.net.layers()


class DoubleScales(Double):
    """The same of a network with maps of several sizes."""

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        self.widths = net.widths

    def scales(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.net.scales(x.double())  # type: ignore[operator]


def doubled(net: nn.Module) -> Double:
    """A network in float64, with what it can do beside features."""
    if isinstance(net, encoders.MultiScale):
        return DoubleScales(net)
    return DoubleTokens(net) if isinstance(net, encoders.TokenEncoder) else Double(net)


def make_double(run: Run, data: DataSet) -> tuple[Any, torch.optim.Optimizer, Pictures]:
    """As `make`, all in float64."""
    torch.manual_seed(1)
    net = encoders.build(run.encoder, data.channels, data.image_size)
    method, pictures = build(run, data, DEVICE, doubled(net))
    method.double()
    method.views.float()
    return method, optim.build(run.optimizer, method, int(run.batch_size)), pictures


def losses(run: Run, made: tuple, start: int = 0, stop: int | None = None) -> list[float]:
    """Train a little; the losses."""
    method, optimizer, pictures = made
    return [float(done.loss) for done in steps(method, optimizer, pictures, run, start, stop)]


def golden_losses(method: str) -> list[float]:
    """The first ten losses of the recipe `tiny`, in float64 and at a hundredth of its rate.

    At the whole rate the small batches are chaotic: a processor that rounds the views' float32 differently is 1e-7 off at
    the first step and 1e-2 at the tenth.
    """
    run, data = tiny(method)
    run = replace(run, optimizer=replace(run.optimizer, lr=0.01 * run.optimizer.lr))
    return losses(run, make_double(run, data), 0, 10)


def state(made: tuple) -> dict[str, Any]:
    """A deep copy of everything that a checkpoint holds."""
    return copy.deepcopy({"method": made[0].state_dict(), "optimizer": made[1].state_dict()})


def tensors(tree: Any, where: str = "") -> dict[str, Tensor]:
    """The tensors and numbers of a nested state, by path."""
    if isinstance(tree, Tensor):
        return {where: tree}
    if isinstance(tree, dict):
        return {k: v for key, value in tree.items() for k, v in tensors(value, f"{where}/{key}").items()}
    if isinstance(tree, list | tuple):
        return {k: v for key, value in enumerate(tree) for k, v in tensors(value, f"{where}/{key}").items()}
    if isinstance(tree, int | float):
        return {where: torch.tensor(tree, dtype=torch.float64)}
    return {}


def same(a: Any, b: Any) -> bool:
    """Bit-equal states."""
    x, y = tensors(a), tensors(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
