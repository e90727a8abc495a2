"""The verb `export`."""

from __future__ import annotations

import dataclasses
import json

from selfsight.verbs.common import words_and_flags


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """Flags of `export`."""

    format: str = "timm"
    """timm or safetensors."""
    out: str | None = None
    """The file; default: RUN/encoder-FORMAT.safetensors."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    about = (
        "The encoder for other programs, read back and compared.\n\nExample: selfsight export runs/photos --format timm"
    )
    words, as_json, flags = words_and_flags(argv, ExportFlags(), "export", "RUN", about)
    from selfsight.formats import export as write

    path = write(words[0], flags.format, flags.out)
    print(json.dumps({"out": str(path), "format": flags.format}) if as_json else f"{path} (read back: same features)")
    return 0
