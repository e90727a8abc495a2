# mypy: disable-error-code="arg-type"
"""RandAugment, Cutout and the other steps against torchvision, picture by picture."""

import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from torchvision.transforms import InterpolationMode

from selfsight.augment import POLICIES, Group, Policy, ViewsConfig, build, randaugment
from selfsight.augment.colour import ORDERS
from selfsight.augment.geometry import blur_taps
from selfsight.augment.plan import DRAWS
from selfsight.augment.randaugment import OPERATIONS, operate
from selfsight.augment.steps import (
    STEPS,
    Blur,
    Crop,
    Cutout,
    Flip,
    Gray,
    Jitter,
    RandAugment,
    Rotate,
    Shift,
    Solarise,
    follow,
)  # fmt: skip
from selfsight.augment.views import Crops
from selfsight.errors import WrongUse
from selfsight.rng import Stream, generator

torch.set_num_threads(1)
MEAN, STD = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.25, 0.24, 0.26])


def photos(count=6, size=32, channels=3, seed=0):
    """Pictures with edges, a narrow range of values and noise."""
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.rand(count, channels, 4, 4, generator=g), size=size) * 0.6 + 0.1
    return ((x + 0.1 * torch.rand(x.shape, generator=g)) * 255).round() / 255


def as_bytes(x):
    return (x * 255).round().to(torch.uint8)


def affine(x, blank, angle=0.0, translate=(0, 0), shear=(0.0, 0.0)):
    """Filled by way of 0: torchvision's own fill weighs pixels at the border twice."""
    moved = x - blank[:, None, None]
    return (
        tvf.affine(moved, angle, list(translate), 1.0, list(shear), InterpolationMode.BILINEAR) + blank[:, None, None]
    )


def reference(name, x, s, blank):
    """One operation on one picture (C, s, s) in [0, 1] by torchvision; s in -1..1."""
    degrees = torch.rad2deg(torch.atan(torch.tensor(0.3 * s))).item()
    pixels = round(0.3 * x.shape[-1] * s)
    return {
        "identity": lambda: x,
        "autocontrast": lambda: tvf.autocontrast(x),
        "equalise": lambda: tvf.equalize(as_bytes(x)).float() / 255,
        "rotate": lambda: affine(x, blank, angle=-30 * s),
        "solarise": lambda: tvf.solarize(x, 1 - 0.75 * abs(s)),
        "colour": lambda: tvf.adjust_saturation(x, 1 + 0.9 * s),
        "posterise": lambda: tvf.posterize(as_bytes(x), 8 - round(4 * abs(s))).float() / 255,
        "contrast": lambda: tvf.adjust_contrast(x, 1 + 0.9 * s),
        "brightness": lambda: tvf.adjust_brightness(x, 1 + 0.9 * s),
        "sharpness": lambda: tvf.adjust_sharpness(x, 1 + 0.9 * s),
        "shear-x": lambda: affine(x, blank, shear=(degrees, 0.0)),
        "shear-y": lambda: affine(x, blank, shear=(0.0, degrees)),
        "translate-x": lambda: affine(x, blank, translate=(-pixels, 0)),
        "translate-y": lambda: affine(x, blank, translate=(0, -pixels)),
    }[name]()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("strength", [-0.9, -0.5, 0.3, 1.0])
def test_each_operation_equals_torchvision(name, strength):
    x = photos()
    got = x.clone()
    which = torch.full((6,), OPERATIONS.index(name))
    which[0] = 0  # the first picture is left alone
    operate(got, which, torch.full((6,), strength), MEAN)
    assert torch.equal(got[0], x[0])
    for i in range(1, 6):
        want = reference(name, x[i], strength, MEAN)
        gap = (got[i] - want).abs()
        assert (gap > 1e-4).float().mean() < 0.002, gap.max()  # a border pixel may be rounded to the other side
    if name != "identity":
        assert (got[1:] - x[1:]).abs().mean() > 1e-3


def test_no_strength_is_nearly_nothing_and_more_is_more():
    """Ranges that another implementation had wrong: factors fixed at 1, everything inverted, one bit left."""
    x = photos(1)
    for name in set(OPERATIONS) - {"identity", "autocontrast", "equalise"}:
        changes = []
        for strength in (0.02, 0.3, 0.6, 1.0):
            y = x.clone()
            operate(y, torch.tensor([OPERATIONS.index(name)]), torch.tensor([strength]), MEAN)
            changes.append((y - x).abs().mean().item())
        assert changes[0] < 0.02, name
        assert changes == sorted(changes), (name, changes)
        assert changes[-1] > 0.01
        assert y.std() > 0.3 * x.std(), name  # something is left to see


def test_equalise_and_autocontrast_leave_flat_pictures():
    x = torch.full((2, 3, 32, 32), 0.4)
    for name in ("equalise", "autocontrast"):
        y = x.clone()
        operate(y, torch.full((2,), OPERATIONS.index(name)), torch.ones(2), MEAN)
        torch.testing.assert_close(y, x, atol=0.5 / 255, rtol=0)


def test_all_operations_are_drawn_alike_in_both_directions(monkeypatch):
    seen = []
    monkeypatch.setattr(
        randaugment, "operate", lambda x, operation, strength, blank: seen.append((operation, strength))
    )
    step = RandAugment(0.5, operations=3, magnitude=4)
    follow(
        (step,),
        torch.zeros(14000, 3, 1, 1),
        torch.rand(14000, step.draws, generator=generator(0, Stream.VIEWS, 0)),
        MEAN,
    )
    assert len(seen) == 3
    for operation, strength in seen:
        counts = torch.bincount(operation, minlength=14)
        assert ((counts[1:] - 500).abs() < 100).all()
        assert abs(int(counts[0]) - 7500) < 300  # identity, and those that the step is not for
        assert set(strength.tolist()) == {torch.tensor(0.4).item(), torch.tensor(-0.4).item()}
        assert abs((strength > 0).float().mean() - 0.5) < 0.02
    assert not torch.equal(seen[0][0], seen[1][0])


def one_by_one(step, x, u, blank):
    """One step on one picture (C, s, s) by torchvision; u: its uniforms, the first says whether."""
    if not u[0] < step.apply_prob:
        return x
    u, s = u[1:].tolist(), x.shape[-1]
    if isinstance(step, Flip):
        return tvf.horizontal_flip(x)
    if isinstance(step, Shift):
        most = int(step.share * s)
        down, right = (int(v * (2 * most + 1)) - most for v in u)
        return tvf.crop(tvf.pad(x, [most] * 4, padding_mode="reflect"), most - down, most - right, s, s)
    if isinstance(step, Rotate):
        return tvf.rotate(x, (2 * u[0] - 1) * step.degrees, InterpolationMode.BILINEAR)
    if isinstance(step, Jitter):
        spread = [step.brightness, step.contrast, step.saturation]
        factors = [max(0, 1 - v) + (1 + v - max(0, 1 - v)) * w for v, w in zip(spread, u)] + [step.hue * (2 * u[3] - 1)]
        functions = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue)
        for k in ORDERS[int(u[4] * 24)].tolist():
            x = functions[k](x, factors[k])
        return x
    if isinstance(step, Gray):
        return tvf.rgb_to_grayscale(x, 3)
    if isinstance(step, Blur):
        sigma = step.sigma[0] + (step.sigma[1] - step.sigma[0]) * u[0]
        return tvf.gaussian_blur(x, [blur_taps(s)] * 2, [sigma] * 2)
    if isinstance(step, Solarise):
        return tvf.solarize(x, step.threshold)
    if isinstance(step, RandAugment):
        for k in range(step.operations):
            sign = -1 if u[2 * k + 1] < 0.5 else 1
            x = reference(OPERATIONS[int(u[2 * k] * 14)], x, sign * step.magnitude / 10, blank)
        return x
    if isinstance(step, Cutout):
        hole, x = round(step.side * s), x.clone()
        top, left = (int(v * s) - hole // 2 for v in u)
        for row in range(max(0, top), min(s, top + hole)):
            for column in range(max(0, left), min(s, left + hole)):
                x[:, row, column] = blank
        return x
    assert isinstance(step, Crop)
    from selfsight.augment.geometry import random_boxes

    box = random_boxes(
        torch.tensor(u), torch.tensor([s, s]), torch.tensor(step.scale), torch.tensor(step.ratio)
    ).tolist()  # fmt: skip
    mode = InterpolationMode.BICUBIC if step.interpolation == "bicubic" else InterpolationMode.BILINEAR
    return tvf.resize(tvf.crop(x, *box), [s, s], mode, antialias=True).clamp(0, 1)


SOME = (
    Crop(0.7), Crop(interpolation="bilinear"), Flip(), Shift(0.6), Shift(share=0.4), Rotate(0.8), Jitter(0.8), Gray(0.4),
    Blur(0.6), Solarise(0.6, threshold=0.4), Cutout(0.8), Cutout(side=0.2), RandAugment(0.8, 1, 7.0),
)  # fmt: skip


@pytest.mark.parametrize("step", SOME, ids=lambda step: step.name)
def test_each_step_equals_torchvision(step):
    x, u = photos(12), torch.rand(12, step.draws, generator=generator(1, Stream.VIEWS, 0))
    got = x.clone()
    follow((step,), got, u, MEAN)
    for i in range(12):
        gap = (got[i] - one_by_one(step, x[i], u[i], MEAN)).abs()
        assert (gap > 2e-4).float().mean() < 0.004, (i, gap.max())
    assert not torch.equal(got, x)


def test_every_step_has_a_reference():
    assert {step.name for step in SOME} | {"normalise"} == STEPS.keys()


def make(**fields):
    return build(ViewsConfig(**fields), 32, 3, MEAN, STD)


def test_off_nothing_is_drawn_and_on_nothing_else_changes():
    plain, both = make(policy="simclr", locals=2), make(policy="simclr", locals=2, cutout=0.5, randaugment=0.7)
    a, b = (v.draw(5, generator(0, Stream.VIEWS, 3)) for v in (plain, both))
    for name in a:
        assert a[name].shape[-1] == DRAWS
        assert b[name].shape[-1] == DRAWS + Cutout().draws + RandAugment().draws
        assert torch.equal(a[name], b[name][..., :DRAWS])
    never = make(policy="simclr", locals=2, cutout=0.0, randaugment=0.0)
    assert never.groups == plain.groups
    with_some = make(policy="randaugment", randaugment=0.3, randaugment_magnitude=4, cutout_side=0.25).groups[0]
    assert with_some.policies[0].steps == (RandAugment(0.3, 2, 4), Cutout(1.0, 0.25))
    assert POLICIES["randaugment"][0].steps == (RandAugment(), Cutout())


@pytest.mark.parametrize("colour", ["fast", "exact"])
def test_steps_come_after_the_policy_and_before_normalisation(colour):
    steps = (RandAugment(0.9, 2, 5.0), Cutout())
    plain, more = (
        Crops((Group("global", 32, (Policy(steps=s), Policy(steps=s[1:]))),), MEAN, STD, exact=colour == "exact")
        for s in ((), steps)
    )
    images = as_bytes(photos(8))
    draws = more.draw(8, generator(0, Stream.VIEWS, 1))
    before = (
        plain(images, {"global": draws["global"][..., :DRAWS]})["global"] * STD[:, None, None] + MEAN[:, None, None]
    )
    got = more(images, draws)["global"]
    wrong = []
    for v, own in enumerate((steps, steps[1:])):
        for i in range(8):
            x, column = before[v, i], DRAWS
            for step in own:
                x = one_by_one(step, x.clamp(0, 1), draws["global"][i, v, column : column + step.draws], MEAN)
                column += step.draws
            want = (x - MEAN[:, None, None]) / STD[:, None, None]
            wrong.append(((got[v, i] - want).abs() > 0.01).float().mean())
    shares = torch.stack(wrong)
    assert (shares[8:] < 0.001).all()
    assert shares[:8].median() < 0.01  # histograms and steps of values depend on the last bit
    assert (got[1] == 0).all(1).float().mean() > 0.1  # holes are what a network takes for nothing


def test_a_batch_is_its_pictures_and_its_parts(monkeypatch):
    from selfsight.augment import apply

    steps = (RandAugment(), Jitter(), Cutout(0.5))
    views = Crops((Group("global", 32, (Policy(scale=None, flip=0, jitter=0, gray=0, steps=steps),)),), MEAN, STD)
    images, draws = as_bytes(photos(9)), views.draw(9, generator(0, Stream.VIEWS, 2))
    whole = views(images, draws)["global"]
    for i in range(9):
        one = views(images[i : i + 1], {"global": draws["global"][i : i + 1]})["global"]
        torch.testing.assert_close(one, whole[:, i : i + 1], atol=1e-4, rtol=0)
    monkeypatch.setattr(apply, "_PART_BYTES", {"cpu": (1, 1)})
    torch.testing.assert_close(views(images, draws)["global"], whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_channels(channels):
    views = build(ViewsConfig(policy="randaugment"), 24, channels, torch.full((channels,), 0.4), torch.ones(channels))
    images = as_bytes(photos(20, 30, channels))
    made = views(images, views.draw(20, generator(0, Stream.VIEWS, 0)))["global"] + 0.4
    assert made.min() >= -1e-6
    assert made.max() <= 1 + 1e-6
    assert made.std() > 0.1


def test_tiles_and_places():
    from selfsight.augment import TilesConfig

    tiles = TilesConfig(grid=2, cell=16, size=12, per_tile=True)
    views = build(ViewsConfig(policy="none", views=1, cutout=1.0, cutout_side=1.0, tiles=tiles), 32, 3, MEAN, STD)
    made = views(as_bytes(photos(3)), views.draw(3, generator(0, Stream.VIEWS, 0)))
    share = (made["tiles"] == 0).all(2).float().mean((2, 3))  # a hole in each tile
    assert share.min() > 0.2
    with pytest.raises(WrongUse, match="randaugment moves"):
        make(policy="randaugment", places=True)
    make(policy="mae", cutout=0.5, places=True)


@pytest.mark.parametrize(
    "fields,words",
    [
        ({"cutout": 1.5}, "probability"),
        ({"randaugment": 1.0, "randaugment_magnitude": 30.0}, "at most 10"),
        ({"cutout": 1.0, "cutout_side": 0.0}, "above 0"),
    ],
)
def test_wrong_numbers(fields, words):
    with pytest.raises(WrongUse, match=words):
        make(policy="simclr", **fields)
