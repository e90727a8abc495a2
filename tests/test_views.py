"""Crops: draw, apply, cut, plain, preview."""

from dataclasses import replace

import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode

from selfsight.augment import POLICIES, Group, Policy, ViewsConfig, build, preview
from selfsight.augment import apply as pixels
from selfsight.augment.colour import ORDERS
from selfsight.augment.geometry import blur_taps
from selfsight.augment.views import Crops
from selfsight.core import Images
from selfsight.errors import WrongUse
from selfsight.rng import Stream, generator

torch.set_num_threads(1)
STEPLESS = sorted(name for name, views in POLICIES.items() if not views[0].steps)  # for steps: test_randaugment.py
MEAN, STD = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.25, 0.24, 0.26])


def photos(count=8, height=32, width=32, channels=3, low=0, high=256, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, channels, height, width), dtype=torch.uint8, generator=g)


def rng(step=0):
    return generator(0, Stream.VIEWS, step)


def make(size=32, channels=3, **fields):
    mean, std = (MEAN, STD) if channels == 3 else (torch.full((channels,), 0.4), torch.full((channels,), 0.3))
    return build(ViewsConfig(**fields), size, channels, mean, std)


def torchvision_view(picture, plan, box, group, view, normalise):
    """One view of one picture by torchvision v2's functions, step by step."""
    policy = group.policies[view]
    x = picture.float() / 255
    mode = InterpolationMode.BICUBIC if policy.interpolation == "bicubic" else InterpolationMode.BILINEAR

    def crop(y):
        y = tvf.resize(tvf.crop(y, *box.tolist()), [group.size] * 2, mode, antialias=True).clamp(0, 1)
        y = tvf.horizontal_flip(y) if plan.flip else y
        if plan.shift:
            down, right = plan.offset.tolist()
            y = tvf.crop(tvf.pad(y, [8] * 4, padding_mode="reflect"), 8 - down, 8 - right, group.size, group.size)
        return tvf.rotate(y, plan.degrees.item(), InterpolationMode.BILINEAR) if plan.rotate else y

    def jitter(y):
        if plan.jitter:
            operations = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue)
            for k in ORDERS[plan.order].tolist():
                y = operations[k](y, plan.factors[k].item())
        return y

    gray = lambda y: tvf.rgb_to_grayscale(y, 3) if plan.gray else y
    colours = [gray, jitter] if policy.gray_first else [jitter, gray]
    for change in [*colours, crop] if policy.colour_first else [crop, *colours]:
        x = change(x)
    if plan.blur:
        taps = blur_taps(group.size)
        x = tvf.gaussian_blur(x, [taps] * 2, [plan.sigma.item()] * 2)
    if plan.solarise:
        x = tvf.solarize(x, policy.threshold)
    return tvf.normalize(x, MEAN.tolist(), STD.tolist()) if normalise else x


@pytest.mark.parametrize("policy", STEPLESS)
def test_exact_equals_torchvision(policy):
    changes = {"rotate": 0.5} if policy == "svhn" else {}
    views = make(policy=policy, colour="exact", size=24, **changes)
    images = photos(10, 40, 36)
    draws = views.draw(10, rng())
    got = views(images, draws)["global"]
    group = views.groups[0]
    plan = pixels.Plan.of(group, draws["global"])
    boxes = views.crop_boxes(draws, torch.tensor([[40, 36]]).expand(10, 2))["global"]
    for v in range(2):
        for i in range(10):
            one = pixels.Plan(*(field[v, i] for field in plan))
            want = torchvision_view(images[i], one, boxes[i, v], group, v, True)
            gap = (got[v, i] - want).abs()
            # Solarisation is a step: a pixel within rounding of the threshold may fall on either side.
            assert (gap > 2e-4).float().mean() < (0.005 if one.solarise else 1e-9), (v, i, gap.max())


@pytest.mark.parametrize("blur,tolerance", [(0.0, 2e-5), (0.5, 1e-3)])
@pytest.mark.parametrize("policy", ["simclr-cifar", "byol", "moco-v1", "w-mse", "plain"])
def test_fast_equals_exact_when_nothing_clamps(policy, blur, tolerance):
    images = photos(16, 40, 40, low=110, high=140)
    both = []
    for kind in ("fast", "exact"):
        views = make(policy=policy, colour=kind, solarise=0.0, blur=blur, size=24)
        group = views.groups[0]
        views.groups = (Group("global", 24, tuple(replace(p, hue=0.0) for p in group.policies)),)
        both.append(views(images, views.draw(16, rng()))["global"])
    assert both[1].std() > 0.1
    torch.testing.assert_close(*both, atol=tolerance, rtol=0)


def test_fast_stays_close_to_exact_on_any_picture():
    images = torch.nn.functional.interpolate(photos(64, 4, 4), scale_factor=8, mode="bilinear")
    fast, exact = (make(policy="simclr-cifar", colour=c, normalise=False) for c in ("fast", "exact"))
    still = make(policy="simclr-cifar", strength=0.0, normalise=False)
    a, b, c = (v(images, v.draw(64, rng()))["global"] for v in (fast, exact, still))
    assert (a - b).abs().mean() < 0.25 * (c - b).abs().mean()


@pytest.mark.parametrize("kind", ["fast", "exact"])
@settings(deadline=None, max_examples=15)
@given(
    policy=st.sampled_from(STEPLESS),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(8, 36),
    seed=st.integers(0, 1000),
    strength=st.floats(0, 3),
)
def test_any_batch_is_its_rows_one_by_one_and_in_range(kind, policy, height, width, size, seed, strength):
    views = make(policy=policy, colour=kind, size=size, strength=strength, normalise=False, rotate=0.3, locals=1)
    images, draws = photos(5, height, width, seed=seed), views.draw(5, rng(seed))
    together = views(images, draws)
    for i in range(5):
        alone = views(images[i : i + 1], {k: u[i : i + 1] for k, u in draws.items()})
        for name, x in together.items():
            gap = (x[:, i : i + 1] - alone[name]).abs()
            assert (gap > 1e-5).float().mean() < 0.01  # solarisation is a step
    for x in together.values():
        assert torch.isfinite(x).all()
        assert x.min() >= -1e-6
        assert x.max() <= 1 + 1e-6


@pytest.mark.parametrize("kind", ["fast", "exact"])
@pytest.mark.parametrize("policy", ["byol", "w-mse", "simclr"])
def test_padding_never_leaks(kind, policy):
    views = make(policy=policy, colour=kind, size=16, clean=True)
    sizes = torch.tensor([[20, 31], [40, 12], [40, 40], [7, 9]])
    pictures = [photos(1, h, w, seed=i)[0] for i, (h, w) in enumerate(sizes.tolist())]
    draws = views.draw(4, rng())
    padded = {}
    for fill in (0, 255):
        canvas = torch.full((4, 3, 40, 40), fill, dtype=torch.uint8)
        for i, x in enumerate(pictures):
            canvas[i, :, : x.shape[1], : x.shape[2]] = x
        padded[fill] = views(Images(canvas, sizes), draws)
    for name in ("global", "clean"):
        torch.testing.assert_close(padded[0][name], padded[255][name], atol=0, rtol=0)
        for i, x in enumerate(pictures):
            alone = views(x[None], {k: u[i : i + 1] for k, u in draws.items()})[name]
            gap = (padded[0][name][:, i : i + 1] - alone).abs()
            assert (gap > 1e-4).float().mean() < 0.01


@pytest.mark.parametrize("kind", ["fast", "exact"])
def test_parts_of_the_batch_are_the_whole(kind, monkeypatch):
    views = make(policy="byol", locals=2, solarise=0.0, colour=kind)
    images, draws = photos(40), views.draw(40, rng())
    want = views(images, draws)
    monkeypatch.setattr(pixels, "_PART_BYTES", {"cpu": (1, 1)})
    got = views(images, draws)
    for name in want:
        torch.testing.assert_close(got[name], want[name], atol=1e-5, rtol=0)


def test_two_processes_see_the_rows_of_one():
    views = make(policy="simclr-cifar")
    images, draws = photos(8), views.draw(8, rng(3))
    whole = views(images, draws)["global"]
    halves = [
        views(images[r], {k: u[r] for k, u in views.draw(8, rng(3)).items()})["global"]
        for r in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(torch.cat(halves, 1), whole, atol=1e-6, rtol=0)


def test_draws_do_not_depend_on_the_policy():
    a, b = make(policy="byol").draw(4, rng()), make(policy="none").draw(4, rng())
    assert torch.equal(a["global"], b["global"])


def test_apply_is_pure():
    views = make(policy="simclr", locals=2, clean=True)
    images, draws = photos(4), views.draw(4, rng())
    kept, kept_draws = images.clone(), {k: u.clone() for k, u in draws.items()}
    a, b = views(images, draws), views(images, draws)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(images, kept)
    assert all(torch.equal(draws[k], kept_draws[k]) for k in draws)
    assert not views.state_dict()


def test_every_view_and_crop_has_its_own_numbers():
    views = make(policy="dino", views=2, locals=4, size=32)
    out = views(photos(1, seed=3).expand(6, -1, -1, -1), views.draw(6, rng()))
    assert out["global"].shape == (2, 6, 3, 32, 32)
    assert out["local"].shape == (4, 6, 3, 18, 18)
    for x in out.values():
        tints = x.mean((3, 4)).flatten(0, 1)
        assert torch.cdist(tints, tints).add(torch.eye(len(tints))).min() > 1e-5


def test_multi_crop_defaults_follow_the_size():
    for size, local, scale in (
        (32, 18, (0.08, 0.5)),
        (64, 32, (0.08, 0.4)),
        (96, 48, (0.05, 0.3)),
        (224, 96, (0.05, 0.14)),
    ):
        group = make(policy="simclr", size=size, locals=6).groups[1]
        assert (group.size, group.policies[0].scale, len(group.policies)) == (local, scale, 6)
    whole, small = make(policy="dino", size=224, locals=8).groups
    assert whole.policies[0].scale == (0.4, 1.0)
    assert small.policies[0].scale == (0.05, 0.4)
    assert make(policy="simclr", size=32, locals=6).groups[0].policies[0].scale == (0.2, 1.0)
    assert make(policy="simclr", size=32, locals=6, scale=(0.3, 1.0)).groups[0].policies[0].scale == (0.3, 1.0)
    assert make(policy="simclr", size=32, locals=6, local_scale=(0.1, 0.2)).groups[1].policies[0].scale == (0.1, 0.2)


@pytest.mark.parametrize("policy", ["byol", "dino", "none"])
def test_cut_then_forward_is_forward(policy):
    views = make(policy=policy, size=24, locals=2, clean=True, normalise=False)
    images = photos(6, 50, 41)
    # Smooth pictures: bicubic overshoot is clamped in uint8 as it is in float.
    images = tvf.gaussian_blur(images, [5, 5], [2.0, 2.0])
    draws = views.draw(6, rng())
    rows = [views.cut(images[i], {k: u[i] for k, u in draws.items()}) for i in range(6)]
    crops = {k: torch.stack([r[k] for r in rows], 1) for k in rows[0]}
    assert {k: v.shape for k, v in crops.items()} == {
        "global": (2, 6, 3, 24, 24),
        "local": (2, 6, 3, 13, 13),
        "clean": (1, 6, 3, 24, 24),
    }
    assert crops["global"].dtype == torch.uint8
    want, got = views(images, draws), views(crops, draws)
    for name in want:
        assert want[name].shape == got[name].shape
        gap = (want[name] - got[name]).abs()
        assert gap.median() < 1.5 / 255
        assert (gap > 6 / 255).float().mean() < 0.01  # solarisation is a step


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("kind", ["fast", "exact"])
def test_any_number_of_channels(channels, kind):
    views = make(policy="plain", channels=channels, colour=kind, clean=True)
    out = views(photos(4, 40, 30, channels), views.draw(4, rng()))
    assert out["global"].shape == (2, 4, channels, 32, 32)
    assert out["clean"].shape == (1, 4, channels, 32, 32)
    assert torch.isfinite(out["global"]).all()
    row = views.cut(photos(1, 50, 60, channels)[0], {k: u[0] for k, u in views.draw(1, rng()).items()})
    assert row["global"].shape == (2, channels, 32, 32)


def test_plain_is_the_whole_picture():
    views = make(policy="none")
    square = photos(3)
    want = tvf.normalize(square.float() / 255, MEAN.tolist(), STD.tolist())
    torch.testing.assert_close(views.plain(square, 32), want, atol=1e-5, rtol=0)
    torch.testing.assert_close(views(square, views.draw(3, rng()))["global"][1], want, atol=1e-4, rtol=0)
    wide = photos(2, 48, 64)
    want = tvf.resize(wide[..., 8:56].float() / 255, [24, 24], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    want = tvf.normalize(want, MEAN.tolist(), STD.tolist())
    torch.testing.assert_close(views.plain(wide, 24), want, atol=1e-4, rtol=0)
    ragged = Images(wide, torch.tensor([[48, 64], [48, 64]]))
    torch.testing.assert_close(views.plain(ragged, 24), want, atol=1e-4, rtol=0)


def test_normalise_off_leaves_zero_to_one():
    images = photos(4)
    views, raw = make(policy="simclr", clean=True), make(policy="simclr", clean=True, normalise=False)
    a, b = (v(images, v.draw(4, rng())) for v in (views, raw))
    for name in a:
        torch.testing.assert_close(a[name] * STD[:, None, None] + MEAN[:, None, None], b[name], atol=1e-5, rtol=0)


def test_autocast_does_not_coarsen_the_views():
    views = make(policy="simclr-cifar", clean=True)
    images, draws = Images(photos(4), torch.tensor([[32, 30]] * 4)), views.draw(4, rng())
    want = views(images, draws)
    with torch.autocast("cpu", torch.bfloat16):
        got = views(images, draws)
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_preview_shows_pictures_and_views():
    views = make(policy="none", locals=2)
    images = photos(3)
    sheet = preview(views, images, rng(), gap=2)
    assert sheet.dtype == torch.uint8
    assert sheet.shape == (3, 3 * 34, 5 * 34)
    assert torch.equal(sheet[:, :32, :32], images[0])  # the picture
    assert torch.equal(sheet[:, 34:66, 34:66], images[1])  # its first view under policy none
    assert (sheet[:, 32:34] == 255).all()


@pytest.mark.parametrize(
    "fields,words",
    [
        ({"policy": "simclrr"}, "simclr"),
        ({"policy": "auto"}, "auto"),
        ({"policy": "simclr", "views": 0}, "views.views"),
        ({"policy": "simclr", "blur": 1.5}, "probability"),
        ({"policy": "simclr", "scale": (0.5, 0.2)}, "low <= high"),
        ({"policy": "simclr", "local_scale": (0.0, 0.2)}, "low <= high"),
        ({"policy": "simclr", "strength": -1.0}, "strength"),
    ],
)
def test_wrong_use_is_named(fields, words):
    with pytest.raises(WrongUse, match=words):
        make(**fields)


def test_colour_on_gray_pictures_is_refused_with_the_way_out():
    with pytest.raises(WrongUse, match=r"saturation, hue, gray.*plain"):
        make(policy="simclr", channels=1)
    make(policy="simclr", channels=1, gray=0.0, strength=0.0)  # nothing left that needs colour


def test_wrong_pictures_are_refused():
    views = make(policy="none")
    for wrong in (photos(2, channels=1), photos(2).float()):
        with pytest.raises(WrongUse, match="3 channels"):
            views(wrong, views.draw(2, rng()))


def test_policies_of_one_group_must_share_the_kernel():
    with pytest.raises(WrongUse, match="interpolation"):
        Crops((Group("global", 8, (Policy(), Policy(interpolation="bilinear"))),), MEAN, STD)


def test_gates_are_per_sample():
    views = make(policy="byol", views=2, solarise=0.5, rotate=0.5)
    plan = pixels.Plan.of(views.groups[0], views.draw(400, rng())["global"])
    for gate, probability in ((plan.flip, 0.5), (plan.jitter, 0.8), (plan.solarise, 0.5), (plan.rotate, 0.5)):
        assert (gate.float().mean() - probability).abs() < 0.03
        assert not torch.equal(gate[0], gate[1])
    blur = make(policy="byol")
    plan = pixels.Plan.of(blur.groups[0], blur.draw(400, rng())["global"])
    assert plan.blur[0].all()
    assert plan.blur[1].float().mean() < 0.16
    assert not plan.solarise[0].any()
    assert 0.14 < plan.solarise[1].float().mean() < 0.26


def test_all_views_of_a_picture_are_mirrored_or_none():
    views = make(policy="sym", locals=3, shared_flip=True)
    draws = views.draw(200, rng())
    flips = [pixels.Plan.of(g, draws[g.name]).flip for g in views.groups]
    assert [len(f) for f in flips] == [2, 3]
    assert all(torch.equal(row, flips[0][0]) for f in flips for row in f)
    assert 60 < int(flips[0][0].sum()) < 140
    free = make(policy="sym", locals=3).draw(200, rng())
    assert torch.equal(free["global"][:, 0], draws["global"][:, 0])  # nothing else changes
    assert not torch.equal(free["global"], draws["global"])


def test_a_shifted_picture_is_moved_and_its_gap_reflected():
    policy = Policy(scale=None, flip=0.0, shift=0.8, jitter=0.0, gray=0.0)
    group = Group("global", 32, (policy,))
    x, draws = photos(300), torch.rand(300, 1, pixels.DRAWS, generator=rng())
    plan = pixels.Plan.of(group, draws)
    views = Crops((group,), torch.zeros(3), torch.ones(3))
    made = views(x, {"global": draws})["global"][0]
    padded = torch.nn.functional.pad(x.float() / 255, (4, 4, 4, 4), mode="reflect")
    moved = plan.shift[0]
    assert 200 < int(moved.sum()) < 270
    for i in range(300):
        down, right = plan.offset[0, i].tolist() if moved[i] else (0, 0)
        torch.testing.assert_close(made[i], padded[i, :, 4 - down : 36 - down, 4 - right : 36 - right])
    assert set(plan.offset.flatten().tolist()) == set(range(-4, 5))


def test_a_crop_is_not_shifted():
    group = Group("global", 32, (Policy(shift=1.0),))
    assert not pixels.Plan.of(group, torch.rand(50, 1, pixels.DRAWS)).shift.any()
