"""What a run writes: the same files with and without an interruption, whole at every moment."""

import csv
import io
import json
import math
import sys
import types
from typing import Any

import pytest
import torch

from selfsight.errors import WrongUse
from selfsight.tables import read_lines, read_table
from selfsight.track import Tracker

PER = 20  # steps of an epoch


def train(tracker, first, last, crash_at=None):
    """Steps first..last; a log from step 30 on, k-NN and health each epoch; everything but time depends on the step."""
    for at in range(first, last + 1):
        if at % 5 == 0:
            late = {"late": at * 2.0} if at >= 30 else {}
            tracker.step(
                at,
                epoch=at / PER,
                loss=torch.tensor(5.0 / at),
                lr=0.1 / at,
                views_per_second=99.0,
                seconds=at * 0.1,
                **late,
            )
        if at % PER == 0:
            tracker.measure(at, {"knn": {"top1": at / 1000, "k": 20}})
            tracker.measure(at, {"health": "healthy", "why": "fine", "std": 0.9})


def files(folder):
    return {name: (folder / name).read_text() for name in ("metrics.jsonl", "steps.csv", "epochs.csv")}


@pytest.mark.parametrize("checkpoint", [10, 20, 33, 40, 60])
@pytest.mark.parametrize("cut", [0, 7])
def test_an_interrupted_run_ends_as_an_unbroken_one(tmp_path, checkpoint, cut):
    with Tracker(tmp_path / "whole", quiet=True) as tracker:
        train(tracker, 1, 70)
    broken = tmp_path / "broken"
    tracker = Tracker(broken, quiet=True)
    train(tracker, 1, min(70, checkpoint + 14))  # ran on after its last checkpoint, then was killed: no close
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"step": 999, "loss": 4.2, "lr'[: 4 * cut])
    with Tracker(broken, resume_step=checkpoint + 1, quiet=True) as tracker:
        assert tracker.losses == [(at, pytest.approx(5.0 / at)) for at in range(5, checkpoint + 1, 5)]
        assert len(tracker.monitors) == checkpoint // PER
        assert all(entry == {"std": 0.9} for entry in tracker.monitors)
        train(tracker, checkpoint + 1, 70)
    assert files(broken) == files(tmp_path / "whole")


def test_tables(tmp_path):
    with Tracker(tmp_path, quiet=True) as tracker:
        train(tracker, 1, 50)
        assert len(read_table(tmp_path / "steps.csv")) == 10  # at once, not at the end
        assert [row["epoch"] for row in read_table(tmp_path / "epochs.csv")] == ["1", "2"]
    steps, epochs = read_table(tmp_path / "steps.csv"), read_table(tmp_path / "epochs.csv")
    assert [*steps[0]] == ["step", "epoch", "loss", "lr", "views_per_second", "seconds", "late"]
    assert [row["late"] for row in steps] == ["", "", "", "", "", "60.0", "70.0", "80.0", "90.0", "100.0"]
    assert [row["epoch"] for row in epochs] == ["1", "2", "3"]
    assert float(epochs[1]["loss"]) == pytest.approx(sum(5 / at for at in (25, 30, 35, 40)) / 4)
    assert float(epochs[1]["late"]) == pytest.approx(70)
    assert [row["knn"] for row in epochs] == ["0.02", "0.04", ""]
    assert float(epochs[1]["seconds"]) == pytest.approx(4)
    lines = [*csv.reader((tmp_path / "steps.csv").open())]
    assert {len(line) for line in lines} == {7}


def test_metrics_are_strict_json(tmp_path):
    with Tracker(tmp_path, quiet=True) as tracker:
        tracker.step(1, epoch=0.1, loss=math.nan, lr=0.1, top=torch.tensor(math.inf), n=torch.tensor(3), on=True)
        tracker.measure(1, {"knn": {"top1": torch.tensor(0.5, dtype=torch.float64)}, "names": ("a", None)})
        text = (tmp_path / "metrics.jsonl").read_text()  # flushed
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in text.splitlines())
    assert first == {"step": 1, "epoch": 0.1, "loss": None, "lr": 0.1, "top": None, "n": 3, "on": True}
    assert second == {"step": 1, "knn": {"top1": 0.5}, "names": ["a", None]}
    assert read_lines(tmp_path / "none.jsonl") == []


def test_results_have_every_curve(tmp_path):
    with Tracker(tmp_path, quiet=True) as tracker:
        train(tracker, 1, 40)
        tracker.results({"finished": True, "summary": {"final_loss": math.inf}})
    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert found["finished"] is True
    assert found["schema"] == 1
    assert found["summary"] == {"final_loss": None}
    assert found["curves"]["loss"]["step"] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert found["curves"]["lr"]["value"] == [0.1 / at for at in range(5, 41, 5)]
    assert found["curves"]["knn.top1"] == {"step": [20, 40], "value": [0.02, 0.04]}
    assert found["curves"]["std"]["value"] == [0.9, 0.9]
    assert [line["step"] for line in found["measurements"]] == [20, 20, 40, 40]
    assert not [*tmp_path.glob(".*")]  # nothing half-written is left


def test_the_log_and_the_console(tmp_path):
    shown = io.StringIO()
    with Tracker(tmp_path / "a", total=40, stream=shown) as tracker:
        tracker.log("start [bold]here[/bold]")
        for _ in range(3):
            tracker.warn("pictures are small")
        train(tracker, 1, 40)
    log = (tmp_path / "a" / "log.txt").read_text()
    for text in (log, shown.getvalue()):
        assert text.count("warning: pictures are small") == 1
        assert "start [bold]here[/bold]" in text
        assert "step 40/40  loss 0.125  lr 0.0025  99 views/s" in text
        assert "knn 4.00%" in text
        assert "healthy: fine" in text
    assert log[:2] == "20"
    assert log[19:21] == "  "
    quiet = io.StringIO()
    with Tracker(tmp_path / "b", quiet=True, stream=quiet) as tracker:
        tracker.log("kept")
        train(tracker, 1, 10)
    assert quiet.getvalue() == ""
    assert "kept" in (tmp_path / "b" / "log.txt").read_text()
    with Tracker(tmp_path / "b", resume_step=11, quiet=True) as tracker:
        tracker.log("again")
    assert "kept" in (tmp_path / "b" / "log.txt").read_text()


def test_a_terminal_gets_a_bar(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown = Terminal()
    with Tracker(tmp_path, total=40, stream=shown) as tracker:
        train(tracker, 1, 40)
    assert "40/40" in shown.getvalue()
    assert "loss 0.125" in shown.getvalue()


def test_an_error_is_in_the_log(tmp_path):
    def fail(tracker):
        with tracker:
            train(tracker, 1, 10)
            raise RuntimeError("no memory left")

    with pytest.raises(RuntimeError, match="no memory"):
        fail(Tracker(tmp_path, quiet=True))
    assert "ended by RuntimeError: no memory left" in (tmp_path / "log.txt").read_text()
    assert len(read_table(tmp_path / "epochs.csv")) == 1


def test_other_processes_write_nothing(tmp_path):
    with Tracker(tmp_path / "none", enabled=False, loggers=("wandb",)) as tracker:
        train(tracker, 1, 40)
        tracker.log("x")
        tracker.warn("x")
        tracker.results({})
    assert not (tmp_path / "none").exists()


def test_loggers_are_refused_with_the_way_out(tmp_path, monkeypatch):
    for name in ("tensorboard", "wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
        with pytest.raises(WrongUse, match=rf"pip install selfsight\[{name}\]"):
            Tracker(tmp_path / name, loggers=(name,), quiet=True)
    with pytest.raises(WrongUse, match="Perhaps you meant 'wandb'"):
        Tracker(tmp_path / "x", loggers=("wandbb",), quiet=True)


def test_wandb_and_mlflow_get_numbers_and_go_on(tmp_path, monkeypatch):
    seen: list[Any] = []

    def note(kind, given):
        seen.append((kind, given))
        return Run()

    class Run:
        id = "abc"
        info = types.SimpleNamespace(run_id="def")

        def log(self, values):
            seen.append(("wandb", values))

        def finish(self):
            seen.append(("wandb", "finish"))

    wandb = types.SimpleNamespace(init=lambda **given: note("init", given))
    mlflow = types.SimpleNamespace(
        start_run=lambda **given: note("start", given),
        log_params=lambda given: seen.append(("params", given)),
        log_metrics=lambda values, step: seen.append(("mlflow", step, values)),
        end_run=lambda: seen.append(("mlflow", "end")),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    config = {"method": {"name": "simclr"}, "seed": 3}
    with Tracker(tmp_path, loggers=("wandb", "mlflow"), config=config, quiet=True) as tracker:
        tracker.step(5, epoch=0.5, loss=1.5, lr=0.1, bad=math.nan)
        tracker.measure(5, {"knn": {"top1": 0.25}, "health": "healthy"})
    assert ("init", {"dir": str(tmp_path), "name": tmp_path.name, "config": config, "id": None, "resume": None}) in seen
    assert ("params", {"method.name": "simclr", "seed": "3"}) in seen
    assert ("wandb", {"epoch": 0.5, "loss": 1.5, "lr": 0.1, "step": 5}) in seen
    assert ("mlflow", 5, {"knn.top1": 0.25}) in seen
    assert seen[-2:] == [("wandb", "finish"), ("mlflow", "end")]
    seen.clear()
    with Tracker(tmp_path, resume_step=6, loggers=("wandb", "mlflow"), config=config, quiet=True):
        pass
    assert seen[0][1]["id"] == "abc"
    assert seen[1] == ("start", {"run_id": "def"})


def test_tensorboard_gets_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Tracker(tmp_path, loggers=("tensorboard",), quiet=True) as tracker:
        train(tracker, 1, 20)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("loss")] == [
        (5, 1.0),
        (10, 0.5),
        (15, 0.333),
        (20, 0.25),
    ]
    assert events.Scalars("knn.top1")[0].value == pytest.approx(0.02)
