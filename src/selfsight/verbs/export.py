"""The verb `export`."""

from __future__ import annotations

import dataclasses
import json

from selfsight.verbs.common import words_and_flags


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """Flags of `export`."""

    format: str = "timm"
    """timm, torchvision, safetensors, onnx or huggingface (`selfsight list formats`)."""
    checkpoint: str | None = None
    """Which state of a run: best (by its --probe.monitor), last, or the number of a step that --export-every kept;
    default: the finished encoder."""
    out: str | None = None
    """The file, or the folder of huggingface; default: a name inside of the run folder, with --checkpoint in it."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    about = (
        "The encoder for other programs, read back and compared.\n\nExample: selfsight export runs/photos --format timm"
    )
    words, as_json, flags = words_and_flags(argv, ExportFlags(), "export", "RUN", about)
    from selfsight import formats

    path = formats.export(words[0], flags.format, flags.out, checkpoint=flags.checkpoint)
    lines = formats.usage(path, flags.format)
    if as_json:
        print(json.dumps({"out": str(path), "format": flags.format, "usage": lines}))
    else:
        print(f"{path} (read back: same features)", *lines, sep="\n")
    return 0
