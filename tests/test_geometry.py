"""Crop, resize, flip, blur and rotation against torchvision v2."""

import pytest
import torch
import torchvision.transforms.v2 as v2
import torchvision.transforms.v2.functional as tvf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, ks_2samp
from torchvision.transforms import InterpolationMode

from selfsight.augment import geometry

torch.set_num_threads(1)
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def picture(height, width, channels=3, seed=0):
    return torch.randint(0, 256, (channels, height, width), generator=torch.Generator().manual_seed(seed)).float()


def uniforms(count, seed=0):
    return torch.rand(count, geometry.CROP_DRAWS, generator=torch.Generator().manual_seed(seed))


def boxes(count, height, width, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), seed=0):
    one = torch.ones(count, 1)
    return geometry.random_boxes(
        uniforms(count, seed),
        torch.tensor([[height, width]]).expand(count, 2),
        one * torch.tensor(scale),
        one * torch.tensor(ratio),
    )


@pytest.mark.parametrize("height,width", [(32, 32), (60, 100)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.2, 1.0)])
def test_boxes_have_torchvisions_distribution(height, width, scale):
    torch.manual_seed(1)
    crop = v2.RandomResizedCrop(32, scale=scale)
    blank = torch.zeros(3, height, width)
    rows = [crop.make_params([blank]) for _ in range(2500)]
    theirs = torch.tensor([[r["top"], r["left"], r["height"], r["width"]] for r in rows]).float()
    ours = boxes(2500, height, width, scale).float()
    for of in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: b[:, 0] / (height - b[:, 2]).clamp(min=1),
    ):
        assert ks_2samp(of(ours).numpy(), of(theirs).numpy()).pvalue > 1e-3


def test_positions_are_uniform_and_reach_both_borders():
    found = boxes(20000, 8, 8, (0.25, 0.25), (1.0, 1.0))
    assert (found[:, 2:] == 4).all()
    for axis in (0, 1):
        assert chisquare(torch.bincount(found[:, axis], minlength=5).numpy()).pvalue > 1e-3


def test_a_candidate_is_exactly_torchvisions(monkeypatch):
    """Same uniforms, same boxes: torchvision's own loop fed with our numbers."""
    u = uniforms(200).double()
    ours = boxes(200, 47, 90, (0.3, 1.0))
    for row, box in zip(u, ours):
        want = None
        for i in range(10):
            area = 47 * 90 * (0.3 + 0.7 * row[i].item())
            low, high = torch.log(torch.tensor([3 / 4, 4 / 3], dtype=torch.float32).double()).tolist()
            aspect = torch.tensor(low + (high - low) * row[10 + i].item(), dtype=torch.float64).exp().item()
            w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if 0 < w <= 90 and 0 < h <= 47:
                want = [int(row[20].item() * (47 - h + 1)), int(row[21].item() * (90 - w + 1)), h, w]
                break
        if want is not None:
            assert box.tolist() == want


@pytest.mark.parametrize(
    "height,width,want", [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10)), (50, 50, (0, 0, 50, 50))]
)
def test_what_does_not_fit_falls_back_to_the_central_crop(height, width, want):
    # An area of four pictures never fits.
    found = boxes(5, height, width, (4.0, 4.0))
    assert found.tolist() == [list(want)] * 5


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.floats(0.01, 1.0),
    st.floats(0.01, 1.0),
    st.floats(0.2, 1.0),
    st.integers(0, 99),
)
def test_boxes_lie_inside(height, width, a, b, ratio, seed):
    top, left, tall, wide = boxes(16, height, width, (min(a, b), max(a, b)), (ratio, 1 / ratio), seed).unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (tall >= 1).all()
    assert (wide >= 1).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "source,box,size",
    [
        ((32, 32), (3, 5, 21, 17), 32),  # enlarged, from the table
        ((32, 32), (0, 0, 32, 32), 32),  # unchanged
        ((32, 32), (2, 4, 28, 25), 18),  # shrunk
        ((32, 32), (31, 0, 1, 32), 32),  # one pixel tall
        ((120, 90), (7, 11, 101, 67), 64),  # shrunk, weights computed
        ((120, 90), (50, 3, 20, 80), 96),  # stretched one way, shrunk the other
        ((300, 260), (10, 0, 290, 255), 24),  # shrunk 12 times
    ],
)
def test_crop_resize_flip_equals_torchvision(mode, flip, source, box, size):
    x = picture(*source)
    top, left, tall, wide = (torch.tensor([[v]]) for v in box)
    still, mirror = torch.tensor([[False]]), torch.tensor([[flip]])
    rows = geometry.Axis(top, tall, still, source[0], size, mode, across=False).weights(0, slice(None))
    columns = geometry.Axis(left, wide, mirror, source[1], size, mode, across=True).weights(0, slice(None))
    ours = geometry.resample(x[None], rows, columns)[0]
    want = tvf.resize(tvf.crop(x, *box), [size, size], MODES[mode], antialias=True)
    want = tvf.horizontal_flip(want) if flip else want
    torch.testing.assert_close(ours, want, atol=2e-3, rtol=0)  # of 255


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_table_equals_computed_weights(mode):
    starts = [(s, n) for n in range(1, 13) for s in range(12 - n + 1)]
    start, length = torch.tensor(starts).T
    for flip in (False, True):
        mirror = torch.full_like(start, flip, dtype=torch.bool)
        axis = geometry.Axis(start[None], length[None], mirror[None], 12, 9, mode, across=False)
        assert axis.index is not None
        want = geometry.resize_weights(start, length, mirror, 12, 9, mode)
        assert torch.equal(axis.weights(0, slice(None)), want)


def test_weights_sum_to_one_and_stay_in_the_crop():
    start, length = torch.tensor([3, 0, 40]), torch.tensor([20, 50, 10])
    weights = geometry.resize_weights(start, length, torch.zeros(3, dtype=torch.bool), 50, 32, "bicubic")
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 32))
    used = weights.abs().sum(1) > 0
    for i in range(3):
        assert not used[i, : start[i]].any()
        assert not used[i, start[i] + length[i] :].any()


@pytest.mark.parametrize("side", [32, 96, 224])
def test_blur_equals_torchvision(side):
    x = picture(side, side) / 255
    sigma = torch.tensor([0.1, 0.7, 2.0])
    ours = geometry.blur(x.expand(3, -1, -1, -1), sigma)
    taps = geometry.blur_taps(side)
    assert taps == {32: 3, 96: 9, 224: 23}[side]
    for i in range(3):
        want = tvf.gaussian_blur(x, [taps, taps], [sigma[i].item()] * 2)
        torch.testing.assert_close(ours[i], want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("degrees", [-30.0, 0.0, 13.5, 90.0])
def test_rotation_equals_torchvision(degrees):
    x = picture(33, 33) / 255
    ours = geometry.rotate(x[None], torch.tensor([degrees]))[0]
    want = tvf.rotate(x, degrees, InterpolationMode.BILINEAR)
    torch.testing.assert_close(ours, want, atol=1e-4, rtol=0)


def test_central_boxes():
    assert geometry.central_boxes(torch.tensor([[10, 30], [31, 10]])).tolist() == [[0, 10, 10, 10], [10, 0, 10, 10]]


@pytest.mark.parametrize("side", [63, 64, 97, 224])
def test_wide_pictures_are_blurred_by_the_same_matrices(side: int) -> None:
    x = torch.rand(3, 2, side, side, generator=torch.Generator().manual_seed(side))
    sigma = torch.tensor([0.1, 0.9, 2.0])
    matrix = geometry.blur_matrices(sigma, side).double()[:, None]
    wanted = matrix @ x.double() @ matrix.mT
    torch.testing.assert_close(geometry.blur(x, sigma), wanted.float(), atol=2e-6, rtol=0)
    for i in range(3):  # each by itself
        torch.testing.assert_close(
            geometry.blur(x[i : i + 1], sigma[i : i + 1])[0], wanted[i].float(), atol=2e-6, rtol=0
        )
