"""The encoder as selfsight loads it."""

import copy
from pathlib import Path

from selfsight.checkpoint import Encoder, load_encoder, save_encoder
from selfsight.formats.common import compare


def write(encoder: Encoder, path: Path) -> None:
    """Weights of the bare encoder, and the header that rebuilds it."""
    save_encoder(path, encoder.net, encoder.header)
    own = copy.deepcopy(encoder.net) if encoder.header["encoder"] == "custom" else None
    compare(encoder, load_encoder(path, own), path)
