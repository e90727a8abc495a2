"""The library's front door: what `selfsight.NAME` and the command line call."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from selfsight import external, plugins, pretraining, recipes
from selfsight import run as runs
from selfsight.embedding import embed as embed
from selfsight.errors import WrongUse
from selfsight.evaluation import evaluate as evaluate
from selfsight.planning import plan as plan
from selfsight.pretraining import Result
from selfsight.run import Run

plugins.settle()
load = external.load
resume = pretraining.go_on


def has_cuda(device: str | None) -> bool:
    """A GPU will do the work if the device is named so."""
    return (device or "auto").startswith("cuda") or (device in (None, "auto") and torch.cuda.is_available())


def settings(method: str | None = None, recipe: str | None = None, **given: Any) -> Run[Any]:
    """A Run from a recipe and changes to it, as `pretrain` takes them. Groups are dicts: `method={"temperature": 0.2}`."""
    name = recipe or recipes.default_recipe(str(given.get("data", "shapes")), has_cuda(given.get("device")))
    base = (
        recipes.RECIPES[name]()
        if method is None and name in recipes.RECIPES
        else recipes.recipe(method or "simclr", name)
    )
    plain = {
        k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) and not isinstance(v, type) else v
        for k, v in given.items()
    }
    inner = dict(plain.pop("method_settings", {}))
    return runs.from_dict({**plain, "method": {"name": base.method_name, **inner}}, base)


def pretrain(
    method: str = "simclr", *, recipe: str | None = None, encoder: str | nn.Module | None = None,
    method_settings: dict[str, Any] | None = None, **given: Any,
) -> Result:  # fmt: skip
    """Train an encoder; the run folder, exit code and summary of it.

    Args:
        method: a name of METHODS.
        recipe: defaults of a named run; without one, they follow the data.
        encoder: a name of ENCODERS, or any module with `.dim` that maps (B, C, S, S) to (B, dim).
        method_settings: changes of the method's own settings, such as `{"temperature": 0.2}`.
        **given: any field of Run: data, epochs, batch_size, out, seed, views={"locals": 6}, optimizer={"lr": 0.3}, ...

    Raises:
        WrongUse: the settings or the data are wrong; nothing is written then.
    """
    module = encoder if isinstance(encoder, nn.Module) else None
    if module is not None and not isinstance(getattr(module, "dim", None), int):
        raise WrongUse("encoder has no attribute `dim` (int): set it to the width of the features")
    if isinstance(encoder, str):
        given["encoder"] = encoder
    given = {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}
    return pretraining.start(settings(method, recipe, method_settings=method_settings or {}, **given), module)


def describe(facts: dict[str, Any]) -> str:
    """Text of `plan`: choices, effective numbers, all settings as YAML."""
    import yaml

    lines = [f"# {line}" for line in facts["choices"]]
    lines += [f"# {name.replace('_', ' ')}: {facts[name]}" for name in facts if name not in ("settings", "choices")]
    return "\n".join([*lines, yaml.safe_dump(facts["settings"], sort_keys=False, allow_unicode=True)])


def describe_result(result: Result) -> str:
    """A few lines on how a pre-training ended."""
    s = result.summary
    lines = [f"run folder    {result.folder}"]
    if "steps" in s:
        lines.append(f"steps         {s['steps']} in {s['seconds']:.0f} s, {s['views_per_second']:.0f} views/s")
    if s.get("knn"):
        k = s["knn"]
        base = ", ".join(f"{n} {s[n]:.1%}" for n in ("untrained", "pixels") if s.get(n) is not None)
        lines.append(
            f"k-NN          {k['top1']:.1%} on the {k['part']} part ({base or 'no baselines'}; k {k['k']}, bank {k['bank']})"
        )
    for name, what in (("ridge", "ridge"), ("linear", "linear")):
        if found := s.get(name):
            lines.append(
                f"{what:<13} {found['top1']:.1%} on the {found['part']} part (frozen features, bank {found['bank']})"
            )
    if best := s.get("best"):
        lines.append(f"best          step {best['step']} by {best['monitor']}, checkpoints/best.pt")
    if s.get("health"):
        lines.append(f"health        {s['health']}: {s['why']}")
    if s.get("note"):
        lines.append(f"note          {s['note']}")
    if result.code == 0:
        lines.append(f"report        {result.folder / 'report.html'}")
    return "\n".join(lines)
