"""The verb `embed`."""

from __future__ import annotations

import dataclasses
import json

from selfsight.errors import WrongUse
from selfsight.verbs.common import EncoderFlags, encoder_or_name, words_and_flags


@dataclasses.dataclass(frozen=True)
class EmbedFlags(EncoderFlags):
    """Flags of `embed`."""

    data: str = ""
    """Pictures: a data name, folder, file or list."""
    out: str = ""
    """File: .npz, .npy (labels beside it), .csv or .parquet."""
    exclude: str | None = None
    """A list of pictures to leave out, as `selfsight check` writes it."""
    checkpoint: str | None = None
    """Which state of a run: best (by its --probe.monitor), last, or the number of a step that --export-every kept;
    default: the finished encoder."""
    features: str = "encoder"
    """Which layer's, as in `evaluate`."""
    flip: bool = False
    """Mean of the features of a picture and of its mirror image."""
    device: str = "auto"
    """Where features are computed."""
    data_root: str | None = None
    """Where named sets live."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    about = (
        "Features of pictures. RUN is a run folder or a file of one, or an encoder of another program, as in `evaluate`.\n\n"
        "Example: selfsight embed runs/photos --data ~/photos --out features.npz"
    )
    words, as_json, flags = words_and_flags(argv, EmbedFlags(), "embed", "RUN", about)
    if not flags.data or not flags.out:
        raise WrongUse("embed needs --data DATA and --out FILE (see `selfsight embed --help`)")
    from selfsight import api
    from selfsight.machine import keep_memory

    keep_memory()
    found = api.embed(
        encoder_or_name(words[0], flags), flags.data, flags.out, features=flags.features, image_size=flags.image_size,
        device=flags.device, data_root=flags.data_root, exclude=flags.exclude, flip=flags.flip, checkpoint=flags.checkpoint,
    )  # fmt: skip
    facts = {
        "out": flags.out,
        "pictures": len(found.features),
        "dim": found.features.shape[1],
        "labels": found.labels is not None,
    }
    print(json.dumps(facts) if as_json else f"{facts['pictures']} x {facts['dim']} features in {flags.out}")
    return 0
