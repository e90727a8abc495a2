"""Accuracies while a run trains: what they are, where they are told, and that training does not notice; the best state."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import selfsight
from selfsight import api, cli, distributed, measure, pretraining, verbs
from selfsight.checkpoint import load, load_encoder
from selfsight.errors import WrongUse
from selfsight.evaluate import logistic, ridge
from selfsight.recipes import recipe
from selfsight.report import report
from selfsight.run import ProbeConfig, Run
from selfsight.session import Session
from selfsight.tables import read_lines, read_table
from tiny import CPU, losses, same, state, tiny
from two import spawn

ALL = ("knn", "ridge", "linear")
OFF = ProbeConfig(every=-1)
STEPS = 6


def settings(name: str, folder: Path, probe: ProbeConfig, **changes: Any) -> Run[Any]:
    run = replace(recipe(name, "tiny"), steps=STEPS, epochs=9.0, log_every=1, quiet=True, threads=1, precision="fp32")
    return replace(run, probe=probe, out=str(folder), **changes)


def probed(every: float = 0.25, **changes: Any) -> ProbeConfig:
    """With all protocols at each second step (epochs have 8), on few pictures."""
    return ProbeConfig(every=every, bank=256, queries=64, samples=64, **{"protocols": ALL, **changes})


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without pictures and pages, which take most of the time."""
    monkeypatch.setattr(pretraining, "save_pictures", lambda session, folder: None)
    monkeypatch.setattr(pretraining, "write_report", lambda folder: None)


def curve(folder: Path) -> list[tuple[float, float]]:
    return [(line["loss"], line["gradient_norm"]) for line in read_lines(folder / "metrics.jsonl") if "loss" in line]


# ---------------------------------------------------------------------------------------------- training does not notice


@pytest.mark.parametrize("name", ["simclr", "byol", "swav", "mae", "dino"])  # batch norm, teachers, queue, transformer
def test_the_loss_curve_is_the_same_with_and_without(name: str, tmp_path: Path, bare: None) -> None:
    folders = [
        pretraining.start(settings(name, tmp_path / key, probe)).folder
        for key, probe in (("with", probed()), ("without", OFF))
    ]
    a, b = (curve(folder) for folder in folders)
    assert len(a) == STEPS
    assert a == b
    one, two = (load(folder / "checkpoints/last.pt") for folder in folders)
    assert same({"m": one.method, "o": one.optimizer}, {"m": two.method, "o": two.optimizer})
    assert (folders[0] / "encoder.safetensors").read_bytes() == (folders[1] / "encoder.safetensors").read_bytes()
    measured = [line["step"] for line in read_lines(folders[0] / "metrics.jsonl") if "linear" in line]
    assert measured == [0, 2, 4, 6]


def _work(folder: str) -> None:
    pretraining.save_pictures = pretraining.write_report = lambda *_: None  # type: ignore[assignment]
    for key, probe in (("with", probed(monitor="ridge")), ("without", OFF)):
        pretraining.start(settings("simclr", Path(folder) / key, probe, processes=2))
        distributed.barrier()


def test_the_loss_curve_is_the_same_on_two_processes(tmp_path: Path) -> None:
    spawn(_work, str(tmp_path))
    assert curve(tmp_path / "with") == curve(tmp_path / "without")
    assert len(curve(tmp_path / "with")) == STEPS
    lines = read_lines(tmp_path / "with/metrics.jsonl")
    assert [line["step"] for line in lines if "ridge" in line] == [0, 2, 4, 6]  # told once, not by each process
    assert all(line["ridge"]["bank"] == 256 and line["ridge"]["queries"] == 64 for line in lines if "ridge" in line)
    assert load(tmp_path / "with/checkpoints/best.pt").step == best(lines, "ridge")[0]


@pytest.mark.parametrize("name", ["simclr", "mae"])
def test_asking_leaves_modes_rng_and_buffers(name: str) -> None:
    run, data = tiny(name, probe=probed())
    s = Session(run, data, CPU)
    losses(s.run, (s.method, s.optimizer, s.train), 0, 2)
    next(m for m in s.method.modules() if not list(m.children())).eval()  # flags come back one by one
    modes, before, rng = [m.training for m in s.method.modules()], state((s.method, s.optimizer)), torch.get_rng_state()
    assert s.ask() == s.ask()
    assert modes == [m.training for m in s.method.modules()]
    assert torch.equal(rng, torch.get_rng_state())
    assert same(before, state((s.method, s.optimizer)))


# ---------------------------------------------------------------------------------------------- what is told, and where


def test_accuracies_are_those_of_the_protocols_on_frozen_features() -> None:
    run, data = tiny("simclr", probe=replace(probed(), bank=0, queries=0))
    s = Session(run, data, CPU)
    found = s.ask()
    assert list(found) == list(ALL)
    assert s.held is not None
    assert data.holdout is not None
    s.method.eval()
    with torch.no_grad():
        train, held = (
            torch.cat([s.method.encoder(p.plain(rows)) for rows in torch.arange(len(p)).split(256)])
            for p in (s.train, s.held)
        )
    labels, asked = data.train.labels, data.holdout.labels
    assert labels is not None
    assert asked is not None
    assert data.classes is not None
    for name, protocol in (("ridge", ridge), ("linear", logistic)):
        wanted = protocol(train, labels, held, asked, len(data.classes))
        assert found[name]["top1"] == pytest.approx(wanted["top1"], abs=0.02)  # the layout of memory rounds otherwise
        assert found[name]["strength"] == wanted["strength"]
        assert (found[name]["part"], found[name]["bank"], found[name]["queries"]) == ("holdout", len(train), len(held))
    assert s.ask(everything=True, test=True)["ridge"]["part"] == "test"


def test_an_encoder_that_diverged_has_no_linear_accuracy() -> None:
    run, data = tiny("simclr", probe=probed())
    s = Session(run, data, CPU)
    next(s.method.encoder.parameters()).data.fill_(torch.nan)
    assert list(s.ask()) == ["knn"]


def test_accuracies_are_logged_drawn_and_kept(tmp_path: Path) -> None:
    result = pretraining.start(settings("simclr", tmp_path / "run", probed()))
    folder = result.folder
    lines = read_lines(folder / "metrics.jsonl")
    results = json.loads((folder / "results.json").read_text())
    epochs, log = read_table(folder / "epochs.csv"), (folder / "log.txt").read_text()
    page = (folder / "report.html").read_text()
    for name in ALL:
        told = [(line["step"], line[name]["top1"]) for line in lines if name in line]
        assert [step for step, _ in told] == [0, 2, 4, 6]
        assert results["curves"][f"{name}.top1"] == {"step": [0, 2, 4, 6], "value": [value for _, value in told]}
        assert float(epochs[-1][name]) == told[-1][1]  # six steps are one epoch, not yet whole
        assert f"step 4  {name} {told[2][1]:.2%}" in log
        finals = [line[f"final_{name}"] for line in lines if f"final_{name}" in line]
        assert [entry["part"] for entry in finals] == ["holdout", "test"]
        assert result.summary[name] == finals[1]
    assert results["summary"]["ridge"] == result.summary["ridge"]
    drawn = json.loads(page.split('id="charts">')[1].split("</script>")[0])
    assert [c["data"][0]["x"] for c in drawn[1:4]] == [[0, 2, 4, 6]] * 3
    assert all(title in page for title in ("k-NN top-1", "(ridge regression)", "(logistic regression)"))
    said = api.describe_result(result)
    assert f"ridge         {result.summary['ridge']['top1']:.1%} on the test part" in said
    assert "linear   " in said


def test_without_protocols_a_run_is_complete_and_healthy_or_not(tmp_path: Path, bare: None) -> None:
    """T15, and the report of such a run."""
    result = pretraining.start(settings("simclr", tmp_path / "run", probed(protocols=(), monitor="rank")))
    assert result.code == 0
    assert {result.summary[name] for name in ALL} == {None}
    lines = read_lines(result.folder / "metrics.jsonl")
    assert not any("top1" in str(line) for line in lines if "validation" not in line and "loss" not in line)
    assert [line["step"] for line in lines if "health" in line] == [0, 2, 4, 6]
    report([result.folder], tmp_path / "page.html")
    assert json.loads((result.folder / "results.json").read_text())["finished"]


# ---------------------------------------------------------------------------------------------- the best state


def best(lines: list[dict[str, Any]], monitor: str) -> tuple[int, float]:
    """The first best step of a run by its own record."""
    after = [line for line in lines if line["step"]]
    if monitor == "loss":
        found = [(line["step"], line["validation"]["loss"]) for line in after if "validation" in line]
        return min(found, key=lambda entry: entry[1])
    if monitor == "rank":
        found = [(line["step"], line["features_rank"]) for line in after if "features_rank" in line]
    else:
        found = [(line["step"], line[monitor]["top1"]) for line in after if monitor in line]
    return max(found, key=lambda entry: entry[1])


@pytest.mark.parametrize("monitor", ["knn", "ridge", "linear", "loss", "rank"])
def test_the_best_checkpoint_is_the_best_by_its_monitor(monitor: str, tmp_path: Path, bare: None) -> None:
    result = pretraining.start(settings("simclr", tmp_path / "run", probed(every=0.125, monitor=monitor)))
    step, value = best(read_lines(result.folder / "metrics.jsonl"), monitor)
    saved = load(result.folder / "checkpoints/best.pt")
    assert saved.step == step
    assert result.summary["best"] == {"monitor": monitor, "value": pytest.approx(value), "step": step}
    last = load(result.folder / "checkpoints/last.pt")
    assert (last.extra["best"], last.extra["best_step"]) == (
        saved.extra["best"],
        step,
    )  # a resumed run compares with it
    assert best(read_lines(result.folder / "metrics.jsonl"), "loss")[1] < 10


def test_monitors_that_cannot_be_measured(tmp_path: Path, bare: None) -> None:
    with pytest.raises(WrongUse, match=r"add it to --probe.protocols \(knn ridge\)"):
        ProbeConfig(monitor="linear")
    for changes, words in (
        ({"holdout": 0.0}, "add --holdout 0.1"),
        ({"holdout": 32}, "a batch has 64 pictures, the hold-out part 32"),
    ):
        with pytest.raises(WrongUse, match=words):
            pretraining.start(settings("simclr", tmp_path / "no", probed(monitor="loss"), **changes))
    with pytest.raises(WrongUse, match="instdisc rests on what it keeps"):
        pretraining.start(settings("instdisc", tmp_path / "no", probed(monitor="loss")))
    assert not (tmp_path / "no").exists()
    result = pretraining.start(settings("simclr", tmp_path / "plain", probed(), holdout=0.0))
    assert result.summary["best"] is None
    assert "no checkpoints/best.pt: knn needs held-out pictures with labels" in (result.folder / "log.txt").read_text()
    assert not (result.folder / "checkpoints/best.pt").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose best state is not the last, with encoders kept at two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "write_report", lambda folder: None)
        patch.setattr(measure, "held_out", lambda method, held, run, step: {"loss": float(abs(step.index - 2))})
        run = settings("simclr", tmp_path_factory.mktemp("best") / "run", probed(every=0.125, monitor="loss"))
        folder = pretraining.start(replace(run, export_every=0.25)).folder
    assert load(folder / "checkpoints/best.pt").step == 3
    return folder


def features(folder: Path, path: Path, **how: Any) -> np.ndarray:
    return selfsight.embed(path, "shapes:16:40", **how).features


@pytest.mark.parametrize("which", ["best", "last", "2"])
def test_every_verb_takes_the_state_that_is_asked_for(
    which: str, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = {"2": "encoder-0000002.safetensors"}.get(which, f"{which}.pt")
    wanted = features(finished, finished / "checkpoints" / file)
    finished_one = features(finished, finished)
    assert np.array_equal(wanted, finished_one) == (which == "last")
    line = ["embed", str(finished), "--checkpoint", which, "--data", "shapes:16:40", "--out", str(tmp_path / "f.npz")]
    assert cli.run(line) == 0
    assert np.array_equal(np.load(tmp_path / "f.npz")["features"], wanted)
    line = [
        "export",
        str(finished),
        "--checkpoint",
        which,
        "--format",
        "safetensors",
        "--out",
        str(tmp_path / "e.safetensors"),
    ]
    assert cli.run(line) == 0
    assert np.array_equal(features(finished, tmp_path / "e.safetensors"), wanted)
    capfd.readouterr()
    assert verbs.run("evaluate", [str(finished), "--checkpoint", which, "--protocols", "ridge", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["ridge"]
    assert found["steps"] == {"best": 3, "last": STEPS, "2": 2}[which]
    assert found["test"].startswith("shapes")  # on the data of the run, as without the flag
    if which != "2":
        head = features(finished, finished, checkpoint=which, features="projector")
        assert np.array_equal(head, features(finished, finished / "checkpoints" / file, features="projector"))


def test_states_that_there_are_not(finished: Path, tmp_path: Path) -> None:
    for which in ("3", "worst"):
        with pytest.raises(WrongUse, match=rf"has no checkpoint '{which}' .*known: best, last, 2, 4, 6"):
            selfsight.evaluate(finished, checkpoint=which)
    with pytest.raises(WrongUse, match="needs a run folder"):
        selfsight.evaluate(finished / "encoder.safetensors", checkpoint="best")
    with pytest.raises(WrongUse, match="needs a run folder"):
        selfsight.evaluate("random", checkpoint="best")
    with pytest.raises(WrongUse, match="give the run folder, or a file of its checkpoints"):
        selfsight.embed(finished, "shapes:16:40", checkpoint="2", features="projector")
    net = load_encoder(finished / "checkpoints/best.pt")
    with pytest.raises(WrongUse, match="leave out --checkpoint"):
        selfsight.embed(net, "shapes:16:40", checkpoint="best")


def test_a_best_state_goes_on_as_any_checkpoint(finished: Path) -> None:
    """It is a whole one: trained on from it, a run ends where it ended."""
    saved = load(finished / "checkpoints/best.pt")
    run, data = tiny("simclr", steps=STEPS, epochs=9.0)
    s = Session(run, data, CPU)
    s.restore(saved, "best.pt")
    again = losses(s.run, (s.method, s.optimizer, s.train), saved.step, STEPS)
    assert again == [loss for loss, _ in curve(finished)][saved.step :]
