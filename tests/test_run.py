# mypy: disable-error-code="arg-type"
"""Settings: to and from dicts and YAML, and what is refused."""

import dataclasses
import typing
from pathlib import Path
from typing import Any, Literal, Union

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from selfsight import run as runs
from selfsight.arguments import flags_of
from selfsight.augment import Pipeline
from selfsight.encoders import EncoderConfig
from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from selfsight.recipes import RECIPES
from selfsight.run import DEFAULT, ProbeConfig, Run

TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\r\x85\u2028\u2029"), max_size=12
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type, small enough that most of them are legal."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return st.sampled_from(args)
    if origin is tuple:
        if args[-1] is Ellipsis:
            return st.lists(values(args[0]), max_size=2).map(tuple)
        return st.tuples(*[values(a) for a in args])
    if origin is Union or str(origin) == "<class 'types.UnionType'>":
        return st.one_of([values(a) for a in args])
    return {
        bool: st.booleans(), int: st.integers(0, 64), float: st.floats(0, 0.99), str: TEXT, type(None): st.none(),
        Pipeline: st.sampled_from([["crop", "flip"], [{"gray": {"apply_prob": 0.3}}, "normalise"]]).map(Pipeline.parse),
    }[hint]  # fmt: skip


@st.composite
def runs_of(draw: st.DrawFn) -> Run[Any]:
    """A random Run: several fields of every group changed, illegal combinations left as they were."""

    def change(config: Any) -> Any:
        hints = typing.get_type_hints(type(config))
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if field.name == "method" or dataclasses.is_dataclass(value):
                new = change(value)
            elif draw(st.integers(0, 2)) == 0:
                new = draw(values(hints[field.name]))
            else:
                continue
            try:
                config = dataclasses.replace(config, **{field.name: new})
            except WrongUse:
                continue
        return config

    return change(RECIPES[draw(st.sampled_from(sorted(RECIPES)))]())


@settings(max_examples=40, deadline=None)
@given(runs_of())
def test_dict_and_yaml_round_trip(run: Run[Any]) -> None:
    assert runs.from_dict(runs.to_dict(run)) == run
    assert runs.from_dict(yaml.safe_load(runs.to_yaml(run))) == run
    assert runs.from_dict(yaml.safe_load(runs.to_yaml(run, {"torch": "9", "choices": ["a"]}))) == run  # provenance


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_round_trip(name: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(runs.to_yaml(RECIPES[name]()))
    assert runs.load(tmp_path / "run.yaml") == RECIPES[name]()


def test_what_is_left_out_comes_from_the_base() -> None:
    base = RECIPES["byol-tiny"]()
    run = runs.from_dict({"optimizer": {"lr": 0.5}, "method": {"momentum": 0.5}, "batch-size": 32}, base)
    assert run == dataclasses.replace(
        base, optimizer=dataclasses.replace(base.optimizer, lr=0.5), batch_size=32,
        method=dataclasses.replace(base.method, momentum=0.5),
    )  # fmt: skip
    assert runs.from_dict({}) == DEFAULT
    assert runs.from_dict({"method": "swav"}).method == METHODS["swav"].Config()


def test_numbers_as_yaml_writes_them() -> None:
    run = runs.from_dict(yaml.safe_load("optimizer: {lr: 1e-3, weight_decay: 0}\nepochs: 3\nviews: {scale: [0.2, 1]}"))
    assert (run.optimizer.lr, run.optimizer.weight_decay, run.epochs, run.views.scale) == (0.001, 0.0, 3.0, (0.2, 1.0))
    assert all(isinstance(x, float) for x in (run.optimizer.lr, run.optimizer.weight_decay, run.epochs))


@pytest.mark.parametrize(
    ("plain", "told"),
    [
        ({"epochs": "many"}, "epochs: 'many' is not a number or auto"),
        ({"epochs": True}, "epochs: True is not a number"),
        ({"seed": 1.5}, "seed: 1.5 is not a whole number"),
        ({"seed": True}, "seed: True is not a whole number"),
        ({"seed": None}, "seed: None is not a whole number"),
        ({"download": 1}, "download: 1 is not true or false"),
        ({"download": "yes"}, "download: 'yes' is not true or false"),
        ({"encoder": 18}, "encoder: 18 is not text"),
        ({"precision": "fp16"}, "precision: 'fp16' is not auto or fp32 or bf16"),
        ({"views": {"scale": [0.2]}}, "views.scale: [0.2] is not a list of 2 times a number or null"),
        ({"views": {"scale": 0.2}}, "views.scale: 0.2 is not"),
        ({"optimizer": {"betas": ["a", 1]}}, "optimizer.betas: ['a', 1] is not"),
        ({"log_to": "tensorboard"}, "log_to: 'tensorboard' is not a list of tensorboard or"),
        ({"log_to": ["paper"]}, "log_to: ['paper'] is not"),
        ({"net": {"output_stride": 4}}, "net.output_stride: 4 is not 8 or 16 or 32"),
        ({"optimizer": None}, "optimizer: expected a group of settings"),
        ({"optimizer": [1]}, "optimizer: expected a group of settings"),
        ({"method": ["simclr"]}, "method: expected a name"),
        ({"method": {"name": ["simclr"]}}, "method: expected a name"),
        ({"method": "simcrl"}, "Perhaps you meant 'simclr'"),
        ({"method": {"temperature": "warm"}}, "method.temperature: 'warm' is not a number"),
        ({"method": {"hiden": 3}}, "unknown setting method.hiden. Perhaps you meant method.hidden"),
        ({"optimiser": {}}, "unknown setting optimiser. Perhaps you meant optimizer"),
        ({"zzzz": {}}, "unknown setting zzzz. See"),
        ({"weight_decay": 1}, "Perhaps you meant optimizer.weight_decay"),
        ({3: 4}, "unknown setting 3"),
        ({"epochs": float("nan")}, "--epochs is nan"),
        ({"optimizer": {"weight_decay": float("inf")}}, "--optimizer.weight-decay is inf"),
        ({"batch_size": 1}, "must be at least 2"),
        ({"batch_size": 10, "processes": 2, "accumulate": 2}, "choose a multiple of 4"),
        ({"probe": {"every": -2}}, "every >= 0"),
        ({"probe": {"samples": 1}}, "samples at least 2"),
    ],
)
def test_refused(plain: dict[Any, Any], told: str) -> None:
    with pytest.raises(WrongUse) as error:
        runs.from_dict(plain)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "epochs",
        "steps",
        "max_minutes",
        "holdout",
        "per_class",
        "checkpoint_every",
        "export_every",
        "seed",
        "threads",
        "workers",
    ],
)
def test_negative_lengths_are_refused(name: str) -> None:
    with pytest.raises(WrongUse, match=f"--{name.replace('_', '-')} is -1"):
        dataclasses.replace(DEFAULT, **{name: -1})


@pytest.mark.parametrize("name", ["accumulate", "processes", "log_every"])
def test_counts_below_one_are_refused(name: str) -> None:
    with pytest.raises(WrongUse, match=f"--{name.replace('_', '-')} is 0, must be at least 1"):
        dataclasses.replace(DEFAULT, **{name: 0})


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_fractions(fraction: float) -> None:
    with pytest.raises(WrongUse, match="above 0 and at most 1"):
        dataclasses.replace(DEFAULT, fraction=fraction)


def test_files(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="no file"):
        runs.load(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(WrongUse, match="not valid YAML"):
        runs.load(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WrongUse, match="not readable text"):
        runs.load(tmp_path / "b.yaml")


def test_every_setting_is_frozen_and_explained() -> None:
    """The line below a field is its help on the command line."""
    import inspect

    for cls in (Run, ProbeConfig, EncoderConfig, *(m.Config for m in METHODS.values())):
        sources = [inspect.getsource(c) for c in cls.__mro__ if dataclasses.is_dataclass(c)]
        for field in dataclasses.fields(cls):
            source = next(text for text in sources if f"\n    {field.name}:" in text)  # the nearest class that says it
            after = source.split(f"\n    {field.name}:", 1)[1].split("\n", 1)[1]
            assert after.lstrip().startswith('"""'), f"{cls.__name__}.{field.name} has no line of help"
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT.seed = 3  # type: ignore[misc]
    assert len(flags_of(DEFAULT)) == len(set(flags_of(DEFAULT)))
