"""The command line. Verbs are thin: they parse, call the library, print.

Exit codes: 0 done, 2 wrong use (one line, no traceback), 1 a run failed or `check` found what its policy forbids,
130/143 interrupted (a checkpoint is written).
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from selfsight._version import __version__
from selfsight.arguments import check_flags, parse, take, value_of
from selfsight.errors import WrongUse, perhaps

if TYPE_CHECKING:
    from selfsight.run import Run

HELP = f"""selfsight {__version__}: learn visual representations from unlabelled pictures

usage: selfsight VERB ...        (selfsight VERB --help says more, with an example)

  pretrain [METHOD] --data DATA  train an encoder; METHOD is simclr unless named
  resume RUN                     go on with an interrupted run, exactly
  evaluate RUN                   k-NN, ridge and logistic regression on frozen features
  embed RUN --data DATA --out F  features of pictures as .npz, .csv or .parquet
  export RUN --format timm       the encoder for other programs
  report RUN [RUN ...]           one HTML page that opens offline
  check DATA [--against DATA]    what is wrong with pictures: broken, odd, copies, leaks, classes
  preview DATA                   a picture of pictures and their augmented views
  list [WHAT]                    methods, encoders, data, recipes, policies, protocols

try:  selfsight pretrain simclr --data shapes --out runs/first
      selfsight pretrain simclr --data ~/photos --out runs/photos

every verb takes --json: one JSON object on stdout, everything else on stderr
"""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the `selfsight` command."""
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Run a command line; its exit code."""
    try:
        return _run(argv)
    except WrongUse as error:
        print(f"selfsight: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("selfsight: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if argv[0] in ("-V", "--version"):
        print(__version__)
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        known = ", ".join(VERBS)
        hint = perhaps(verb, set(VERBS))
        raise WrongUse(f"unknown verb {verb!r}.{hint if 'Perhaps' in hint else f' Known: {known}.'}")
    return VERBS[verb](rest)


# ---------------------------------------------------------------------------------------------- verbs

PRETRAIN = """Train an encoder on pictures.

Example: selfsight pretrain simclr --data ~/photos --out runs/photos

Example: selfsight pretrain byol --data cifar10 --encoder resnet18 --epochs 200 --method.momentum 0.996

Also: --recipe NAME (defaults of a named run), --config FILE (settings from YAML), --dry-run (print the resolved
settings and stop), --json (one JSON object on stdout)."""


def settings(argv: list[str]) -> Run[Any]:
    """The Run that the arguments of `pretrain` describe; "auto" is not resolved yet."""
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
    check_flags(argv, base, "pretrain")
    if any(not token.startswith("-") for token in argv[:1]):
        raise WrongUse(f"unexpected {argv[0]!r}: the method comes first, then flags (selfsight pretrain --help)")
    parsed: Run[Any] = parse(runs.Run[type(base.method)], argv, base, "pretrain", "[METHOD]", PRETRAIN)  # type: ignore[misc]
    return parsed


def pretrain(argv: list[str]) -> int:
    """Selfsight pretrain."""
    as_json, argv = take(argv, "--json", valued=False)
    dry, argv = take(argv, "--dry-run", valued=False)
    chosen = settings(argv)
    from selfsight import api

    if dry:
        print(json.dumps(api.plan(chosen), indent=2) if as_json else api.describe(api.plan(chosen)))
        return 0
    return _finish(api.pretraining.start(chosen), bool(as_json))


def resume(argv: list[str]) -> int:
    """Selfsight resume."""
    words, as_json, _ = _arguments(
        argv,
        ResumeFlags(),
        "resume",
        "RUN",
        "Go on with an interrupted run, exactly.\n\nExample: selfsight resume runs/photos",
    )
    from selfsight import api

    return _finish(api.resume(words[0]), as_json)


def _finish(result: Any, as_json: bool) -> int:
    """Print how a pre-training ended; its exit code."""
    from selfsight import api

    if as_json and result.summary:
        print(json.dumps(result.summary))
    elif result.summary:
        print(api.describe_result(result))
    return int(result.code)


@dataclasses.dataclass(frozen=True)
class ResumeFlags:
    """`resume` takes no flags but --json."""


@dataclasses.dataclass(frozen=True)
class EvaluateFlags:
    """Flags of `evaluate`."""

    train: str | None = None
    """Labelled pictures to learn from; default: those of the run."""
    exclude: str | None = None
    """A list of pictures of --train to leave out, as `selfsight check` writes it; default: that of the run."""
    test: str | None = None
    """Labelled pictures to ask; default: the test part of --train, else a hold-out part."""
    protocols: str = "knn,linear"
    """Names with commas, see `selfsight list protocols`."""
    features: str = "encoder"
    """Which layer's: encoder, projector, predictor, projector-1 (its first linear layer), as far as the method has them."""
    standardise: bool = False
    """Mean 0 and deviation 1 of each feature over the training part."""
    settings: str = "{}"
    """Settings of protocols as YAML, such as 'sgd: {epochs: 100}'."""
    out: str | None = None
    """Also write features and labels of both parts, .npz; evaluate reads it again."""
    encoder: str = "resnet18"
    """The network of the baseline `random`."""
    image_size: int = 0
    """Side of the pictures in pixels; 0: the run's."""
    data_root: str | None = None
    """Where named sets live."""
    device: str = "auto"
    """Where features are computed."""
    seed: int = 0
    """Seed of `random`, of hold-out parts, and of what protocols draw."""


@dataclasses.dataclass(frozen=True)
class EmbedFlags:
    """Flags of `embed`."""

    data: str = ""
    """Pictures: a data name, folder, file or list."""
    out: str = ""
    """File: .npz, .csv or .parquet."""
    features: str = "encoder"
    """Which layer's, as in `evaluate`."""
    image_size: int = 0
    """Side of the pictures in pixels; 0: the run's."""
    device: str = "auto"
    """Where features are computed."""
    data_root: str | None = None
    """Where named sets live."""


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """Flags of `export`."""

    format: str = "timm"
    """timm or safetensors."""
    out: str | None = None
    """The file; default: RUN/encoder-FORMAT.safetensors."""


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    """Flags of `report`."""

    out: str | None = None
    """The page; default: RUN/report.html of the first run."""


def _arguments(
    argv: list[str],
    default: Any,
    verb: str,
    what: str,
    about: str,
    many: bool = False,
    more: Sequence[str] = (),
) -> tuple[list[str], bool, Any]:
    """Words before the flags, --json, and the flags. `more`: names of flags that the caller took out."""
    json_flag, argv = take(argv, "--json", valued=False)
    if any(token in ("-h", "--help") for token in argv):
        parse(type(default), ["--help"], default, verb, what, about + "\n\nAlso: --json (one JSON object on stdout).")
    words: list[str] = []
    while argv and not argv[0].startswith("-"):
        words.append(argv.pop(0))
    if not words and len(argv) > 1 and not argv[-1].startswith("-") and not argv[-2].startswith("--"):
        words.append(argv.pop())
    needed = not what.startswith("[")
    if needed and (not words or (len(words) > 1 and not many)):
        raise WrongUse(f"{verb} takes {'' if many else 'one '}{what} before its flags (see `selfsight {verb} --help`)")
    if not needed and len(words) > 1:
        raise WrongUse(f"unexpected {words[1]!r} (see `selfsight {verb} --help`)")
    check_flags(argv, default, verb, more)
    return words, bool(json_flag), parse(type(default), argv, default, verb, what, about)


def evaluate(argv: list[str]) -> int:
    """Selfsight evaluate."""
    about = (
        "Accuracy of frozen features. RUN is a run folder, a checkpoint, an encoder.safetensors, a baseline: `random` "
        "(an untrained --encoder) or `pixels`, features in an .npz, or the toy `two-moons`.\n\n"
        "Example: selfsight evaluate runs/photos --train labelled/train --test labelled/test --protocols knn,linear"
    )
    words, as_json, flags = _arguments(argv, EvaluateFlags(), "evaluate", "RUN", about)
    from selfsight import api
    from selfsight.run import read_yaml

    names = [p for p in flags.protocols.split(",") if p]
    settings = read_yaml(flags.settings, "--settings") if flags.settings.strip() else {}
    found = api.evaluate(words[0], **{**dataclasses.asdict(flags), "protocols": names, "settings": settings})
    if as_json:
        print(json.dumps(found))
    else:
        _table("protocol top-1 top-5 details", [row for name, numbers in found.items() for row in _rows(name, numbers)])
    return 0


def _rows(name: str, numbers: dict[str, Any]) -> list[list[str]]:
    """A row, and one for each number of labels."""
    return [_row(name, numbers), *(_row(f"  {some['labels']}", some) for some in numbers.get("amounts", ()))]


def _row(name: str, numbers: dict[str, Any]) -> list[str]:
    first, top5 = numbers.get("top1"), numbers.get("top5")
    rest = ", ".join(f"{k} {v}" for k, v in numbers.items() if k not in ("top1", "top5") and not isinstance(v, list))
    return [name, *("" if value is None else f"{value:.2%}" for value in (first, top5)), rest]


def _table(header: str, rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*header.split(), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def embed(argv: list[str]) -> int:
    """Selfsight embed."""
    about = "Features of pictures.\n\nExample: selfsight embed runs/photos --data ~/photos --out features.npz"
    words, as_json, flags = _arguments(argv, EmbedFlags(), "embed", "RUN", about)
    if not flags.data or not flags.out:
        raise WrongUse("embed needs --data DATA and --out FILE (see `selfsight embed --help`)")
    from selfsight import api

    found = api.embed(
        words[0], flags.data, flags.out, features=flags.features, image_size=flags.image_size, device=flags.device,
        data_root=flags.data_root,
    )  # fmt: skip
    facts = {
        "out": flags.out,
        "pictures": len(found.features),
        "dim": found.features.shape[1],
        "labels": found.labels is not None,
    }
    print(json.dumps(facts) if as_json else f"{facts['pictures']} x {facts['dim']} features in {flags.out}")
    return 0


def export(argv: list[str]) -> int:
    """Selfsight export."""
    about = (
        "The encoder for other programs, read back and compared.\n\nExample: selfsight export runs/photos --format timm"
    )
    words, as_json, flags = _arguments(argv, ExportFlags(), "export", "RUN", about)
    from selfsight.formats import export as write

    path = write(words[0], flags.format, flags.out)
    print(json.dumps({"out": str(path), "format": flags.format}) if as_json else f"{path} (read back: same features)")
    return 0


def report(argv: list[str]) -> int:
    """Selfsight report."""
    about = "One HTML page on one or several runs; it opens offline.\n\nExample: selfsight report runs/a runs/b --out compare.html"
    words, as_json, flags = _arguments(argv, ReportFlags(), "report", "RUN [RUN ...]", about, many=True)
    from pathlib import Path

    from selfsight.report import report as write

    out = Path(flags.out) if flags.out else Path(words[0]) / "report.html"
    path = write([Path(word) for word in words], out)
    print(json.dumps({"out": str(path)}) if as_json else str(path))
    return 0


def check(argv: list[str]) -> int:
    """Selfsight check."""
    from selfsight.doctor.command import ABOUT, CheckFlags, check_verb

    words, as_json, flags = _arguments(argv, CheckFlags(), "check", "DATA", ABOUT)
    return check_verb(words[0], as_json, flags)


def preview(argv: list[str]) -> int:
    """Selfsight preview."""
    about = (
        "A PNG of pictures and their augmented views: whole views, small crops, masks, tiles, as a method's recipe makes "
        "them.\n\nExample: selfsight preview ~/photos --method byol --views.locals 4 --out views.png\n\n"
        "Also: --method NAME (whose views; default simclr), --policy NAME (a policy as it is, without the recipe's changes)."
    )
    method, argv = take(argv, "--method", valued=True)
    policy, argv = take(argv, "--policy", valued=True)
    from selfsight import api
    from selfsight.augment.config import untouched
    from selfsight.preview import PreviewFlags
    from selfsight.preview import preview as write

    data = argv[0] if argv and not argv[0].startswith("-") else "shapes"
    recipe = api.settings(method or "simclr", data=data)
    if policy and value_of(argv, "--views.policy"):
        raise WrongUse("--policy and --views.policy contradict each other: give one of them")
    views = untouched(recipe.views, policy) if policy else recipe.views
    default = PreviewFlags(encoder=recipe.encoder, views=views)
    words, as_json, flags = _arguments(argv, default, "preview", "DATA", about, more=["method", "policy"])
    given = {f.name: getattr(flags, f.name) for f in dataclasses.fields(flags)}
    found = write(words[0], method=method or "simclr", **given)
    columns = ", ".join(found["columns"])
    shown = f"{found['out']}: {found['rows']} pictures of {found['image_size']} px, policy {found['policy']}\ncolumns: {columns}"
    print(json.dumps(found) if as_json else shown)
    return 0


def list_(argv: list[str]) -> int:
    """Selfsight list."""
    about = "What there is: methods, encoders, data, recipes, policies, protocols, formats.\n\nExample: selfsight list methods"
    words, as_json, _ = _arguments(argv, ResumeFlags(), "list", "[WHAT]", about)
    catalogues = ("methods", "encoders", "data", "recipes", "policies", "protocols", "formats")
    if words and words[0] not in catalogues:
        raise WrongUse(f"nothing to list under {words[0]!r}.{perhaps(words[0], set(catalogues))}")
    from selfsight import catalogue

    found = {what: catalogue.entries(what) for what in (words or catalogues)}
    if as_json:
        print(json.dumps(found[words[0]] if words else found))
        return 0
    for what, entries in found.items():
        if not words:
            print(f"{what}:")
        _table("name about", [[name, about] for name, about in entries.items()])
        if not words:
            print()
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "pretrain": pretrain, "resume": resume, "evaluate": evaluate, "embed": embed, "export": export, "report": report,
    "preview": preview, "check": check, "list": list_,
}  # fmt: skip
