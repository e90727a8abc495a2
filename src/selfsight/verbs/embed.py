"""The verb `embed`."""

from __future__ import annotations

import dataclasses
import json

from selfsight.errors import WrongUse
from selfsight.verbs.common import words_and_flags


@dataclasses.dataclass(frozen=True)
class EmbedFlags:
    """Flags of `embed`."""

    data: str = ""
    """Pictures: a data name, folder, file or list."""
    out: str = ""
    """File: .npz, .csv or .parquet."""
    exclude: str | None = None
    """A list of pictures to leave out, as `selfsight check` writes it."""
    features: str = "encoder"
    """Which layer's, as in `evaluate`."""
    image_size: int = 0
    """Side of the pictures in pixels; 0: the run's."""
    device: str = "auto"
    """Where features are computed."""
    data_root: str | None = None
    """Where named sets live."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    about = "Features of pictures.\n\nExample: selfsight embed runs/photos --data ~/photos --out features.npz"
    words, as_json, flags = words_and_flags(argv, EmbedFlags(), "embed", "RUN", about)
    if not flags.data or not flags.out:
        raise WrongUse("embed needs --data DATA and --out FILE (see `selfsight embed --help`)")
    from selfsight import api

    found = api.embed(
        words[0], flags.data, flags.out, features=flags.features, image_size=flags.image_size, device=flags.device,
        data_root=flags.data_root, exclude=flags.exclude,
    )  # fmt: skip
    facts = {
        "out": flags.out,
        "pictures": len(found.features),
        "dim": found.features.shape[1],
        "labels": found.labels is not None,
    }
    print(json.dumps(facts) if as_json else f"{facts['pictures']} x {facts['dim']} features in {flags.out}")
    return 0
