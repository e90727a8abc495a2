# mypy: disable-error-code="arg-type"
"""Pipelines: any order equals torchvision step by step, building changes nothing, what is wrong is named, runs keep theirs."""

import copy
import random
import shutil
from dataclasses import replace

import pytest
import torch
import yaml

from selfsight import cli, pretraining
from selfsight import run as runs
from selfsight.augment import POLICIES, STEPS, Pipeline, ViewsConfig, build
from selfsight.augment.pipeline import as_policy
from selfsight.augment.plan import DRAWS
from selfsight.augment.steps import Blur, Crop, Cutout, Flip, Gray, Jitter, Normalise, Rotate, Shift, Solarise
from selfsight.errors import WrongUse
from selfsight.rng import Stream, generator
from selfsight.verbs.pretrain import settings
from test_randaugment import MEAN, STD, as_bytes, one_by_one, photos

torch.set_num_threads(1)
PLAIN = [
    {"crop": {"scale": [0.2, 1.0]}}, "flip", {"solarise": {"apply_prob": 0.2}},
    {"jitter": {"apply_prob": 0.8, "hue": "1e-1"}}, {"blur": {"sigma": [0.1, 1]}}, "normalise", {"cutout": {"side": 0.25}},
]  # fmt: skip


def make(plain, size=32, **fields):
    return build(ViewsConfig(pipeline=Pipeline.parse(plain), **fields), size, 3, MEAN, STD)


def test_building_twice_is_the_same_and_changes_nothing():
    """Another project took apply_prob out of the shared settings, so that what was built later had none."""
    plain = copy.deepcopy(PLAIN)
    first, second = Pipeline.parse(plain), Pipeline.parse(plain)
    assert plain == PLAIN
    assert first == second
    assert hash(first) == hash(second)
    assert first != Pipeline.parse(PLAIN[:-1])
    assert first.views[0][3] == Jitter(0.8, hue=0.1)
    a, b = (make(plain).groups for _ in range(2))
    assert a == b
    assert Pipeline.parse(first.plain()) == first
    assert Pipeline.parse(yaml.safe_load(yaml.safe_dump(first.plain()))) == first


def test_the_order_of_a_policy_is_that_policy():
    byol: list = [
        [
            {"crop": {}},
            "flip",
            {"jitter": {"apply_prob": 0.8, "saturation": 0.2}},
            {"gray": {"apply_prob": 0.2}},
            blur,
            *more,
        ]
        for blur, more in (("blur", []), ({"blur": {"apply_prob": 0.1}}, [{"solarise": {"apply_prob": 0.2}}]))
    ]
    assert Pipeline.parse({"views": byol}).entry().views == POLICIES["byol"]
    w_mse = Pipeline.parse(
        [{"jitter": {"apply_prob": 0.8}}, {"gray": {"apply_prob": 0.1}}, {"crop": {"scale": [0.2, 1]}}, "flip"]
    )
    assert w_mse.entry().views == POLICIES["w-mse"]
    moco = Pipeline.parse(
        [
            {"crop": {"scale": [0.2, 1], "interpolation": "bilinear"}},
            "flip",
            {"gray": {"apply_prob": 0.2}},
            {"jitter": {"hue": 0.4}},
        ]
    )
    assert moco.entry().views == POLICIES["moco-v1"]
    assert Pipeline.parse(["crop", "flip", "randaugment", "cutout"]).entry().views == POLICIES["randaugment"]
    amdim = [
        {"flip": {}},
        {"shift": {"apply_prob": 0.8}},
        {"jitter": {"apply_prob": 0.8, "hue": 0.2}},
        {"gray": {"apply_prob": 0.25}},
    ]
    assert Pipeline.parse(amdim).entry().views == POLICIES["amdim-cifar"]


def test_what_is_in_no_policys_order_stays_in_its_own():
    late = as_policy((Crop(), Blur(), Jitter(), Flip()))
    assert (late.blur, late.jitter, late.steps) == (1.0, 0.0, (Jitter(), Flip()))
    assert as_policy((Flip(), Crop())) == as_policy((Crop(), Flip()))
    assert as_policy((Solarise(), Crop())).steps == (Crop(),)
    assert as_policy((Blur(), Crop())).scale is None
    assert as_policy((Crop(0.5), Flip())).steps == (Crop(0.5), Flip())
    assert as_policy((Crop(), Shift())).steps == (Shift(),)
    assert as_policy((Shift(share=0.3),)).steps == (Shift(share=0.3),)
    assert as_policy((Crop(), Crop(), Normalise(), Cutout())).steps == (Crop(), Cutout())
    assert as_policy((Jitter(), Jitter(), Crop())).steps == (Jitter(), Crop())


ANY = (
    Crop(0.6, scale=(0.3, 1.0)), Flip(), Shift(0.5, share=0.2), Rotate(0.5), Jitter(0.8), Gray(0.3), Blur(0.5), Blur(0.5),
    Cutout(0.5, side=0.3), Flip(),
)  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_any_order_equals_torchvision(seed):
    steps = tuple(random.Random(seed).sample(ANY, 6))
    own = as_policy(steps, ())  # nothing by matrices: every step has uniforms of its own
    assert own.steps == steps
    from selfsight.augment import Group
    from selfsight.augment.views import Crops

    views = Crops((Group("global", 32, (own,)),), MEAN, STD)
    x = photos(6, seed=seed)
    draws = views.draw(6, generator(seed, Stream.VIEWS, 0))
    got = views(as_bytes(x), draws)["global"][0]
    for i in range(6):
        want, column = x[i], DRAWS
        for step in steps:
            want = one_by_one(step, want, draws["global"][i, 0, column : column + step.draws], MEAN)
            column += step.draws
        gap = (got[i] - (want - MEAN[:, None, None]) / STD[:, None, None]).abs()
        assert (gap > 2e-3).float().mean() < 0.005, (steps, gap.max())


def test_by_matrices_and_step_by_step_have_one_distribution():
    """The beginning that a policy takes does what the same steps do alone: means over many draws agree."""
    from selfsight.augment import Group
    from selfsight.augment.views import Crops

    steps = (Crop(scale=(0.3, 1.0)), Flip(), Rotate(0.5), Jitter(0.8, hue=0.0), Solarise(0.3))
    image = as_bytes(photos(1, seed=4)).expand(1500, -1, -1, -1)
    means = []
    for policy in (as_policy(steps), as_policy(steps, ())):
        views = Crops((Group("global", 32, (policy,)),), MEAN, STD, exact=True)
        made = views(image, views.draw(1500, generator(0, Stream.VIEWS, 5)))["global"][0]
        means.append(torch.stack([made.mean(0), made.std(0)]))
    assert means[0][0].std() > 0.1
    assert (means[0] - means[1]).abs().mean() < 0.05


def test_views_and_small_crops_of_their_own():
    plain = {"views": [["crop", "flip"], ["blur", "crop"]], "local": ["crop", "cutout"]}
    views = make(plain, views=4, locals=2)
    whole, small = views.groups
    assert {p.kind for p in whole.policies} == {whole.policies[0].kind}
    assert whole.policies[0] == whole.policies[2] != whole.policies[1] == whole.policies[3]
    assert [s.name for s in whole.policies[1].steps] == ["blur", "crop"]
    assert small.policies[0].steps == (Cutout(),)
    assert small.policies[0].scale == (0.08, 1.0)
    shared = make(["crop", "flip", "cutout"], locals=2, views=1, scale=(0.5, 0.6), blur=1.0)
    assert shared.groups[0].policies[0].scale == (0.08, 1.0)  # settings that change policies leave pipelines alone
    assert shared.groups[0].policies[0].blur == 0
    assert shared.groups[1].policies[0].scale == (0.08, 0.5)
    out = views(as_bytes(photos(4, 40)), views.draw(4, generator(0, Stream.VIEWS, 0)))
    assert out["global"].shape == (4, 4, 3, 32, 32)
    assert out["local"].shape == (2, 4, 3, 18, 18)


@pytest.mark.parametrize(
    "plain,words",
    [
        (["crop", "flop"], "step 2: no step is called 'flop'. Perhaps you meant 'flip'"),
        ([{"crop": {"scael": [0.1, 1]}}], "crop has no setting 'scael'. Perhaps you meant 'scale'"),
        ([{"flip": {"apply_prob": 1.5}}], "step 1: flip: apply_prob is 1.5, must be a probability, from 0 to 1"),
        ([{"crop": {"scale": [0.5, 0.2]}}], "two areas, 0 < low <= high <= 1"),
        ([{"crop": {"scale": 0.2}}], "two numbers"),
        ([{"crop": {"interpolation": "cubic"}}], "bilinear or bicubic"),
        ([{"randaugment": {"magnitude": 30}}], "above 0 and at most 10"),
        ([{"randaugment": {"operations": 1.5}}], "whole number"),
        ([{"rotate": {"degrees": "far"}}], "must be a number"),
        ([{"rotate": {"degrees": float("nan")}}], "must be a number"),
        ([{"blur": {"sigma": [0, 1]}}], "0 < low <= high"),
        ([{"jitter": {"hue": 0.7}}], "0.5 turns"),
        ([{"solarise": {"threshold": 0}}], "invert everything"),
        ([{"cutout": {"side": 0}}], "above 0 and at most 1"),
        ([{"crop": 3}], "takes settings"),
        ([{"crop": {}, "flip": {}}], "several names"),
        (["normalise", "blur"], "blur comes after normalise"),
        ([{"normalise": {"apply_prob": 0.5}}], "all pictures are normalised or none"),
        ([], "no step"),
        (3, "expected a list"),
        ([3], "expected a list"),
        ({"crop": {}}, "write `- crop`"),
        ({"view": [["crop"]]}, "Perhaps you meant 'views'"),
        ({"views": ["crop"]}, "one list of steps for each view"),
    ],
)
def test_what_is_wrong_is_named(plain, words):
    with pytest.raises(WrongUse) as found:
        Pipeline.parse(plain)
    assert words in str(found.value)
    assert str(found.value).startswith("views.pipeline: ")


def test_channels_places_and_shared_flips():
    gray = Pipeline.parse(["crop", "jitter", "gray"])
    with pytest.raises(WrongUse, match=r"the pipeline uses saturation, hue, gray.*leave them out"):
        build(ViewsConfig(pipeline=gray), 32, 1, torch.zeros(1), torch.ones(1))
    no_colour = Pipeline.parse([{"jitter": {"hue": 0, "saturation": 0}}, "blur", "crop"])
    build(ViewsConfig(pipeline=no_colour), 32, 1, torch.zeros(1), torch.ones(1))
    with pytest.raises(WrongUse, match=r"rotate moves|rotated"):
        make(["crop", "rotate"], places=True)
    with pytest.raises(WrongUse, match="crop moves"):
        make(["blur", "crop"], places=True)
    with pytest.raises(WrongUse, match="flip right after crop"):
        make(["crop", "blur", "flip"], shared_flip=True)
    make(["flip", "crop", "blur"], shared_flip=True)


def test_a_policy_with_the_name_of_a_file_says_the_way():
    with pytest.raises(WrongUse, match=r"--views.pipeline my.yaml"):
        build(ViewsConfig(policy="my.yaml"), 32, 3, MEAN, STD)


def test_every_way_to_give_one(tmp_path, capsys):
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump(PLAIN))
    want, base = Pipeline.parse(PLAIN), ["simclr", "--recipe", "tiny"]
    assert settings([*base, "--views.pipeline", str(file)]).views.pipeline == want
    assert (
        settings([*base, f"--views.pipeline={yaml.safe_dump(PLAIN, default_flow_style=True)}"]).views.pipeline == want
    )
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"method": "simclr", "recipe": "tiny", "views": {"pipeline": PLAIN}}))
    assert settings(["--config", str(config)]).views.pipeline == want
    config.write_text(yaml.safe_dump({"method": "simclr", "recipe": "tiny", "views": {"pipeline": str(file)}}))
    assert settings(["--config", str(config)]).views.pipeline == want
    other = settings(["--config", str(config), "--views.pipeline", "[flip]"])
    assert other.views.pipeline == Pipeline.parse(["flip"])
    assert settings(["--config", str(config), "--views.pipeline", "None"]).views.pipeline is None
    assert runs.from_dict(yaml.safe_load(runs.to_yaml(other))) == other
    for given, said in (("no.yaml", "no file"), ("[", "not valid YAML"), ("[flop]", "'flip'")):
        assert cli.run(["pretrain", *base, "--views.pipeline", given]) == 2
        assert said in capsys.readouterr().err


def test_a_run_goes_on_without_the_file(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text(
        yaml.safe_dump(["crop", "blur", {"jitter": {"apply_prob": 0.8}}, {"cutout": {"side": 0.3}}, "flip"])
    )
    words = [
        "simclr",
        "--recipe",
        "tiny",
        "--views.pipeline",
        str(file),
        "--steps",
        "6",
        "--probe.every",
        "-1",
        "--quiet",
    ]
    words += ["--views.blur", "0.5"]
    run = replace(settings([*words, "--log-every", "1", "--checkpoint-every", "3", "--device", "cpu"]), threads=1)
    whole = pretraining.start(replace(run, out=str(tmp_path / "whole")))
    assert whole.code == 0
    kept = yaml.safe_load((tmp_path / "whole" / "run.yaml").read_text())["views"]["pipeline"]
    assert [next(iter(step)) for step in kept] == ["crop", "blur", "jitter", "cutout", "flip"]
    assert "in place of the policy, blur" in (tmp_path / "whole" / "log.txt").read_text()
    file.unlink()
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    (tmp_path / "again" / "results.json").unlink()
    (tmp_path / "again" / "checkpoints" / "last.pt").unlink()  # from the start, by run.yaml alone
    again = pretraining.go_on(tmp_path / "again")
    assert again.code == 0
    assert again.summary["final_loss"] == whole.summary["final_loss"]


def test_all_steps_are_registered_by_their_names():
    assert all(name == cls.name for name, cls in STEPS.items())
    assert Pipeline.parse([*(name for name in STEPS if name != "normalise"), "normalise"]).names == list(STEPS)
