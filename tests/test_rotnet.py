"""RotNet: exact turns, balanced labels, the loss."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from selfsight.core import Step
from selfsight.methods.rotnet import RotNet, RotNetConfig
from selfsight.recipes import RECIPES


class Flat(nn.Module):
    """A picture's numbers."""

    dim = 48

    def __init__(self):
        super().__init__()
        self.seen = torch.empty(0)

    def forward(self, x):
        self.seen = x
        return x.flatten(1)


NO_DATA: Any = None
STEP = Step(0, 10, 5, torch.Generator())
RAMP = torch.arange(16.0).view(1, 1, 1, 4, 4).expand(1, 3, 3, 4, 4) + 100 * torch.arange(3.0).view(1, 3, 1, 1, 1)


def test_every_picture_is_turned_four_times_counter_clockwise_without_interpolation():
    net = Flat()
    method = RotNet(RotNetConfig(), net, NO_DATA)
    method.encode({"global": RAMP}, STEP)
    turned = net.seen.unflatten(0, (4, 3))
    assert torch.equal(turned[0], RAMP[0])
    for k in range(3):
        assert torch.equal(turned[k + 1], turned[k].transpose(2, 3).flip(2))  # transpose, then upside down
    assert torch.equal(turned[3].transpose(2, 3).flip(2), RAMP[0])  # four turns are none


def test_the_loss_is_the_mean_over_pictures_and_turns():
    torch.manual_seed(0)
    method = RotNet(RotNetConfig(), Flat(), NO_DATA).double()
    x = torch.randn(1, 5, 3, 4, 4, dtype=torch.float64)
    out = method({"global": x}, torch.arange(5), STEP)
    total, right = 0.0, 0
    for picture in x[0]:
        for k in range(4):
            logits = method.head(picture.rot90(k, (1, 2)).flatten()).tolist()
            total += math.log(sum(math.exp(v) for v in logits)) - logits[k]
            right += logits[k] == max(logits)
    assert float(out.loss) == pytest.approx(total / 20, rel=1e-12)
    assert float(out.logs["accuracy"]) == pytest.approx(right / 20)
    nn.init.zeros_(method.head.weight)
    nn.init.zeros_(method.head.bias)
    assert float(method({"global": x}, torch.arange(5), STEP).loss) == pytest.approx(1.3863, abs=1e-4)
    assert method.constant_loss(8) == pytest.approx(math.log(4))


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("rotnet")])
def test_recipes_do_not_turn_pictures_themselves(name):
    assert not RECIPES[name]().views.rotate
