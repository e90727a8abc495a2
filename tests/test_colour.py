"""Colour operations against torchvision v2, and the matrix form against the steps."""

import itertools

import pytest
import torch
import torchvision.transforms.v2 as v2
import torchvision.transforms.v2.functional as tvf
from scipy.stats import chisquare, ks_2samp

from selfsight.augment import colour

torch.set_num_threads(1)


def pictures(count=6, channels=3, low=0.0, high=1.0, side=16, seed=0):
    x = torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * x


def awkward():
    """Gray, black, white, ties between channels, primaries."""
    values = torch.tensor(list(itertools.product([0.0, 0.25, 0.5, 1.0], repeat=3)))
    return values.T.reshape(1, 3, 8, 8)


@pytest.mark.parametrize("factor", [0.0, 0.2, 1.0, 1.8])
@pytest.mark.parametrize(
    "operation,theirs",
    [
        (colour.BRIGHTNESS, tvf.adjust_brightness),
        (colour.CONTRAST, tvf.adjust_contrast),
        (colour.SATURATION, tvf.adjust_saturation),
    ],
)
def test_steps_equal_torchvision(operation, theirs, factor):
    for x in (pictures(), awkward()):
        ours = colour.step(x.clone(), operation, torch.full((len(x),), factor))
        torch.testing.assert_close(ours, theirs(x, factor), atol=1e-6, rtol=0)


@pytest.mark.parametrize("turns", [-0.5, -0.2, 0.0, 0.1, 1 / 3, 0.5])
def test_hue_equals_torchvision(turns):
    for x in (pictures(), awkward()):
        ours = colour.turn_hue(x, torch.full((len(x),), turns))
        torch.testing.assert_close(ours, tvf.adjust_hue(x, turns), atol=1e-5, rtol=0)


def test_factors_are_per_sample():
    x = pictures(3)
    factor = torch.tensor([0.4, 1.0, 1.6])
    for operation in range(4):
        f = factor - 1 if operation == colour.HUE else factor
        f = f.clamp(-0.5, 2)
        together = colour.step(x.clone(), operation, f)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], colour.step(x[i : i + 1].clone(), operation, f[i : i + 1]))
        assert not torch.equal(together[0], x[0])


def test_gray_and_solarise_equal_torchvision():
    x = pictures()
    torch.testing.assert_close(colour.to_gray(x), tvf.rgb_to_grayscale(x, 1), atol=1e-6, rtol=0)
    ours = colour.solarise(x, torch.full((6,), 0.5))
    torch.testing.assert_close(ours, tvf.solarize(x, 0.5), atol=0, rtol=0)


def by_steps(x, factors, order, gray, gray_first):
    for i in range(len(x)):
        y = x[i : i + 1]
        if gray_first and gray[i]:
            y = colour.to_gray(y).expand_as(y)
        for operation in order[i].tolist():
            y = colour.step(y.clone(), operation, factors[i : i + 1, operation])
        if not gray_first and gray[i]:
            y = colour.to_gray(y).expand_as(y)
        x[i : i + 1] = y
    return x


@pytest.mark.parametrize("gray_first", [False, True])
def test_matrix_equals_steps_in_every_order_when_nothing_clamps(gray_first):
    order = torch.arange(24).repeat(2)
    gray = torch.arange(48) >= 24
    g = torch.Generator().manual_seed(0)
    factors = 0.7 + 0.6 * torch.rand(48, 4, generator=g)
    factors[:, colour.HUE] = 0
    x = pictures(48, low=0.3, high=0.55, side=8)
    matrix, pull = colour.compose(factors, order, gray, 3, gray_first)
    ours = torch.einsum("ndc,nchw->ndhw", matrix, x)
    ours = ours + torch.einsum("ndc,nc->nd", pull, x.mean((2, 3)))[:, :, None, None]
    want = by_steps(x.clone(), factors, colour.ORDERS[order], gray, gray_first)
    assert want.min() > 0
    assert want.max() < 1
    torch.testing.assert_close(ours, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("gray_first", [False, True])
def test_matrix_is_the_product_of_its_operations(gray_first):
    """Slow reference in float64: every operation a function of (pixel, mean), one after the other, hue included."""
    g = torch.Generator().manual_seed(0)
    order, gray = torch.arange(24).repeat(2), torch.arange(48) >= 24
    factors = 0.3 + 1.4 * torch.rand(48, 4, generator=g)
    factors[:, colour.HUE] = torch.rand(48, generator=g) - 0.5
    matrix, pull = colour.compose(factors, order, gray, 3, gray_first)
    luminance = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64)
    axis = torch.full((3,), 3**-0.5, dtype=torch.float64)
    pixel, mean = torch.rand(2, 3, generator=g).double()
    for n in range(48):
        brightness, contrast, saturation, turns = factors[n].double()
        angle = 2 * torch.pi * turns

        def rotate(v):
            turned = v * angle.cos() + torch.linalg.cross(axis, v) * angle.sin()
            return turned + axis * (axis @ v) * (1 - angle.cos())

        operations = (
            lambda v, m: brightness * v,
            lambda v, m: contrast * v + (1 - contrast) * (luminance @ m),
            lambda v, m: saturation * v + (1 - saturation) * (luminance @ v),
            lambda v, m: rotate(v),
        )
        chain = [operations[k] for k in colour.ORDERS[order[n]].tolist()]
        if gray[n]:
            to_gray = lambda v, m: (luminance @ v).expand(3)
            chain = [to_gray, *chain] if gray_first else [*chain, to_gray]
        x, m = pixel, mean
        for operation in chain:
            x, m = operation(x, m), operation(m, m)
        ours = matrix[n].double() @ pixel + pull[n].double() @ mean
        torch.testing.assert_close(ours, x, atol=1e-5, rtol=0)


def test_order_matters():
    factors = torch.tensor([[1.0, 0.5, 0.5, 0.2]]).expand(24, 4)
    matrix, _ = colour.compose(factors, torch.arange(24), torch.zeros(24, dtype=torch.bool), 3, False)
    assert len({tuple(m.flatten().mul(1e4).round().tolist()) for m in matrix}) == 2  # hue and saturation do not commute


def test_fast_hue_keeps_gray_and_permutes_primaries_at_a_third():
    factors = torch.tensor([[1.0, 1, 1, 1 / 3]])
    matrix, pull = colour.compose(factors, torch.tensor([0]), torch.tensor([False]), 3, False)
    torch.testing.assert_close(matrix[0] @ torch.ones(3), torch.ones(3))
    torch.testing.assert_close(matrix[0], torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), atol=1e-6, rtol=0)
    assert not pull.abs().max() > 1e-6
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    torch.testing.assert_close((matrix[0] @ red.view(3)), tvf.adjust_hue(red, 1 / 3).view(3), atol=1e-5, rtol=0)


def test_fast_hue_turns_the_chroma_as_hsv_does():
    """They differ in brightness (HSV keeps the maximum, a rotation the mean), hardly in where the colour points."""
    x = pictures(low=0.4, high=0.6)
    tint = lambda y: y - y.mean(1, keepdim=True)
    for turns in (-0.1, 0.05, 0.1):
        matrix, _ = colour.compose(torch.tensor([[1, 1, 1, turns]]), torch.tensor([0]), torch.tensor([False]), 3, False)
        ours = tint(torch.einsum("dc,nchw->ndhw", matrix[0], x))
        theirs = tint(tvf.adjust_hue(x, turns))
        along = torch.nn.functional.cosine_similarity(ours.flatten(2), theirs.flatten(2), dim=1).mean()
        still = torch.nn.functional.cosine_similarity(tint(x).flatten(2), theirs.flatten(2), dim=1).mean()
        assert 1 - along < 0.1 * (1 - still)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_brightness_and_contrast_for_any_channels(channels):
    x = pictures(24, channels, 0.35, 0.5)
    factors = torch.tensor([[1.2, 0.6, 1.0, 0.0]]).expand(24, 4)
    matrix, pull = colour.compose(factors, torch.arange(24), torch.zeros(24, dtype=torch.bool), channels, False)
    ours = torch.einsum("ndc,nchw->ndhw", matrix, x)
    ours = ours + torch.einsum("ndc,nc->nd", pull, x.mean((2, 3)))[:, :, None, None]
    mean = 1.2 * x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(ours, 0.6 * 1.2 * x + 0.4 * mean, atol=1e-5, rtol=0)


def test_parameters_have_torchvisions_distribution():
    from selfsight.augment import POLICIES, ViewsConfig, build
    from selfsight.augment.apply import Plan

    torch.manual_seed(0)
    policy = POLICIES["simclr"][0]
    spread = (policy.brightness, policy.contrast, policy.saturation, policy.hue)
    jitter = v2.ColorJitter(*spread)
    theirs = [jitter.make_params([]) for _ in range(2000)]
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    views = build(ViewsConfig(policy="simclr", views=1), 32, 3, torch.zeros(3), torch.ones(3))
    plan = Plan.of(views.groups[0], views.draw(4000, torch.Generator().manual_seed(1))["global"])
    on = plan.jitter[0]
    assert abs(on.float().mean() - 0.8) < 0.03
    for k, name in enumerate(names):
        ours = plan.factors[0, on, k].numpy()
        assert ks_2samp(ours, [float(t[name]) for t in theirs]).pvalue > 1e-3
    neutral = plan.factors[0, ~on]
    assert torch.equal(neutral, torch.tensor([1.0, 1, 1, 0]).expand_as(neutral))
    assert colour.ORDERS.unique(dim=0).shape == (24, 4)
    counts = torch.bincount(plan.order[0], minlength=24)
    assert chisquare(counts.numpy()).pvalue > 1e-3
    assert abs(plan.gray.float().mean() - 0.2) < 0.03
    assert abs(plan.blur.float().mean() - 0.5) < 0.03
    assert abs(plan.flip.float().mean() - 0.5) < 0.03
