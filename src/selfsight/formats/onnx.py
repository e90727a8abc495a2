"""A graph that onnxruntime and other programs run. Normalisation is part of it: pictures in 0..1 in, features out."""

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor

from selfsight.checkpoint import Encoder, atomic
from selfsight.errors import WrongUse
from selfsight.formats.common import compare

NEEDED = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2**31 - 2**24  #: bytes of weights in one file of this format


def check(encoder: Encoder) -> None:
    """WrongUse if a package is missing, or the file would be too large for the format."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise WrongUse(f"--format onnx needs the package {missing[0]}: pip install 'selfsight[onnx]'")
    size = sum(value.numel() * value.element_size() for value in encoder.net.state_dict().values())
    if size > LARGEST:
        raise WrongUse(
            f"{size / 2**30:.1f} GiB of weights do not fit into an ONNX file (2 GiB): choose --format safetensors"
        )


def write(encoder: Encoder, path: Path) -> None:
    """One file: `images` (B, C, S, S) float32 in 0..1, any B, S the encoder's image size; `features` (B, D)."""
    import onnx

    images = pictures(encoder, 2)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        _quiet("torch.onnx", "onnxscript", "onnx_ir"),
    ):
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            encoder.eval(), (images,), input_names=["images"], output_names=["features"], dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    for key in ("selfsight", "input"):
        text = json.dumps(encoder.header) if key == "selfsight" else "pictures in 0..1; normalisation is inside"
        model.metadata_props.add(key=key, value=text)
    atomic(path, lambda part: onnx.save_model(model, str(part)))
    for count in (2, 3):  # any number of pictures
        compare(encoder, lambda x: run(path, x), path, pictures(encoder, count))


def pictures(encoder: Encoder, count: int) -> Tensor:
    """Random ones in 0..1, (count, C, S, S), of the encoder's very size, which is the graph's."""
    side = int(encoder.header["image_size"])
    shape = (count, int(encoder.header["channels"]), side, side)
    return torch.rand(shape, generator=torch.Generator().manual_seed(count))


def run(path: Path, images: Tensor) -> Tensor:
    """Features (B, D) of pictures (B, C, S, S) in 0..1, by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])


@contextlib.contextmanager
def _quiet(*names: str):  # type: ignore[no-untyped-def]
    """Loggers that tell of every pass of the exporter."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
