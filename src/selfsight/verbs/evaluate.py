"""The verb `evaluate`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from selfsight.verbs.common import table, words_and_flags


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


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    about = (
        "Accuracy of frozen features. RUN is a run folder, a checkpoint, an encoder.safetensors, a baseline: `random` "
        "(an untrained --encoder) or `pixels`, features in an .npz, or the toy `two-moons`.\n\n"
        "Example: selfsight evaluate runs/photos --train labelled/train --test labelled/test --protocols knn,linear"
    )
    words, as_json, flags = words_and_flags(argv, EvaluateFlags(), "evaluate", "RUN", about)
    from selfsight import api
    from selfsight.run import read_yaml

    names = [p for p in flags.protocols.split(",") if p]
    settings = read_yaml(flags.settings, "--settings") if flags.settings.strip() else {}
    found = api.evaluate(words[0], **{**dataclasses.asdict(flags), "protocols": names, "settings": settings})
    if as_json:
        print(json.dumps(found))
    else:
        table("protocol top-1 top-5 details", [row for name, numbers in found.items() for row in _rows(name, numbers)])
    return 0


def _rows(name: str, numbers: dict[str, Any]) -> list[list[str]]:
    """A row, and one for each number of labels."""
    return [_row(name, numbers), *(_row(f"  {some['labels']}", some) for some in numbers.get("amounts", ()))]


def _row(name: str, numbers: dict[str, Any]) -> list[str]:
    first, top5 = numbers.get("top1"), numbers.get("top5")
    rest = ", ".join(f"{k} {v}" for k, v in numbers.items() if k not in ("top1", "top5") and not isinstance(v, list))
    return [name, *("" if value is None else f"{value:.2%}" for value in (first, top5)), rest]
