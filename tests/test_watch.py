"""What a run leaves beside its numbers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from selfsight import pretraining
from selfsight.recipes import recipe
from selfsight.run import ProbeConfig


def test_the_siamese_family_keeps_its_matrices_at_each_probe(tmp_path: Path) -> None:
    run = replace(
        recipe("directpred", "tiny"), steps=6, epochs=2.0, log_every=1, quiet=True, threads=1, precision="fp32",
        probe=ProbeConfig(every=0.5, samples=64), out=str(tmp_path / "run"),
    )  # fmt: skip
    result = pretraining.start(run)
    assert result.code == 0
    files = sorted(file.name for file in (result.folder / "study").iterdir())
    assert files == ["0000000.npz", "0000004.npz", "0000006.npz"]
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    held = {line["step"]: line["validation"] for line in lines if "validation" in line}
    assert held.keys() == {4, 6}
    assert all(-2.01 < values["loss"] < 2.01 for values in held.values())
    first, last = (np.load(result.folder / "study" / files[i]) for i in (0, -1))
    assert np.array_equal(first["predictor"], np.eye(32, dtype=np.float32))
    assert np.linalg.eigvalsh(first["correlation"].astype(np.float64)).max() > 1e-3  # of the untrained network
    # the predictor is that of the running correlation: its eigenvalues are roots relative to the largest, plus epsilon
    state = torch.load(result.folder / "checkpoints/last.pt", weights_only=True)
    values = np.linalg.eigvalsh(state["method"]["correlation"].double().numpy()).clip(0)
    expected = np.sqrt(values / values.max()) + 0.1
    np.testing.assert_allclose(np.linalg.eigvalsh(last["predictor"].astype(np.float64)), expected, atol=1e-3)


def test_waiting_is_logged_as_a_share(tmp_path: Path) -> None:
    run = replace(
        recipe("simclr", "tiny"), steps=4, epochs=1.0, log_every=1, quiet=True, threads=1, precision="fp32",
        probe=ProbeConfig(every=-1), out=str(tmp_path / "run"),
    )  # fmt: skip
    folder = pretraining.start(run).folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    shares = [line["waiting"] for line in lines if "loss" in line]
    assert len(shares) == 4
    assert all(0 <= share <= 1 for share in shares)
    assert not (folder / "study").exists()  # SimCLR has nothing to study


def test_a_diverged_run_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    run = recipe("simclr", "tiny")
    run = replace(
        run, steps=12, epochs=9.0, checkpoint_every=1, log_every=12, quiet=True, threads=1, precision="fp32",
        optimizer=replace(run.optimizer, lr=1e30), schedule=replace(run.schedule, warmup_epochs=0.0),
        probe=ProbeConfig(every=-1), out=str(tmp_path / "run"),
    )  # fmt: skip
    result = pretraining.start(run)
    assert result.code == 1
    assert result.summary["health"] == "diverging"
    state = torch.load(result.folder / "checkpoints/last.pt", weights_only=True)
    assert all(torch.isfinite(x).all() for x in state["method"].values())
