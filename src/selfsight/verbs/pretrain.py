"""The verb `pretrain`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from selfsight.arguments import check_flags, parse, take, value_of
from selfsight.errors import WrongUse

if TYPE_CHECKING:
    from selfsight.run import Run

ABOUT = """Train an encoder on pictures.

Example: selfsight pretrain simclr --data ~/photos --out runs/photos

Example: selfsight pretrain byol --data cifar10 --encoder resnet18 --epochs 200 --method.momentum 0.996

Also: --recipe NAME (defaults of a named run), --config FILE (settings from YAML), --dry-run (print the resolved
settings and stop), --json (one JSON object on stdout)."""


def settings(argv: list[str], verb: str = "pretrain", about: str = ABOUT) -> Run[Any]:
    """The Run that the arguments of `pretrain` (or of a verb that takes the same) describe; "auto" is not resolved yet."""
    from selfsight import recipes
    from selfsight import run as runs
    from selfsight.api import has_cuda
    from selfsight.methods import method_named

    method = argv.pop(0) if argv and not argv[0].startswith("-") else None
    name, argv = take(argv, "--recipe", valued=True)
    config, argv = take(argv, "--config", valued=True)
    if method is not None:
        method_named(method)
    if name and config:
        raise WrongUse("--recipe and --config contradict each other: give one (a YAML may say `recipe: NAME` itself)")
    data = value_of(argv, "--data")
    if config:
        plain = runs.read_file(config)
        told = runs.method_in(plain)
        if method and told and told != method:
            raise WrongUse(f"{config} is for method {told}, not {method}: leave out one of the two")
        which = method or told or "simclr"
        short = recipes.default_recipe(data or str(plain.get("data", "shapes")), has_cuda(value_of(argv, "--device")))
        base = runs.from_dict(plain, recipes.recipe(which, str(plain.get("recipe") or short)))
        timed = 0 if "provenance" in plain else base.max_minutes  # in a run.yaml the minutes have become steps
        base = dataclasses.replace(base, out=None, max_minutes=timed)
    elif name and name in recipes.RECIPES and method is None:
        base = recipes.RECIPES[name]()
    else:
        short = name or recipes.default_recipe(data or "shapes", has_cuda(value_of(argv, "--device")))
        base = recipes.recipe(method or "simclr", short)
        if not name and data is not None:
            base = dataclasses.replace(base, data=data)
    check_flags(argv, base, verb)
    if any(not token.startswith("-") for token in argv[:1]):
        raise WrongUse(f"unexpected {argv[0]!r}: the method comes first, then flags (selfsight {verb} --help)")
    parsed: Run[Any] = parse(runs.Run[type(base.method)], argv, base, verb, "[METHOD]", about)  # type: ignore[misc]
    return parsed


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    as_json, argv = take(argv, "--json", valued=False)
    dry, argv = take(argv, "--dry-run", valued=False)
    chosen = settings(argv)
    from selfsight import api

    if dry:
        print(json.dumps(api.plan(chosen), indent=2) if as_json else api.describe(api.plan(chosen)))
        return 0
    return finish(api.pretraining.start(chosen), bool(as_json))


def finish(result: Any, as_json: bool) -> int:
    """Print how a pre-training ended; its exit code."""
    from selfsight import api

    if as_json and result.summary:
        print(json.dumps(result.summary))
    elif result.summary:
        print(api.describe_result(result))
    return int(result.code)
