"""Corruptions of pictures: against PIL, slow loops, moments; and properties that all have."""

import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from selfsight import WrongUse
from selfsight.augment.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from selfsight.augment.jpeg import jpeg


def pictures(count=3, channels=3, side=32, seed=0):
    """Smooth coloured waves with an edge, in [0, 1], in whole levels."""
    g = torch.Generator().manual_seed(seed)
    at = torch.linspace(0, 6, side)
    phase = 6 * torch.rand(count, channels, 2, generator=g)
    x = (at[:, None] + phase[..., :1, None]).sin() * (1.3 * at + phase[..., 1:, None]).cos() / 2 + 0.5
    x[..., side // 3 : side // 2, side // 4 :] *= 0.4
    return (x * 255).round() / 255


def drawn(name, x, seed=0):
    return CORRUPTIONS[name].draw(len(x), x.shape[1], x.shape[-1], torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------- what all have


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_in_range_per_picture_repeatable_and_growing(name):
    x = 0.7 * pictures() + 0.3 * torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before, u = x.clone(), drawn(name, x)
    each = [corrupt(name, x, u, severity) for severity in SEVERITIES]
    assert torch.equal(x, before)
    assert all(bool(((y >= 0) & (y <= 1)).all()) for y in each)
    changes = [float((y - x).square().mean()) for y in each]
    if name != "pixelate":  # where pixels fall counts more than one of 28 less
        assert all(more > less for less, more in pairwise(changes))
    assert changes[0] > 1e-6
    assert changes[-1] > 1.25 * changes[0]
    assert torch.equal(each[2], corrupt(name, x, drawn(name, x), 3))
    alone = torch.cat([corrupt(name, x[i : i + 1], u[i : i + 1], 3) for i in range(3)])
    torch.testing.assert_close(each[2], alone, atol=2e-6, rtol=0)
    if u.numel():
        assert not torch.equal(each[2], corrupt(name, x, drawn(name, x, 1), 3))


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
@pytest.mark.parametrize("channels,side", [(1, 20), (3, 9), (3, 130)])
def test_any_side_and_gray_pictures(name, channels, side):
    x = pictures(2, channels, side)
    y = corrupt(name, x, drawn(name, x), 5)
    assert y.shape == x.shape
    assert bool(torch.isfinite(y).all())
    assert not torch.equal(x, y)


def test_mistakes_are_refused():
    x = pictures()
    with pytest.raises(WrongUse, match="Perhaps you meant 'gaussian-noise'"):
        corrupt("gaussian_noise", x, drawn("fog", x), 1)
    with pytest.raises(WrongUse, match="severity 6"):
        corrupt("fog", x, drawn("fog", x), 6)


# ---------------------------------------------------------------------------------------------- each by itself


@pytest.mark.parametrize("quality", [7, 25, 50, 75])
@pytest.mark.parametrize("side,mode", [(32, "RGB"), (45, "RGB"), (32, "L")])
def test_jpeg_is_what_libjpeg_leaves(quality, side, mode):
    x = pictures(2, 3 if mode == "RGB" else 1, side)
    ours = jpeg(x, quality)
    for one, found in zip(x, ours):
        array = (one * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(array if mode == "RGB" else array[..., 0], mode).save(
            file, "JPEG", quality=quality, subsampling=0
        )
        theirs = torch.from_numpy(np.array(Image.open(file), dtype=np.float32) / 255).view(side, side, -1)
        off = (theirs.permute(2, 0, 1) - found).abs() * 255
        assert float(off.mean()) < 0.5  # levels: their integer transform rounds otherwise here and there
        assert float((off < 1.5).float().mean()) > 0.9
        lost = (theirs.permute(2, 0, 1) - one).abs() * 255
        assert float(off.mean()) < 0.3 * float(lost.mean()) + 0.1


def test_noises_have_the_moments_of_their_names():
    x = torch.full((4, 3, 224, 224), 0.5)
    off = corrupt("gaussian-noise", x, drawn("gaussian-noise", x), 1) - x
    assert float(off.mean()) == pytest.approx(0, abs=1e-3)
    assert float(off.std()) == pytest.approx(0.08, rel=0.01)
    small = torch.full((40, 3, 56, 56), 0.5)  # a quarter of the side: half the noise
    assert float((corrupt("gaussian-noise", small, drawn("gaussian-noise", small), 1) - small).std()) == pytest.approx(
        0.04, rel=0.01
    )
    for level in (0.1, 0.5):  # Poisson: variance is mean / photons
        x = torch.full((4, 3, 224, 224), level)
        y = corrupt("shot-noise", x, drawn("shot-noise", x), 1)
        assert float(y.mean()) == pytest.approx(level, rel=0.01)
        assert float(y.var()) == pytest.approx(level / 60, rel=0.03)
    dark = torch.zeros(1, 3, 64, 64)
    assert not corrupt("shot-noise", dark, drawn("shot-noise", dark) * 0 + 0.1, 5).any()
    y = corrupt("impulse-noise", x, drawn("impulse-noise", x), 2)
    assert float((y == 0).float().mean()) == pytest.approx(0.03, rel=0.05)
    assert float((y == 1).float().mean()) == pytest.approx(0.03, rel=0.05)
    assert float((y == 0.5).float().mean()) == pytest.approx(0.94, rel=0.01)


def test_defocus_by_a_slow_loop():
    x = pictures(1, 3, 40)
    radius = 0.5 + 6 * 40 / 224
    reach = math.ceil(radius)
    padded = np.pad(x[0].double().numpy(), ((0, 0), (reach, reach), (reach, reach)), mode="reflect")
    wanted, total = np.zeros((3, 40, 40)), 0.0
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            weight = min(1.0, max(0.0, radius + 0.5 - math.hypot(i, j)))
            total += weight
            wanted += weight * padded[:, reach + i : reach + i + 40, reach + j : reach + j + 40]
    found = corrupt("defocus-blur", x, drawn("defocus-blur", x), 4)[0]
    np.testing.assert_allclose(found.numpy(), wanted / total, atol=1e-5)


def test_blurs_keep_what_does_not_change_along_them():
    flat = torch.full((2, 3, 32, 32), 0.3)
    for name in ("defocus-blur", "motion-blur", "zoom-blur", "elastic", "pixelate"):
        torch.testing.assert_close(corrupt(name, flat, drawn(name, flat), 5), flat, atol=1e-5, rtol=0)
    stripes = torch.rand(32, generator=torch.Generator().manual_seed(0))[:, None].expand(1, 3, 32, 32)
    level = torch.full((1, 1), 0.5)  # angle 0: along the rows
    torch.testing.assert_close(corrupt("motion-blur", stripes, level, 5), stripes, atol=1e-5, rtol=0)
    upright = stripes.transpose(2, 3).contiguous()
    moved = corrupt("motion-blur", upright, level, 5)
    row, length = upright[0, 0, 0].numpy(), 1 + 27 * 32 / 224
    at = lambda p: np.interp(p, np.arange(32), row)  # linear between pixels, far from the border
    wanted = np.mean([at(np.arange(32) + length * (i / 12 - 0.5)) for i in range(13)], axis=0)
    np.testing.assert_allclose(moved[0, 0, 0, 4:-4], wanted[4:-4], atol=1e-5)


def test_zoom_and_elastic_look_up_where_they_say():
    at = (torch.arange(64) * 2 + 1) / 64 - 1
    ramp = (0.5 + 0.4 * at).expand(1, 3, 64, 64)
    found = corrupt("zoom-blur", ramp, drawn("zoom-blur", ramp), 3)
    mean = float(np.mean([1 / (1 + 0.2 * i / 12) for i in range(13)]))
    np.testing.assert_allclose(found[0, 0, 9], 0.5 + 0.4 * at * mean, atol=1e-5)
    still = torch.full((1, 2, 9, 9), 0.5)
    torch.testing.assert_close(corrupt("elastic", ramp, still, 5), ramp, atol=1e-5, rtol=0)
    right = still.clone()
    right[:, 0] = 1.0  # all the way to the right: 0.03 of the side
    torch.testing.assert_close(corrupt("elastic", ramp, right, 3)[..., :60], ramp[..., :60] + 0.4 * 0.06)


def test_light_contrast_and_large_pixels():
    x = pictures()
    torch.testing.assert_close(corrupt("brightness", x, drawn("brightness", x), 2), (x + 0.2).clamp(max=1))
    found = corrupt("contrast", x, drawn("contrast", x), 4)
    torch.testing.assert_close(found.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(found.std((2, 3)), 0.2 * x.std((2, 3)))
    x = pictures(1, 3, 224)
    coarse = corrupt("pixelate", x, drawn("pixelate", x), 5)[0]  # a fifth: 45 cells of nearly five
    cells = torch.nn.functional.adaptive_avg_pool2d(x, 45)[0]
    at = [int((i + 0.5) * 45 / 224) for i in range(224)]
    torch.testing.assert_close(coarse, cells[:, at][:, :, at])
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    left = [corrupt("pixelate", noise, drawn("pixelate", noise), s)[0, 0].unique(dim=0) for s in SEVERITIES]
    assert [len(rows) for rows in left] == [28, 26, 23, 20, 17]


def test_weather():
    dark, flakes = torch.zeros(2, 3, 32, 32), []
    for severity in SEVERITIES:
        y = corrupt("snow", dark, drawn("snow", dark), severity)
        flakes.append(float((y > 0.6).float().mean()))
    assert flakes == sorted(flakes)
    assert 0 < flakes[0] < 0.2
    assert flakes[-1] < 0.6
    x = pictures()
    fog = corrupt("fog", x, drawn("fog", x), 3)
    torch.testing.assert_close(fog.std((1, 2, 3)) < x.std((1, 2, 3)), torch.ones(3, dtype=torch.bool))
    top = x.amax((1, 2, 3))
    assert bool((fog.amax((1, 2, 3)) <= top + 1e-6).all())
    torch.testing.assert_close(corrupt("fog", dark + 1, drawn("fog", dark), 3).amax((1, 2, 3)), torch.ones(2))
