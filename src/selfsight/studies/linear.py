"""Linear accuracies of the encoders that a run kept, for the panel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfsight import checkpoint, evaluation
from selfsight.errors import WrongUse
from selfsight.report.panel import LINEAR
from selfsight.tables import whole


def measure(run: Path, protocol: str = "linear", device: str = "auto") -> list[dict[str, Any]]:
    """Ask every kept encoder of a run (`--export-every`) and its last one, on all parts; written to RUN/linear.json.

    Encoders that were asked with this protocol before are not asked again. Accuracies on the test part are for the eye:
    nothing is chosen by them.

    Returns:
        Ascending by step: `step`, `protocol`, and top-1 on `train`, `holdout`, `test` (None: there is no such part).

    Raises:
        WrongUse: no run folder, no encoder, or pictures without labels.
    """
    if not (run / "run.yaml").is_file():
        raise WrongUse(f"{str(run)!r} is no run folder (no run.yaml); give a folder that pretrain wrote")
    path = run / LINEAR
    known = {e["step"]: e for e in json.loads(path.read_text()) if e["protocol"] == protocol} if path.is_file() else {}
    kept = [*sorted((run / "checkpoints").glob("encoder-*.safetensors")), run / "encoder.safetensors"]
    there = [encoder for encoder in kept if encoder.is_file()]
    if not there:
        raise WrongUse(f"{run} has no encoder yet: let the run end with `selfsight resume {run}`")
    for encoder in there:
        step = int(checkpoint.load_encoder(encoder).header["steps"])
        if step in known:
            continue
        entry: dict[str, Any] = {"step": step, "protocol": protocol, "train": None, "holdout": None, "test": None}
        for held_out in (False, True):
            try:
                asked: dict[str, Any] = {
                    "train": str(run),
                    "held_out": held_out,
                    "protocols": [protocol],
                    "device": device,
                }
                found = evaluation.evaluate(encoder, **asked)[protocol]
            except WrongUse as error:
                if not held_out or "no hold-out part" not in str(error):
                    raise
                continue
            part = "holdout" if "(holdout," in found["test"] else "test"
            entry |= {"train": found["train_top1"], part: found["top1"]}
        known[step] = entry
        whole(path, json.dumps([known[at] for at in sorted(known)], indent=1) + "\n")
    return [known[at] for at in sorted(known)]
