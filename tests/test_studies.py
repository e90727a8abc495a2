"""Studies: what is done stays done, what was interrupted goes on, what failed is told; tables, tests, figures.

Cells are done in this process in place of a child (its start would be most of the time), but where a kill is the point.
"""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import stats

from selfsight import api, cli, pretraining
from selfsight import run as runs
from selfsight.errors import WrongUse
from selfsight.report.palette import COLOURS
from selfsight.report.panel import linear_points, panel
from selfsight.report.read import read_run
from selfsight.studies import compare, loop, settings, study, work
from selfsight.studies.statistics import headlines, paired, spread
from selfsight.track import Tracker

TINY = "--recipe tiny --threads 1 --precision fp32 --quiet"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, cells in this process, and runs without their pictures and pages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretraining, "save_pictures", lambda session, folder: None)
    monkeypatch.setattr(pretraining, "write_report", lambda folder: None)
    monkeypatch.setattr(loop.children, "run", lambda command, stdout=None: (work.main(*command[-2:]), 0))


def ask(line: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `selfsight LINE`."""
    capfd.readouterr()
    code = cli.run(shlex.split(line))
    out, err = capfd.readouterr()
    return code, out, err


# ---------------------------------------------------------------------------------------------- pure functions


def test_paired_tests_equal_scipys() -> None:
    ours, theirs = {0: 0.61, 1: 0.64, 2: 0.60, 3: 0.66, 4: 0.9}, {0: 0.58, 1: 0.60, 2: 0.61, 3: 0.60, 9: 0.1}
    a, b = [0.61, 0.64, 0.60, 0.66], [0.58, 0.60, 0.61, 0.60]  # the seeds that both have
    found = paired(ours, theirs)
    assert found["n"] == 4
    assert found["difference"] == pytest.approx(np.mean(a) - np.mean(b))
    assert found["t_p"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert found["wilcoxon_p"] == pytest.approx(stats.wilcoxon(np.subtract(a, b)).pvalue)


def test_paired_tests_by_hand() -> None:
    # differences 1, 2, 3: mean 2, deviation 1, t = 2 sqrt(3); of two degrees of freedom p = 1 - t / sqrt(t^2 + 2)
    t = 2 * 3**0.5
    found = paired({0: 3, 1: 5, 2: 7}, {0: 2, 1: 3, 2: 4})
    assert found["t_p"] == pytest.approx(1 - t / (t * t + 2) ** 0.5)
    assert found["wilcoxon_p"] == pytest.approx(2 / 2**3)  # all of one sign
    assert paired({0: 1.0}, {0: 0.5}) == {"difference": 0.5, "n": 1, "t_p": None, "wilcoxon_p": None}
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})["t_p"] is None  # nothing to test
    assert paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})["t_p"] == 0  # every seed says the same
    assert paired({0: 1.0}, {1: 1.0})["difference"] is None


def test_spread_and_headlines() -> None:
    assert spread({1: 0.5, 0: 0.25}) == {
        "mean": 0.375,
        "std": pytest.approx(0.125 * 2**0.5),
        "n": 2,
        "each": {"0": 0.25, "1": 0.5},
    }
    assert spread({0: 0.5})["std"] is None
    assert headlines("purity", {"purity": 0.25, "purity_cosine": 0.5}) == {"purity": 0.25}
    assert headlines("linear", {"top1": 0.5}) == {"linear": 0.5}
    few = {"amounts": [{"labels": "5 a class", "top1": 0.5}, {"labels": "1 %", "top1": 0.75}]}
    assert headlines("fewshot", few) == {"fewshot, 5 a class": 0.5, "fewshot, 1 %": 0.75}


def test_grids_are_read() -> None:
    run = api.settings("simclr", "tiny")
    found = settings.grid(["temperature=0.1,0.5", "optimizer.lr=1e-2", "views.scale=[0.2,1.0],[0.5,1]"], run)
    assert [axis.names for axis in found] == [("method.temperature",), ("optimizer.lr",), ("views.scale",)]
    every = list(settings.points(found))
    assert len(every) == 4
    assert [point["method.temperature"] for point in every] == [0.1, 0.1, 0.5, 0.5]
    changed = settings.changed(run, every[-1])
    assert changed.method.temperature == 0.5
    assert changed.optimizer.lr == 0.01
    assert changed.views.scale == (0.5, 1.0)
    assert changed.encoder == run.encoder
    assert settings.described(every[0]) == "temperature=0.1 lr=1e-2 scale=[0.2, 1.0]"
    together = settings.grid(["batch-size/accumulate=32/1,64/2"], run)
    assert list(settings.points(together)) == [{"batch_size": 32, "accumulate": 1}, {"batch_size": 64, "accumulate": 2}]
    assert settings.described({"optimizer.lr": 1, "net.lr": 2}) == "optimizer.lr=1 net.lr=2"


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["temprature=1"], "Perhaps you meant 'temperature'"),
        (["temperature"], "write --grid NAME=VALUE,VALUE"),
        (["temperature=1,1"], "a value twice"),
        (["temperature=1", "method.temperature=2"], "gives method.temperature twice"),
        (["seed=1,2"], "use --seeds"),
        (["method=byol"], "use `selfsight compare`"),
        (["batch_size/accumulate=32,64/2"], "is not 2 value"),
    ],
)
def test_wrong_grids_are_refused(texts: list[str], said: str) -> None:
    with pytest.raises(WrongUse, match=said):
        settings.grid(texts, api.settings("simclr", "tiny"))


def test_values_of_a_grid_are_checked_before_anything_runs(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = ask(f"sweep simclr {TINY} --grid temperature=0.1,cold --out s", capfd)
    assert code == 2
    assert "method.temperature: 'cold' is not a number" in err
    assert not Path("s").exists()


def test_specifications_of_methods() -> None:
    assert settings.specification("byol:momentum=0.99:optimizer.betas=[0.9,0.95]") == (
        "byol", {"momentum": 0.99, "optimizer.betas": [0.9, 0.95]},
    )  # fmt: skip
    assert settings.specification("mine.yaml") == ("mine.yaml", {})
    with pytest.raises(WrongUse, match="write METHOD:NAME=VALUE"):
        settings.specification("byol:momentum")
    with pytest.raises(WrongUse, match="twice"):
        settings.specification("byol:a=1:a=2")


@pytest.mark.parametrize(
    ("text", "amount"), [("50", 0.05), ("5/class", 5), ("1%", 0.01), ("0.25", 0.25), ("1/class", 1), ("0.5%", 0.005)]
)
def test_amounts_of_labels(text: str, amount: float) -> None:
    found = work.amount_of(text, 1000)
    assert found == pytest.approx(amount)
    assert isinstance(found, int) == ("class" in text)


@pytest.mark.parametrize("text", ["many", "-5", "0", "2.5", "100%", "5/pupil", "0.5/class", "5%/class", "1000"])
def test_wrong_amounts_are_refused(text: str) -> None:
    with pytest.raises(WrongUse, match="--amounts"):
        work.amount_of(text, 1000)


def test_every_total_comes_back_from_its_share() -> None:
    for count in (999, 1000, 4999, 45_000):
        for total in range(1, 300):
            assert round(count * work.amount_of(str(total), count)) == total


def test_names_of_cells() -> None:
    assert study.name_of("temperature=0.1 lr=0.05", 3) == "temperature=0.1_lr=0.05-s3"
    odd, other = study.name_of("scale=[0.2, 1.0]", 0), study.name_of("scale=(0.2, 1.0)", 0)
    assert odd != other
    assert "/" not in study.name_of("a/b", 0)
    assert len(study.name_of("x" * 500, 0)) < 120


def test_lengths_are_made_equal() -> None:
    methods = {name: api.settings(name, "tiny") for name in ("simclr", "byol")}
    assert compare.equal_length(methods, 0, []) == methods
    timed = compare.equal_length(methods, 2.5, [])
    assert {(run.max_minutes, run.epochs) for run in timed.values()} == {(2.5, compare.ENDLESS)}
    short = {"a": methods["simclr"], "b": api.settings("byol", "tiny", epochs=9.0)}
    with pytest.raises(WrongUse, match="give --epochs or --budget-minutes"):
        compare.equal_length(short, 0, [])
    stepped = compare.equal_length({"a": api.settings("simclr", "cifar10-cpu", steps=7)}, 0, ["steps"])["a"]
    assert (stepped.steps, stepped.epochs, stepped.max_minutes) == (7, 0.0, 0)


# ---------------------------------------------------------------------------------------------- the folder


def cells(temperature: float = 0.1, seeds: int = 1) -> list[study.Cell]:
    run = runs.to_dict(api.settings("simclr", "tiny", method_settings={"temperature": temperature}))
    return [study.Cell(f"a-s{seed}", "a", seed, "pretrain", {**run, "seed": seed}) for seed in range(seeds)]


def test_a_study_is_its_question() -> None:
    first = study.begin("sweep", study.Measure(), cells(), "s")
    assert study.begin("sweep", study.Measure(), cells(), "s") == first
    assert study.read(Path("s")) == first
    quiet = [study.Cell(**{**vars(cell), "run": {**(cell.run or {}), "quiet": True}}) for cell in cells()]
    assert study.begin("sweep", study.Measure(), quiet, "s") == first  # no number depends on it
    path = Path("s/study.yaml")  # of an older version, which had fewer settings
    plain = yaml.safe_load(path.read_text())
    del plain["cells"][0]["run"]["probe"]["samples"], plain["cells"][0]["run"]["checkpoint_activations"]
    path.write_text(yaml.safe_dump(plain))
    study.begin("sweep", study.Measure(), cells(), "s")
    with pytest.raises(WrongUse, match=r"temperature was 0.1, is 0.5.*choose another --out.*--extend"):
        study.begin("sweep", study.Measure(), cells(0.5), "s")
    with pytest.raises(WrongUse, match=r"cells.a-s1 is new"):
        study.begin("sweep", study.Measure(), cells(seeds=2), "s")
    with pytest.raises(WrongUse, match="keeps every cell that is there, but"):
        study.begin("sweep", study.Measure(), cells(0.5), "s", extend=True)
    more = study.begin("sweep", study.Measure(), cells(seeds=2), "s", extend=True)
    assert len(more.cells) == 2
    with pytest.raises(WrongUse, match="a-s1 is not asked for any more"):
        study.begin("sweep", study.Measure(), cells(), "s")
    with pytest.raises(WrongUse, match="of the kind sweep"):
        study.begin("labels", study.Measure(), cells(seeds=2), "s", extend=True)
    with pytest.raises(WrongUse, match="would be the same"):
        study.begin("sweep", study.Measure(), cells() * 2, "t")


def test_other_measurements_make_cells_undone() -> None:
    old = study.begin("sweep", study.Measure(), cells(), "s")
    old.write(old.cells[0], {"status": "done", "numbers": {"knn": 0.5}})
    assert old.done(old.cells[0])
    new = study.begin("sweep", study.Measure(("ridge",)), cells(), "s", extend=True)
    assert not new.done(new.cells[0])


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thing").write_text("mine")
    with pytest.raises(WrongUse, match="holds no study"):
        study.begin("sweep", study.Measure(), cells(), "full")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/study.yaml").write_text("kind: [")
    with pytest.raises(WrongUse, match="not a readable study"):
        study.begin("sweep", study.Measure(), cells(), "bad")
    named = study.begin("sweep", study.Measure(), cells(), None)
    assert named.folder.parent == Path("studies")
    assert study.begin("sweep", study.Measure(), cells(), None).folder == named.folder
    assert study.begin("sweep", study.Measure(), cells(0.2), None).folder != named.folder


def test_a_cell_is_held_by_one(capfd: pytest.CaptureFixture[str]) -> None:
    asked = study.begin("sweep", study.Measure(), cells(), "s")
    with asked.alone(asked.cells[0]) as mine, asked.alone(asked.cells[0]) as yours:
        assert mine
        assert not yours
        assert work.do(asked, asked.cells[0]) == work.BUSY
        said: list[str] = []
        assert loop.work(asked, said.append) == 0
        assert said[-1].endswith("another process is at it")
    assert loop.BUSY == work.BUSY
    assert asked.record(asked.cells[0]) is None


def test_a_cell_that_was_killed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = study.begin("sweep", study.Measure(), cells(seeds=2), "s")
    monkeypatch.setattr(loop.children, "run", lambda command, stdout=None: (-9, 0))
    said: list[str] = []
    assert loop.work(asked, said.append) == 0
    assert (asked.record(asked.cells[1]) or {})["error"] == "killed by SIGKILL, perhaps for want of memory"
    assert said[-1].endswith("failed: killed by SIGKILL, perhaps for want of memory")
    monkeypatch.setattr(loop.children, "run", lambda command, stdout=None: (143, signal.SIGTERM))
    assert loop.work(asked, said.append) == 143
    assert "give the same command to go on" in said[-1]
    with pytest.raises(WrongUse, match="cells 0 to 1"):
        loop.work_alone(asked, 2)


# ---------------------------------------------------------------------------------------------- compare

COMPARE = f"compare --methods simclr,byol:momentum=0.8 {TINY} --epochs 0.5 --seeds 2 --protocols knn,ridge --out c"


def inked(path: Path, left: float = 0, right: float = 1) -> int:
    """Number of colours in a part of a picture."""
    picture = np.array(Image.open(path).convert("RGB"))
    width = picture.shape[1]
    return len(np.unique(picture[:, int(left * width) : int(right * width)].reshape(-1, 3), axis=0))


def test_methods_side_by_side(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = ask(f"{COMPARE} --json", capfd)
    assert code == 0, err
    found = json.loads(out)
    assert found["complete"]
    assert {row["row"]: row["source"] for row in found["rows"]} == {
        "simclr": "pretrain", "byol momentum=0.8": "pretrain", "untrained fastnet-tiny": "untrained", "pixels": "pixels",
    }  # fmt: skip
    rows = {row["row"]: row for row in found["rows"]}
    assert {row["steps"] for row in found["rows"][:2]} == {4}
    assert found["parts"]["test"].endswith("(test, 128)")
    # the run really had the setting, and its numbers are those of `evaluate`
    plain = yaml.safe_load(Path("c/runs/byol_momentum=0.8-s1/run.yaml").read_text())
    assert plain["method"]["momentum"] == 0.8
    assert plain["seed"] == 1
    again = api.evaluate("c/runs/simclr-s1", protocols=["knn", "ridge"], seed=1)
    assert rows["simclr"]["numbers"]["knn"]["each"]["1"] == again["knn"]["top1"]
    assert rows["simclr"]["numbers"]["ridge"]["each"]["1"] == again["ridge"]["top1"]
    # baselines: the run's own first encoder, and pixels of the same parts
    lines = [json.loads(line) for line in Path("c/runs/simclr-s0/metrics.jsonl").read_text().splitlines()]
    first = api.evaluate("c/runs/untrained_fastnet-tiny-s0", protocols=["knn"], held_out=True)["knn"]
    assert first["top1"] == next(line["knn"]["top1"] for line in lines if "knn" in line)
    pixels = api.evaluate("pixels", train="c/runs/simclr-s1", protocols=["ridge"])["ridge"]
    assert rows["pixels"]["numbers"]["ridge"]["each"]["1"] == pixels["top1"]
    assert pixels["train"] == again["ridge"]["train"]
    # tests over seeds
    best = found["reference"]
    assert best == found["rows"][0]["row"]
    other = found["rows"][1]
    a, b = ([row["numbers"]["knn"]["each"][seed] for seed in "01"] for row in (other, rows[best]))
    test = other["versus"]["knn"]
    assert test["difference"] == pytest.approx(np.mean(a) - np.mean(b))
    if len({round(x - y, 12) for x, y in zip(a, b)}) > 1:
        assert test["t_p"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    # files
    with Path("c/table.csv").open() as file:
        table = {row["row"]: row for row in csv.DictReader(file)}
    assert float(table["simclr"]["ridge mean"]) == rows["simclr"]["numbers"]["ridge"]["mean"]
    assert float(table["simclr"]["ridge std"]) == rows["simclr"]["numbers"]["ridge"]["std"]
    text = Path("c/table.md").read_text()
    assert f"| row | knn | ridge | knn against {best} | steps | minutes | verdict |" in text
    mean, std = (100 * rows["simclr"]["numbers"]["knn"][name] for name in ("mean", "std"))
    assert f"| simclr | {mean:.2f} ± {std:.2f} % |" in text
    assert "sample deviation over 2 seeds" in text
    assert "(test, 128); learnt from" in text
    assert len(Path("c/results.jsonl").read_text().splitlines()) == 8
    assert json.loads(Path("c/results.json").read_text()) == found
    assert min(inked(Path("c/figure.png"), i / 3, (i + 1) / 3) for i in range(3)) > 20
    # again: nothing is done, the same answer, also as a table against another row
    monkeypatch.setattr(loop.children, "run", lambda *a, **k: pytest.fail("a cell was done twice"))
    code, out, err = ask(f"{COMPARE} --json", capfd)
    assert code == 0
    assert json.loads(out) == found
    assert err.count("done already") == 8
    code, out, _ = ask(f"{COMPARE} --baseline pixels", capfd)
    assert code == 0
    assert "knn against pixels" in out
    # another question
    code, _, err = ask(COMPARE.replace("--epochs 0.5", "--epochs 1"), capfd)
    assert code == 2
    assert "c holds another study (cells." in err
    assert "epochs was 0.5, is 1.0" in err
    code, _, err = ask(COMPARE.replace("--seeds 2", "--seeds 1"), capfd)
    assert code == 2
    assert "not asked for any more" in err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"compare {TINY}", "--methods names none"),
        (f"compare --methods simclr,simclr {TINY}", "has simclr twice"),
        (f"compare --methods simclr,byl {TINY}", "Perhaps you meant 'byol'"),
        (f"compare --methods simclr:momentun=1 {TINY}", "simclr has no setting 'momentun'"),
        (f"compare --methods simclr {TINY} --protocols knm", "unknown protocol 'knm'"),
        (f"compare --methods simclr {TINY} --seeds 0", "--seeds is 0"),
        (f"compare --methods simclr {TINY} --max-minutes 1", "give --budget-minutes"),
        (f"compare --methods simclr {TINY} --budget-minutes -1", "must not be negative"),
        (f"compare --methods simclr {TINY} --baseline byol", "is no row of this study"),
        (f"compare --methods simclr {TINY} --epoch 3", "unknown flag --epoch"),
        (f"compare --methods simclr {TINY} --cell 99", "cells 0 to 8"),
        ("sweep --grid a=1", "takes a METHOD or a RECIPE"),
        (f"sweep simclr {TINY}", "give a grid"),
        (f"sweep simclr {TINY} --grid", "--grid needs a value"),
        ("sweep simclrr --grid a=1", "Perhaps you meant 'simclr'"),
        ("labels --amounts 5", "takes a RUN or a METHOD"),
        ("labels . --amounts 5", ". does not say which pictures it saw: give --train DATA --test DATA"),
        (f"labels simclr {TINY} --amounts few", "--amounts 'few'"),
        (f"labels simclr {TINY} --protocols knn", "no protocol for amounts of labels"),
        ("labels nosuch --amounts 5", "nosuch"),
        ("panel nowhere", "is no run folder"),
    ],
)
def test_mistakes_are_said_in_one_line(line: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = ask(line, capfd)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_failed_cell_is_recorded_and_the_others_go_on(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = pretraining.start

    def broken(run: Any, encoder: Any = None) -> Any:
        if run.method_name == "simclr":
            raise RuntimeError("out of\nluck")
        return start(run, encoder)

    monkeypatch.setattr(pretraining, "start", broken)
    line = f"compare --methods simclr,byol {TINY} --steps 2 --seeds 1 --protocols ridge --out f"
    code, out, err = ask(f"{line} --json", capfd)
    assert code == 1
    found = json.loads(out)
    assert not found["complete"]
    assert found["failed"] == [{"cell": 2, "name": "simclr-s0", "error": "RuntimeError: out of luck"}]
    assert [row["row"] for row in found["rows"] if row["source"] == "pretrain"] == ["byol"]
    assert "simclr-s0: failed: RuntimeError: out of luck" in err
    assert "failed: simclr-s0 (cell 2): RuntimeError: out of luck" in Path("f/table.md").read_text()
    assert "One seed: no deviation and no test" in Path("f/table.md").read_text()
    monkeypatch.setattr(pretraining, "start", start)
    code, out, err = ask(f"{line} --json", capfd)  # failed ones are tried again, and only they
    assert code == 0
    assert err.count("done already") == 3
    assert {row["steps"] for row in json.loads(out)["rows"] if "steps" in row} == {2}


def test_a_diverged_run_is_a_failed_cell(capfd: pytest.CaptureFixture[str]) -> None:
    line = f"sweep simclr {TINY} --grid optimizer.lr=0.1,1e30 --steps 12 --log-every 1 --probe.every -1 --out d"
    code, out, _ = ask(f"{line} --json", capfd)
    assert code == 1
    found = json.loads(out)
    assert [row["row"] for row in found["rows"]] == ["lr=0.1"]
    assert "training failed" in found["failed"][0]["error"]


def test_minutes_become_steps(capfd: pytest.CaptureFixture[str]) -> None:
    line = f"compare --methods simclr {TINY} --budget-minutes 0.03 --seeds 1 --protocols ridge --probe.every -1 --out b --json"
    code, out, err = ask(line, capfd)
    assert code == 0, err
    plain = yaml.safe_load(Path("b/runs/simclr-s0/run.yaml").read_text())
    row = next(row for row in json.loads(out)["rows"] if row["row"] == "simclr")
    assert row["steps"] == plain["steps"] < 1e5
    assert row["seconds"] < 10
    assert "0.03 minutes each" in Path("b/table.md").read_text()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("compare --methods simclr --protocols knn", "photos has no labels to measure by"),
        ("sweep simclr --grid temperature=0.1,0.2", "photos has no labels to measure by"),
    ],
)
def test_pictures_without_labels_are_refused_before_training(
    line: str, said: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(70):
        noise = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"photos/{i}.png")
    code, out, err = ask(f"{line} {TINY} --holdout auto --data photos --seeds 1 --out u --json", capfd)
    assert code == 1
    failed = json.loads(out)["failed"]
    assert said in failed[-1]["error"], err
    assert not any((tmp_path / f"u/runs/{some['name']}/metrics.jsonl").exists() for some in failed)


def test_many_rows_fit_into_a_figure(tmp_path: Path) -> None:
    run = runs.to_dict(api.settings("simclr", "tiny"))
    every = [
        study.Cell(study.name_of(row, seed), row, seed, "pretrain", run)
        for seed in range(3)
        for row in ("a very long name=of a method/with=settings $x$", *(f"method {i}" for i in range(29)))
    ]
    asked = study.begin("compare", study.Measure(("knn", "linear")), every, "many")
    for i, cell in enumerate(every):
        numbers = {"knn": 0.3 + i / 200, "linear": 0.9 - i / 200}
        found = {"knn": {"test": "shapes (test, 9)"}}
        asked.write(
            cell, {"status": "done", "numbers": numbers, "found": found, "training": {}, "machine": {}, "day": "d"}
        )
    told = compare.outcome(asked)
    assert told.complete
    assert len(told.tables[0].rows) == 30
    height, width = np.array(Image.open("many/figure.png").convert("L")).shape
    assert height > 1500
    assert width > 1000


# ---------------------------------------------------------------------------------------------- sweep

SWEEP = f"sweep simclr {TINY} --grid temperature=0.1,0.5 --grid batch_size/accumulate=64/1,128/2 --steps 4 --out w"


def test_a_grid_is_ranked_by_held_out_pictures(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = ask(f"{SWEEP} --top 2 --show-test --json", capfd)
    assert code == 0, err
    found = json.loads(out)
    rows = found["rows"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    held = [row["numbers"]["knn"]["mean"] for row in rows]
    assert held == sorted(held, reverse=True)
    for row in rows:
        folder = Path("w/runs") / study.name_of(row["row"], 0)
        summary = json.loads((folder / "results.json").read_text())["summary"]
        assert row["numbers"]["knn"]["mean"] == summary["holdout"]["top1"]
        assert row["numbers"]["test"]["mean"] == summary["test"]["top1"]
        plain = yaml.safe_load((folder / "run.yaml").read_text())
        assert plain["method"]["temperature"] == row["point"]["method.temperature"]
        assert (plain["batch_size"], plain["accumulate"]) == (row["point"]["batch_size"], row["point"]["accumulate"])
    # the difference between the batches
    by = {
        (row["point"]["method.temperature"], row["point"]["batch_size"]): row["numbers"]["knn"]["mean"] for row in rows
    }
    assert {
        group["point"]["method.temperature"]: group["difference"] for group in found["batch_difference"]
    } == pytest.approx({t: by[t, 128] - by[t, 64] for t in (0.1, 0.5)})
    text = Path("w/table.md").read_text()
    assert "| rank | temperature | batch_size | accumulate | knn, hold-out | test k-NN | steps | verdict |" in text
    assert "| temperature | batch_size=64 accumulate=1 | batch_size=128 accumulate=2 | last - first |" in text
    with Path("w/table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(line["knn mean"]) for line in table] == held
    assert [line["rank"] for line in table] == ["1", "2", "3", "4"]
    assert inked(Path("w/figure.png")) > 20
    # without the flag, test accuracies are nowhere
    code, out, _ = ask(f"{SWEEP} --top 2 --collect", capfd)
    assert code == 0
    assert "test k-NN" not in out + Path("w/table.md").read_text() + Path("w/table.csv").read_text()
    assert len([line for line in out.splitlines() if line.strip()[:2] in ("1 ", "2 ", "3 ", "4 ")]) == 2  # the top


def test_a_sweep_by_another_protocol_asks_held_out_pictures(capfd: pytest.CaptureFixture[str]) -> None:
    line = "sweep simclr-tiny --threads 1 --precision fp32 --quiet --grid temperature=0.2 --steps 2 --protocols ridge --out p"
    code, out, _ = ask(f"{line} --json", capfd)
    assert code == 0
    found = json.loads(out)
    assert found["ranked_by"] == "ridge, hold-out"
    assert "(holdout, 128)" in found["parts"]["test"]
    again = api.evaluate("p/runs/temperature=0.2-s0", protocols=["ridge"], held_out=True)
    assert found["rows"][0]["numbers"]["ridge"]["mean"] == again["ridge"]["top1"]


def test_a_job_array_does_a_cell_in_each_task(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = f"sweep simclr {TINY} --grid temperature=0.1,0.5 --steps 2 --probe.every -1 --out 'my grid'"
    code, out, err = ask(f"{line} --print-slurm", capfd)
    assert code == 0
    assert not err
    assert "#SBATCH --array=0-1\n" in out
    assert f"#SBATCH --output={tmp_path}/my grid/slurm/%A_%a.log" in out
    assert "#SBATCH --signal=B:TERM@120" in out
    (tmp_path / "job.sh").write_text(out)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    task = subprocess.run(
        ["bash", str(tmp_path / "job.sh")], cwd=elsewhere, env={**os.environ, "SLURM_ARRAY_TASK_ID": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert task.returncode == 0, task.stderr
    asked = study.read(tmp_path / "my grid")
    assert [asked.done(cell) for cell in asked.cells] == [False, True]
    code, out, err = ask(f"{line} --collect", capfd)  # the other one is missing
    assert code == 1
    assert "1 of 2 cells are not done: 0" in err
    code, out, _ = ask(f"{line} --cell 0 --json", capfd)
    assert code == 0
    assert json.loads(out)["row"] == "temperature=0.1"
    code, out, _ = ask(f"{line} --collect --json", capfd)
    assert code == 0
    assert len(json.loads(out)["rows"]) == 2


def test_a_killed_study_goes_on_to_the_same_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = (
        f"sweep simclr {TINY} --grid temperature=0.1,0.5 --epochs 8 --log-every 1 --checkpoint-every 1 --probe.every 20"
    )
    code, out, _ = ask(f"{line} --out whole --json", capfd)
    assert code == 0
    whole = json.loads(out)
    command = [sys.executable, "-m", "selfsight", *shlex.split(f"{line} --out broken")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = tmp_path / "broken/runs/temperature=0.1-s0"
    limit = time.monotonic() + 200
    while time.monotonic() < limit and process.poll() is None:
        if (first / "checkpoints/last.pt").is_file() and (first / "metrics.jsonl").read_text().count('"loss"') > 5:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "interrupted in temperature=0.1-s0: give the same command to go on" in err
    assert not json.loads((first / "results.json").read_text())["finished"]
    assert not list((tmp_path / "broken/cells").glob("*.json"))
    code, out, err = ask(f"{line} --out broken --json", capfd)
    assert code == 0
    assert "temperature=0.1-s0: goes on" in err
    assert [row["numbers"] for row in json.loads(out)["rows"]] == [row["numbers"] for row in whole["rows"]]
    ours, theirs = (
        (tmp_path / name / "runs/temperature=0.1-s0/encoder.safetensors").read_bytes() for name in ("broken", "whole")
    )
    assert ours == theirs


def test_a_folder_without_a_run_is_made_anew() -> None:
    asked = study.begin("sweep", study.Measure(), cells(), "s")
    folder = asked.path(asked.cells[0])
    folder.mkdir(parents=True)
    (folder / ".run.yaml.123.part").write_text("method:")  # a process was killed while it wrote
    run = runs.from_dict(
        {**(asked.cells[0].run or {}), "steps": 2, "threads": 1, "quiet": True, "probe": {"every": -1}}
    )
    assert work.train(run, folder)["steps"] == 2
    assert work.train(run, folder)["steps"] == 2  # finished: as it was


# ---------------------------------------------------------------------------------------------- labels


def test_accuracy_by_number_of_labels(capfd: pytest.CaptureFixture[str]) -> None:
    assert ask(f"pretrain simclr {TINY} --epochs 2 --out runs/a", capfd)[0] == 0
    line = "labels runs/a --amounts 20,2/class,25% --seeds 2 --out l"
    code, out, err = ask(f"{line} --json", capfd)
    assert code == 0, err
    found = json.loads(out)
    assert [row["row"] for row in found["rows"]] == ["a", "untrained fastnet-tiny"]
    assert found["labels"] == {"fewshot, 20": 20, "fewshot, 2/class": 20, "fewshot, 25%": 128}
    # by hand: the draw of the second seed, from the run's pictures
    again = api.evaluate("runs/a", protocols=["fewshot"], settings={"fewshot": {"amounts": [2], "draws": 1}}, seed=1)
    each = found["rows"][0]["numbers"]["fewshot, 2/class"]["each"]
    assert each["1"] == again["fewshot"]["amounts"][0]["top1"]
    assert set(each) == {"0", "1"}
    assert (
        Path("l/runs/untrained_fastnet-tiny-s0/encoder.safetensors").read_bytes()
        != Path("l/runs/untrained_fastnet-tiny-s1/encoder.safetensors").read_bytes()
    )
    assert inked(Path("l/figure.png")) > 20
    assert "| encoder | fewshot, 20 | fewshot, 2/class | fewshot, 25% |" in Path("l/table.md").read_text()
    with Path("l/table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert float(table[0]["fewshot, 20 mean"]) == found["rows"][0]["numbers"]["fewshot, 20"]["mean"]
    code, _, err = ask(f"{line} --epochs 3", capfd)
    assert code == 2
    assert "--epochs is for a METHOD that is trained here" in err
    # a method is trained here, once for each seed; pictures may be others
    code, out, err = ask(
        f"labels simclr {TINY} --steps 2 --amounts 3/class --seeds 1 --train shapes:16:200 --out m --json", capfd
    )
    assert code == 0, err
    other = json.loads(out)
    assert [row["row"] for row in other["rows"]] == ["simclr", "untrained fastnet-tiny"]
    assert other["labels"] == {"fewshot, 3/class": 30}
    assert "shapes:16:200" in other["parts"]["train"]


def test_fine_tuning_by_number_of_labels(capfd: pytest.CaptureFixture[str]) -> None:
    line = (
        f"labels simclr {TINY} --steps 2 --probe.every -1 --amounts 20,4/class --seeds 1 --protocols fewshot,finetune "
        "--settings 'finetune: {epochs: 2, batch_size: 16}' --out t --json"
    )
    code, out, err = ask(line, capfd)
    assert code == 0, err
    found = json.loads(out)
    assert found["labels"] == {"fewshot, 20": 20, "fewshot, 4/class": 40, "finetune, 20": 20, "finetune, 4/class": 40}
    again = api.evaluate(
        "t/runs/simclr-s0", protocols=["finetune"], settings={"finetune": {"epochs": 2, "batch_size": 16, "labels": 4}}
    )["finetune"]
    assert found["rows"][0]["numbers"]["finetune, 4/class"]["mean"] == again["top1"]
    assert not list(Path("t/features").iterdir())  # features of encoders that the study made can be made again


def test_pixels_are_left_out_of_protocols_that_train_a_network() -> None:
    measure = study.Measure(("finetune",))
    cell = study.Cell("pixels-s0", "pixels", 0, "pixels", runs.to_dict(api.settings("simclr", "tiny")))
    assert work.measured(measure, cell, "nowhere", None, Path("features")) == {}


def test_a_protocol_with_an_amount_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    def tuned(target: Any, amounts: Any, settings: Any, asked: Any, features: Any) -> dict[str, Any]:
        rows = [{"labels": text, "rows": int(text), "top1": int(text) / 100} for text in amounts]
        return {"amounts": rows, "protocol": f"{Path(target).name} {asked['seed']}"}

    monkeypatch.setitem(work.LABELLED, "tuned", tuned)
    measure = study.Measure(("tuned",), amounts=("5", "10"))
    cell = study.Cell("a-s4", "a", 4, "run", target="runs/a")
    found = work.measured(measure, cell, "runs/a", None, Path("features"))
    assert found["tuned"]["protocol"] == "a 4"
    assert headlines("tuned", found["tuned"]) == {"tuned, 5": 0.05, "tuned, 10": 0.1}


# ---------------------------------------------------------------------------------------------- panel


def test_the_panel_of_several_runs(capfd: pytest.CaptureFixture[str]) -> None:
    for name, method in (("x", "simclr"), ("y", "byol")):
        line = f"pretrain {method} {TINY} --epochs 2 --log-every 1 --probe.every 1 --export-every 1 --out {name}/run"
        assert ask(line, capfd)[0] == 0
    code, out, _ = ask("panel x/run y/run --measure --protocol ridge --out p.png --json", capfd)
    assert code == 0
    found = json.loads(out)
    assert [entry["step"] for entry in found["linear"]["x/run"]] == [8, 16]
    last = found["linear"]["x/run"][-1]
    for held_out, part in ((True, "holdout"), (False, "test")):
        asked = api.evaluate("x/run", protocols=["ridge"], held_out=held_out)["ridge"]
        assert last[part] == asked["top1"]
        assert last["train"] == asked["train_top1"]
    run = read_run(Path("x/run"))
    assert linear_points(run, "test") == [(8, found["linear"]["x/run"][0]["test"]), (16, last["test"])]
    picture = np.array(Image.open("p.png").convert("RGB"))
    assert picture.shape[0] > 1000
    colours = [tuple(bytes.fromhex(colour[1:])) for colour in COLOURS[:2]]
    assert all((picture == colour).all(-1).sum() > 500 for colour in colours)
    # what is there is not measured again
    path = Path("x/run/linear.json")
    path.write_text(json.dumps([{**last, "step": 8, "test": 0.5}, {**last, "test": 0.25}]))
    code, out, _ = ask("panel x/run --measure --protocol ridge --json", capfd)
    assert [entry["test"] for entry in json.loads(out)["linear"]["x/run"]] == [0.5, 0.25]
    assert Path("x/run/figures/panel.png").is_file()


def test_the_panel_reads_what_a_run_measured_itself(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "run.yaml").write_text("method: {name: simclr}")
    with Tracker(folder, quiet=True) as tracker:
        for step in range(1, 4):
            tracker.step(step, epoch=step / 2, loss=1.0, top1=0.5)
        tracker.measure(2, {"linear": {"top1": 0.25, "train_top1": 0.5, "part": "holdout"}})
        tracker.measure(2, {"ridge": {"top1": 0.75, "train_top1": 0.875, "part": "holdout"}})  # `linear` counts more
        tracker.measure(3, {"ridge": {"top1": 0.375, "train_top1": 0.75, "part": "holdout"}})
        tracker.measure(3, {"final_ridge": {"top1": 0.5, "train_top1": 0.625, "part": "holdout"}})
        tracker.measure(3, {"final_ridge": {"top1": 0.125, "train_top1": 0.625, "part": "test"}})
    run = read_run(folder)
    assert linear_points(run, "train") == [(3, 0.75), (2, 0.5)]
    assert linear_points(run, "holdout") == [(2, 0.25), (3, 0.375)]
    assert linear_points(run, "test") == [(3, 0.125)]
    assert panel([folder], tmp_path / "p.png").is_file()
    with pytest.raises(WrongUse, match="at least one"):
        panel([], tmp_path / "p.png")
