"""The table of policies: what the papers say, and that each one works."""

import pytest
import torch

from selfsight.augment import ENTRIES, POLICIES, Policy, ViewsConfig, build, multi_crop, suits
from selfsight.rng import Stream, generator

torch.set_num_threads(1)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_builds_and_runs(name):
    entry = ENTRIES[name]
    assert entry.about
    assert entry.source
    assert "\n" not in entry.about
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views = build(ViewsConfig(policy=name, views=3, locals=2, clean=True), 32, 3, torch.zeros(3), torch.ones(3))
    out = views(images, views.draw(4, generator(0, Stream.VIEWS, 0)))
    assert out["global"].shape == (3, 4, 3, 32, 32)
    whole = images.float() / 255
    changed = (out["global"] - whole).abs().mean()
    assert changed < 1e-6 if name == "none" else changed > 0.01


def jitter(policy):
    return tuple(
        round(x, 6) for x in (policy.brightness, policy.contrast, policy.saturation, policy.hue, policy.jitter)
    )


@pytest.mark.parametrize(
    "name,scale,strengths,gray,blur,solarise",
    [
        ("simclr", (0.08, 1), (0.8, 0.8, 0.8, 0.2, 0.8), 0.2, (0.5,), (0,)),
        ("simclr-cifar", (0.08, 1), (0.4, 0.4, 0.4, 0.1, 0.8), 0.2, (0,), (0,)),
        ("moco-v1", (0.2, 1), (0.4, 0.4, 0.4, 0.4, 1.0), 0.2, (0,), (0,)),
        ("moco-v2", (0.2, 1), (0.4, 0.4, 0.4, 0.1, 0.8), 0.2, (0.5,), (0,)),
        ("byol", (0.08, 1), (0.4, 0.4, 0.2, 0.1, 0.8), 0.2, (1.0, 0.1), (0, 0.2)),
        ("barlow", (0.08, 1), (0.4, 0.4, 0.2, 0.1, 0.8), 0.2, (1.0, 0.1), (0, 0.2)),
        ("dino", (0.4, 1), (0.4, 0.4, 0.2, 0.1, 0.8), 0.2, (1.0, 0.1), (0, 0.2)),
        ("colab", (0.08, 1), (0.4, 0.4, 0.4, 0.1, 0.8), 0.2, (0,), (0,)),
        ("asym", (0.08, 1), (0.4, 0.4, 0.2, 0.1, 0.8), 0.2, (0, 0), (0, 0.2)),
        ("sym", (0.08, 1), (0.8, 0.8, 0.8, 0.2, 0.8), 0.2, (0.5,), (0,)),
        ("weak", (0.08, 1), (0.4, 0.4, 0.4, 0.1, 0.8), 0.2, (0.5,), (0,)),
        ("vicreg-cifar", (0.2, 1), (0.4, 0.4, 0.2, 0.1, 0.8), 0.2, (0,), (0.1,)),
        ("w-mse", (0.2, 1), (0.4, 0.4, 0.4, 0.1, 0.8), 0.1, (0,), (0,)),
        ("emp-ssl", (0.25, 0.25), (0.4, 0.4, 0.4, 0.2, 0.8), 0.2, (0.1,), (0.1,)),
    ],
)
def test_published_numbers(name, scale, strengths, gray, blur, solarise):
    policies = POLICIES[name]
    assert tuple(p.blur for p in policies) == blur
    assert tuple(p.solarise for p in policies) == solarise
    for policy in policies:
        assert policy.scale == scale
        assert jitter(policy) == strengths
        assert policy.gray == gray
        assert policy.flip == 0.5


def test_orders():
    assert POLICIES["moco-v1"][0].order == ("crop", "flip", "gray", "jitter")
    assert POLICIES["w-mse"][0].order == ("jitter", "gray", "crop", "flip")
    assert POLICIES["byol"][1].order == ("crop", "flip", "jitter", "gray", "blur", "solarise")
    assert POLICIES["svhn"][0].scale is None
    assert POLICIES["svhn"][0].flip == 0
    local = ENTRIES["dino"].local
    assert local is not None
    assert (local.blur, local.solarise) == (0.5, 0.0)


def test_strength_scales_the_jitter_and_building_changes_nothing():
    before = dict(POLICIES)
    config = ViewsConfig(policy="simclr", strength=0.5)
    mean, std = torch.zeros(3), torch.ones(3)
    first, second = (build(config, 32, 3, mean, std).groups for _ in range(2))
    assert first == second
    assert jitter(first[0].policies[0]) == (0.4, 0.4, 0.4, 0.1, 0.8)
    assert before == POLICIES
    assert Policy(hue=0.3).stronger(4).hue == 0.5


def test_overrides_reach_every_view():
    config = ViewsConfig(
        policy="byol",
        blur=0.3,
        solarise=0.4,
        gray=0.0,
        rotate=0.6,
        rotate_degrees=10.0,
        interpolation="bilinear",
        locals=1,
    )
    for group in build(config, 32, 3, torch.zeros(3), torch.ones(3)).groups:
        for p in group.policies:
            assert (p.blur, p.solarise, p.gray, p.rotate, p.degrees, p.interpolation) == (
                0.3,
                0.4,
                0,
                0.6,
                10,
                "bilinear",
            )


def test_only_policies_without_colours_suit_other_channels():
    assert {name for name in POLICIES if suits(name, 1)} == {
        "plain", "none", "mae", "simmim", "ijepa", "crop-flip", "randaugment",
    }  # fmt: skip
    assert all(suits(name, 3) for name in POLICIES)


@pytest.mark.parametrize(
    "size,local",
    [(24, 13), (28, 15), (32, 18), (64, 32), (96, 48), (128, 64), (160, 96), (192, 96), (224, 96), (448, 192)],
)
def test_multi_crop_sizes(size, local):
    assert multi_crop(size).size == local
