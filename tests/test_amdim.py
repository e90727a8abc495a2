"""AMDIM: its encoder's maps and what they see, its loss against slow loops, its views; that places are drawn as promised."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsight import encoders, losses
from selfsight.core import Step
from selfsight.encoders.amdim import SHAPES, Residual
from selfsight.errors import WrongUse
from selfsight.losses import amdim, mutual
from selfsight.methods.amdim import AMDIM, AMDIMConfig, Embedding
from tiny import make, make_double, tiny


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(index: int = 0) -> Step:
    return Step(index, 100, 10, torch.Generator().manual_seed(1000 + index))


def built(side: int = 32, name: str = "amdim-toy", channels: int = 3) -> Any:
    torch.manual_seed(0)
    return encoders.build(name, channels, side)


# ---------------------------------------------------------------------------------------------- encoder


@pytest.mark.parametrize("side", [32, 64, 96, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_maps_have_the_published_sizes(side: int, channels: int) -> None:
    """The table of the specification: after the stem and after each block."""
    net, sides = built(side, channels=channels), []
    for module in net.modules():
        if isinstance(module, Residual) and module.kernel > 1:
            module.register_forward_hook(lambda _, __, y: sides.append(y.shape[-1]))
    one, seven, five = net.scales(torch.randn(2, channels, side, side))
    assert sides == {32: [14], 64: [30, 14], 96: [22, 10], 128: [30, 14]}[side] + [7, 5, 3, 1]
    factor = 4 if side == 32 else 8
    assert net.widths == (16 * factor, 16 * factor)
    assert one.shape == (2, net.dim) == (2, 128)
    assert seven.shape == (2, net.widths[0], 7, 7)
    assert five.shape == (2, net.widths[1], 5, 5)
    net.eval()
    x = torch.randn(2, channels, side, side)
    assert torch.equal(net(x), net.scales(x)[0])
    assert isinstance(net, encoders.MultiScale)


@pytest.mark.parametrize("name", SHAPES)
def test_channels_only_grow(name: str) -> None:
    for side in (32, 128):
        with torch.device("meta"):
            net = built(side, name)
        assert all(m.more >= 0 for m in net.modules() if isinstance(m, Residual))
        depths = {len(block) for block in (net.to5, net.to1[0])}
        assert depths == {SHAPES[name].depth}


@pytest.mark.parametrize("side", [32, 64, 96, 128])
def test_positions_see_known_parts_of_the_picture(side: int) -> None:
    """A position of the 7 x 7 map sees a window of one side; the whole map sees every pixel; windows move in equal steps."""
    net = built(side).double().eval()
    x = numbers(1, 3, side, side).requires_grad_()
    for block in net.modules():
        if isinstance(block, Residual):  # as after some training
            torch.nn.init.normal_(block.second.weight, std=0.1)
    _, seven, _ = net.scales(x)
    spans, seen = [], torch.zeros(side, side, dtype=torch.bool)
    for i in range(7):
        (g,) = torch.autograd.grad(seven[0, :, i, i].square().sum(), x, retain_graph=True)
        touched = (g[0].abs().sum(0) > 0).nonzero()
        spans.append((int(touched[:, 0].min()), int(touched[:, 0].max())))
        seen[touched[:, 0].min() : touched[:, 0].max() + 1] = True
    steps = {b[0] - a[0] for a, b in pairwise(spans[1:-1])}
    assert len(steps) == 1
    inner = {b - a for a, b in spans[1:-1]}
    assert len(inner) == 1
    assert max(inner) < 0.51 * side
    assert seen.any(1).all()


def test_a_block_starts_as_a_pool_with_more_channels() -> None:
    layer = Residual(6, 10, 4, 2).double()
    x = numbers(2, 6, 14, 14)
    pooled = x.unfold(2, 4, 2).unfold(3, 4, 2).mean((-2, -1))
    expected = torch.cat([pooled, torch.zeros(2, 4, 6, 6, dtype=torch.float64)], 1)
    torch.testing.assert_close(layer(x), expected)


def test_a_layer_is_what_the_paper_says() -> None:
    layer = Residual(3, 5, 3, 1).double()
    torch.nn.init.normal_(layer.second.weight)
    x = numbers(2, 3, 5, 5)
    y = F.conv2d(F.relu(F.conv2d(x, layer.first.weight)), layer.second.weight)
    y[:, :3] += F.avg_pool2d(x, 3, 1)
    torch.testing.assert_close(layer(x), y)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(WrongUse, match="pictures of 32, 64, 96, 128 px, not 48"):
        built(48)
    with pytest.raises(WrongUse, match="built for pictures of 32 px, not 40 x 40"):
        built(32)(torch.randn(2, 3, 40, 40))
    run, data = tiny("amdim")
    with pytest.raises(WrongUse, match=r"--views\.size 24: this encoder sees pictures of 32 px only"):
        make(replace(run, views=replace(run.views, size=24)), data)
    with pytest.raises(WrongUse, match="try --encoder amdim-small"):
        AMDIM(AMDIMConfig(), encoders.build("fastnet-tiny", 3, 32), None)  # type: ignore[arg-type]


def test_blocks_are_known() -> None:
    assert len(encoders.blocks_of(built())) == 6


# ---------------------------------------------------------------------------------------------- loss


def slow(source: Tensor, target: Tensor, clip: float, rows: list[int]) -> tuple[float, float]:
    """nce and mean squared score, triple loop."""
    n, places, width = target.shape
    total, squares = 0.0, 0.0
    for b, i in enumerate(rows):
        raw = [[float(source[b] @ target[j, p]) / math.sqrt(width) for p in range(places)] for j in range(n)]
        squares += sum(s * s for line in raw for s in line) / (n * places * len(rows))
        scores = [[clip * math.tanh(s / clip) for s in line] for line in raw]
        others = sum(math.exp(s) for j in range(n) if j != i for s in scores[j])
        for p in range(places):
            own = math.exp(scores[i][p])
            total -= math.log(own / (own + others)) / (len(rows) * places)
    return total, squares


def test_golden_values() -> None:
    source, target = torch.ones(2, 1, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64).view(2, 1, 1)
    nce = amdim(source, target, 20.0, 0.0)
    assert float(nce) == pytest.approx(0.81307, abs=5e-6)
    assert float(nce) == pytest.approx((math.log1p(math.exp(-0.999167)) + math.log1p(math.exp(0.999167))) / 2, abs=1e-6)
    assert float(amdim(source, target, 20.0, 0.05) - nce) == pytest.approx(0.025, abs=1e-12)


@pytest.mark.parametrize("rows", [None, [1, 3], [4, 5]])
@pytest.mark.parametrize("clip", [1.5, 20.0])
def test_the_loss_equals_loops(rows: list[int] | None, clip: float) -> None:
    source, target = numbers(2, 4, scale=3), numbers(6, 5, 4, seed=1, scale=3)
    given = None if rows is None else torch.tensor(rows)
    nce, squares = slow(source, target, clip, rows or [0, 1])
    assert float(amdim(source, target, clip, 0.0, given)) == pytest.approx(nce, rel=1e-10)
    assert float(amdim(source, target, clip, 0.3, given)) == pytest.approx(nce + 0.3 * squares, rel=1e-10)


def test_the_order_of_places_does_not_matter() -> None:
    source, target = numbers(4, 3), numbers(4, 7, 3, seed=1)
    shuffled = target[:, torch.randperm(7, generator=torch.Generator().manual_seed(2))]
    torch.testing.assert_close(amdim(source, shuffled, 20.0, 0.05), amdim(source, target, 20.0, 0.05))


@pytest.mark.parametrize(("batch", "places"), [(2, 1), (5, 25), (8, 49)])
def test_equal_scores_have_the_loss_of_guessing(batch: int, places: int) -> None:
    same = torch.zeros(batch, places, 3, dtype=torch.float64)
    found = amdim(numbers(batch, 3), same, 20.0, 0.05)
    assert float(found) == pytest.approx(math.log(1 + (batch - 1) * places), rel=1e-12)


def test_other_places_of_the_same_picture_are_no_negatives() -> None:
    """A place of the own picture pulls towards itself alone: its gradient is along -source, wherever the others are."""
    source, target = numbers(3, 4), numbers(3, 6, 4, seed=1).requires_grad_()
    amdim(source[:1], target, 20.0, 0.0, torch.tensor([0])).backward()
    assert target.grad is not None
    own, others = target.grad[0] @ source[0], target.grad[1:] @ source[0]
    assert (own < 0).all()
    assert (others > 0).all()


def test_scores_stay_below_the_clip_and_far_ones_still_count() -> None:
    source, target = numbers(3, 4, scale=100), numbers(3, 6, 4, seed=1, scale=100)
    assert float(amdim(source, target, 2.0, 0.0)) <= 4 + math.log(1 + 2 * 6)
    assert float(amdim(source, target, 2.0, 0.05)) > 1000  # the regulariser sees them before


def test_half_precision_is_raised() -> None:
    source, target = numbers(3, 8).bfloat16(), numbers(3, 6, 8, seed=1).bfloat16()
    found = amdim(source, target, 20.0, 0.05)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(amdim(source.double(), target.double(), 20.0, 0.05)), rel=1e-5)


@pytest.mark.parametrize("name", ["amdim", "cpc"])
def test_many_logits_are_made_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same loss and gradients, and never more logits than allowed."""
    found = []
    for most in (mutual.LOGITS, 100):
        monkeypatch.setattr(mutual, "LOGITS", most)
        a = numbers(6, 4).requires_grad_() if name == "amdim" else numbers(6, 3, 3, 4).requires_grad_()
        b = (
            numbers(6, 5, 4, seed=1).requires_grad_()
            if name == "amdim"
            else numbers(6, 5, 3, 4, seed=1).requires_grad_()
        )
        sizes: list[int] = []

        def note(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            loss = amdim(a, b, 20.0, 0.05) if name == "amdim" else losses.cpc(a, b)
        loss.backward()
        found.append((loss.detach(), a.grad, b.grad, max(sizes)))
    torch.testing.assert_close(found[0][:3], found[1][:3])
    assert found[1][3] <= max(a.numel(), b.numel()) < found[0][3]


# ---------------------------------------------------------------------------------------------- method


def test_embeddings_start_near_the_channels_themselves() -> None:
    net = Embedding(6, 10).double().eval()
    x = numbers(2, 6, 5, 5)
    y = net(x)
    assert y.shape == (2, 25, 10)
    expected = x.flatten(2).transpose(1, 2)
    assert (y[..., :6] - expected).abs().max() < 0.01 * 6 * float(x.abs().max())
    assert (y[..., 6:]).abs().max() < 0.01 * 6 * float(x.abs().max())


def test_the_method_is_three_tasks_both_ways() -> None:
    run, data = tiny("amdim")
    method, _, _ = make_double(run, data)
    one, seven, five = numbers(2, 4, 8), numbers(2, 4, 49, 8, seed=1), numbers(2, 4, 25, 8, seed=2)
    found = method.loss({"one": one, "seven": seven, "five": five}, torch.arange(4), at()).loss
    place = torch.randint(25, (4, 2), generator=at().fresh())
    total = 0.0
    for a, b in ((0, 1), (1, 0)):
        spot = torch.stack([five[a, i, place[i, a]] for i in range(4)])
        for source, target in ((one[a], five[b]), (one[a], seven[b]), (spot, five[b])):
            nce, squares = slow(source, target, 20.0, [0, 1, 2, 3])
            total += (nce + 0.05 * squares) / 2
    assert float(found) == pytest.approx(total, rel=1e-10)


def test_every_picture_has_its_own_place_at_every_step() -> None:
    """Only the place that was drawn is a source: its gradient through source scores shows which."""
    run, data = tiny("amdim")
    method, _, _ = make_double(run, data)
    picked = []
    for index in (0, 0, 1):
        place = torch.randint(25, (64, 2), generator=at(index).fresh())
        five = torch.zeros(2, 64, 25, 8, dtype=torch.float64, requires_grad=True)
        one, seven = torch.zeros(2, 64, 8, dtype=torch.float64), torch.zeros(2, 64, 49, 8, dtype=torch.float64)
        # sources have no score but with targets: only targets of view 1 are not zero, so view 0's gradient is the sources'
        with torch.no_grad():
            five[1] = numbers(64, 25, 8, seed=3)
        method.loss({"one": one, "seven": seven, "five": five}, torch.arange(64), at(index)).loss.backward()
        assert five.grad is not None
        rows = five.grad[0].abs().sum(-1) > five.grad[0].abs().sum(-1).median() * 5
        chosen = five.grad[0].norm(dim=-1).argmax(1)
        assert torch.equal(chosen, place[:, 0])
        assert len(set(chosen.tolist())) > 10
        assert rows.any()
        picked.append(chosen)
    assert torch.equal(picked[0], picked[1])
    assert not torch.equal(picked[0], picked[2])


def test_evaluation_uses_running_statistics() -> None:
    """A picture's features do not depend on its neighbours, and asking changes nothing."""
    run, data = tiny("amdim")
    method, _, pictures = make(run, data)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    all_of = pictures.sweep(method.encoder, torch.arange(12))
    torch.testing.assert_close(pictures.sweep(method.encoder, torch.arange(3)), all_of[:3])
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


def test_views_of_a_picture_are_mirrored_alike() -> None:
    run, data = tiny("amdim")
    method, _, _ = make(run, data)
    draws = method.views.draw(64, torch.Generator().manual_seed(0))["global"]
    from selfsight.augment.apply import Plan

    flip = Plan.of(method.views.groups[0], draws).flip
    assert torch.equal(flip[0], flip[1])
    assert 10 < int(flip[0].sum()) < 54
