"""The verb `evaluate`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from selfsight.verbs.common import EncoderFlags, encoder_or_name, table, words_and_flags

COMMON = ("train", "test", "features", "dim", "image_size", "flip", "standardised", "seed")  #: told once


@dataclasses.dataclass(frozen=True)
class EvaluateFlags(EncoderFlags):
    """Flags of `evaluate`."""

    train: str | None = None
    """Labelled pictures to learn from, or a run folder (its pictures); default: those of the run."""
    exclude: str | None = None
    """A list of pictures of --train to leave out, as `selfsight check` writes it; default: that of the run."""
    test: str | None = None
    """Labelled pictures to ask; default: the test part of --train, else a hold-out part."""
    held_out: bool = False
    """Ask the hold-out part of --train although there is a test part: to choose settings by."""
    checkpoint: str | None = None
    """Which state of a run: best (by its --probe.monitor), last, or the number of a step that --export-every kept;
    default: the finished encoder."""
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
    data_root: str | None = None
    """Where named sets live."""
    flip: bool = False
    """Features are the mean of those of a picture and of its mirror image."""
    device: str = "auto"
    """Where features are computed."""
    seed: int = 0
    """Seed of `random`, of hold-out parts, and of what protocols draw."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    about = (
        "What an encoder is worth: accuracy of its frozen features, of the whole network fine-tuned, of corrupted pictures, "
        "scores without labels. RUN is a run folder, a checkpoint, an encoder.safetensors, a baseline: `random` "
        "(an untrained --encoder) or `pixels`, a file of features, or the toy `two-moons`. Of other programs: timm:NAME or "
        "torchvision:NAME with --weights FILE, or a file of weights with --encoder NAME. Nothing is downloaded.\n\n"
        "Example: selfsight evaluate runs/photos --train labelled/train --test labelled/test --protocols knn,linear\n\n"
        "Example: selfsight evaluate timm:vit_small_patch16_224.dino --weights dino.pth --train labelled/train --test labelled/test"
    )
    words, as_json, flags = words_and_flags(argv, EvaluateFlags(), "evaluate", "RUN", about)
    from selfsight import api
    from selfsight.machine import keep_memory
    from selfsight.run import read_yaml

    names = [p for p in flags.protocols.split(",") if p]
    settings = read_yaml(flags.settings, "--settings") if flags.settings.strip() else {}
    target = encoder_or_name(words[0], flags, flags.seed)
    given = {k: v for k, v in dataclasses.asdict(flags).items() if k not in ("weights", "net", "normalise", "prefix")}
    keep_memory()
    found = api.evaluate(
        target, **{**given, "encoder": flags.encoder or "resnet18", "protocols": names, "settings": settings}
    )
    if as_json:
        print(json.dumps(found))
    else:
        table("protocol top-1 top-5 details", [row for name, numbers in found.items() for row in _rows(name, numbers)])
        first = next(iter(found.values()))
        print("\n" + _told({name: first[name] for name in COMMON if name in first}))
    return 0


def _rows(name: str, numbers: dict[str, Any]) -> list[list[str]]:
    """A row, and one for each number of labels, corruption, rate or way to vote."""
    tables = [value for value in numbers.values() if isinstance(value, list)]
    inner = [some for rows in tables for some in rows if isinstance(some, dict)]
    return [_row(name, numbers), *(_row(f"  {some.get('labels', some.get('name', ''))}", some) for some in inner)]


def _row(name: str, numbers: dict[str, Any]) -> list[str]:
    first, top5 = numbers.get("top1"), numbers.get("top5")
    rest = {k: v for k, v in numbers.items() if k not in COMMON and k not in ("top1", "top5", "name", "parameters")}
    return [name, *("" if value is None else f"{value:.2%}" for value in (first, top5)), _told(rest)]


def _told(numbers: dict[str, Any]) -> str:
    shown = {name: value for name, value in numbers.items() if value is not None and not isinstance(value, list | dict)}
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
