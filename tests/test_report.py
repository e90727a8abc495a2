"""The report: what it shows, what it survives, that nothing leaves the machine."""

import base64
import io
import json
import math
import re
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from selfsight import cli
from selfsight.errors import WrongUse
from selfsight.report import curves, noise, read_run, report, verdict
from selfsight.report.charts import POINTS, training
from selfsight.report.curves import smooth
from selfsight.report.read import folders
from selfsight.track import Tracker


def make(folder, steps=40, labelled=True, done=True, status="healthy", name="simclr"):
    folder.mkdir(parents=True)
    config = {
        "method": {"name": name, "temperature": 0.5},
        "data": "<script>alert(1)</script>",
        "encoder": "resnet18",
        "steps": 40,
        "seed": 7,
        "provenance": {
            "torch": "9.9.9",
            "data": {"train": 4321, "fingerprint": "f" * 40},
            "choices": ["size 32: a & b"],
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    knn = lambda top1, part="holdout": {
        "top1": top1,
        "top5": 0.9,
        "k": 20,
        "temperature": 0.07,
        "part": part,
        "queries": 2000,
    }
    with Tracker(folder, quiet=True, total=40) as tracker:
        if labelled:
            tracker.measure(0, {"knn": knn(0.2)})
            tracker.measure(0, {"pixels": knn(0.3)})
        for at in range(1, steps + 1):
            tracker.step(
                at, epoch=at / 10, loss=5 / at, lr=0.1, views_per_second=100 + at, seconds=at * 2.0, nmi=at / 100
            )
            if at % 10 == 0:
                monitor = {"std": 0.8, "rank": 12.0, "features_std": 0.7, "features_rank": 33.0, "cosine": 0.1}
                tracker.measure(at, {"health": status, "why": "spread <0.8>", **monitor})
                if labelled:
                    tracker.measure(at, {"knn": knn(0.2 + at / 100)})
        if done:
            if labelled:
                tracker.measure(steps, {"final_knn": knn(0.655, "test")})
            tracker.results({"finished": True, "summary": {}})
    return folder


def pictures(folder, labelled=True, channels=3):
    g = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "query": g.integers(0, 255, (3, 16, 12, channels), dtype=np.uint8),
        "neighbours": g.integers(0, 255, (3, 4, 16, 12, channels), dtype=np.uint8),
    }
    if labelled:
        arrays |= {"query_labels": np.array([0, 1, 1]), "neighbour_labels": np.zeros((3, 4), dtype=np.int64)}
        arrays["class_names"] = np.array(["cat <b>", "dog"])
    (folder / "figures").mkdir(exist_ok=True)
    np.savez_compressed(folder / "figures" / "neighbours.npz", **arrays)
    Image.new("RGB", (60, 20)).save(folder / "figures" / "views.png")
    return arrays


def data_of(text):
    return json.loads(re.findall(r'<script type="application/json" id="charts">(.*?)</script>', text, re.S)[0])


def without_plotly(text):
    from plotly.offline import get_plotlyjs

    assert text.count(get_plotlyjs()) == 1  # inlined, and once
    return text.replace(get_plotlyjs(), "")


def test_one_run(tmp_path):
    run = make(tmp_path / "first")
    arrays = pictures(run)
    out = report([run], tmp_path / "pages" / "r.html")
    text = without_plotly(out.read_text())
    for words in (
        "first", "simclr", "resnet18", "9.9.9", "4,321", "40 of 40, finished", "1 min 20 s", "k-NN, test", "<b>65.5%</b>",
        "names the right class of 65.5%\u00a0±\u00a01.1 of 2,000 test pictures",
        "before training it was 20.0%, raw pixels give 30.0%",
        "The encoder has learned", "healthy", "spread &lt;0.8&gt;", "size 32: a &amp; b", "temperature: 0.5",
        "Collapse watch", "Accuracy", "Nearest neighbours", "Views", ">nmi<",
    ):  # fmt: skip
        assert words in text, words
    drawn = data_of(text)
    assert drawn[0]["data"][0]["y"][:2] == [5, 2.5]
    knn = drawn[1]["data"]
    assert knn[0]["x"] == [0, 10, 20, 30, 40]
    assert {t["name"]: t["y"] for t in knn[1:]} == {"untrained": [0.2, 0.2], "raw pixels": [0.3, 0.3]}
    # the pictures are those of the file
    found = re.findall(r'<figure class="(\w*)"><img alt="[^"]*" src="data:image/png;base64,([^"]+)">', text)
    assert [kind for kind, _ in found[:6]] == ["query", "same", "same", "same", "same", "query"]
    assert [kind for kind, _ in found[6:10]] == ["other"] * 4
    image = np.array(Image.open(io.BytesIO(base64.b64decode(found[6][1]))))
    assert np.array_equal(image, arrays["neighbours"][1, 0])


def test_nothing_is_fetched_and_strings_are_escaped(tmp_path):
    run = make(tmp_path / "a<img src=x>", name="<i>m</i>")
    pictures(run)
    text = without_plotly(report([run], tmp_path / "r.html").read_text())
    assert "alert(1)" in text
    assert text.count("<script") == 3  # plotly, the charts, what draws them
    assert "<script>alert" not in text
    assert "<img src=x>" not in text
    assert "<i>m" not in text
    assert "cat &lt;b&gt;" in text
    assert "http:" not in text
    assert "https:" not in text
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', text))


def test_several_runs_overlay(tmp_path):
    runs = [
        make(tmp_path / "x" / "r"),
        make(tmp_path / "y" / "r", steps=25, done=False, status="collapsed", name="byol"),
    ]
    text = without_plotly(report(runs, tmp_path / "r.html").read_text())
    assert "2 runs" in text
    assert "byol" in text
    assert 'class="verdict bad"' in text
    assert 'class="verdict good"' in text
    assert "25 of 40, running or interrupted" in text
    assert "Not finished: y/r. Not healthy: y/r." in text
    loss = data_of(text)[0]["data"]
    assert [(t["name"], len(t["x"])) for t in loss] == [("x/r", 40), ("y/r", 25)]
    assert loss[0]["line"]["color"] != loss[1]["line"]["color"]


def test_a_run_without_labels(tmp_path):
    run = make(tmp_path / "plain", labelled=False)
    pictures(run, labelled=False, channels=1)
    text = without_plotly(report([run], tmp_path / "r.html").read_text())
    assert "Accuracy" not in text
    assert "no labels" in text
    assert "differ along 33 directions" in text
    assert "Nearest neighbours" in text
    assert "figcaption>" not in text
    assert "Collapse watch" in text


def test_a_run_that_was_killed(tmp_path):
    run = make(tmp_path / "killed", steps=13, done=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 14, "lo')
    (run / "results.json").write_text("{")
    (run / "figures").mkdir()
    (run / "figures" / "neighbours.npz").write_bytes(b"PK\x03\x04")
    text = report([run], tmp_path / "r.html").read_text()
    assert "13 of 40, running or interrupted" in text
    (run / "run.yaml").write_text("method: [")
    assert "13, running or interrupted" in report([run], tmp_path / "r.html").read_text()
    (run / "metrics.jsonl").write_text("")
    assert "not judged yet" in report([run], tmp_path / "r.html").read_text()


def test_no_run_is_refused(tmp_path):
    with pytest.raises(WrongUse, match="no run folder"):
        report([tmp_path], tmp_path / "r.html")
    with pytest.raises(WrongUse, match="at least one"):
        report([], tmp_path / "r.html")
    with pytest.raises(WrongUse, match="no rows"):
        curves(tmp_path)


def test_a_long_run_stays_small(tmp_path):
    run = make(tmp_path / "long")
    lines = "".join(
        json.dumps({"step": i, "epoch": i / 100, "loss": 1 + (i % 7) / 3, "lr": 0.1}) + "\n" for i in range(20000)
    )
    (run / "metrics.jsonl").write_text(lines)
    loss = training([read_run(run)])[0]["data"]
    assert len(loss) == 2  # the curve, faint, and its running mean
    assert all(len(t["x"]) <= POINTS for t in loss)
    assert np.std(loss[1]["y"]) < 0.1 * np.std(loss[0]["y"]) + 0.01


def test_smoothing_keeps_lines_and_ends():
    straight = [float(i) for i in range(500)]
    assert smooth(straight) == pytest.approx(straight)
    assert smooth([3.0]) == [3.0]


def test_curves_come_from_the_csv_files(tmp_path):
    run = make(tmp_path / "c")
    (run / "metrics.jsonl").unlink()
    path = curves(run)
    assert path == run / "figures" / "curves.png"
    image = np.array(Image.open(path).convert("RGB"))
    assert image.shape[1] > 4 * 500  # four panels
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10
    (run / "epochs.csv").unlink()
    smaller = np.array(Image.open(curves(run, tmp_path / "d.png")))
    assert smaller.shape[1] < image.shape[1]  # no k-NN panel


def test_the_report_needs_no_torch(tmp_path):
    code = "import sys, importlib.util as u, types\nsys.modules['torch'] = None\nimport selfsight.report.page\n"
    make(tmp_path / "r")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_page_forbids_requests_and_names_its_sections(tmp_path):
    text = without_plotly(report([make(tmp_path / "r")], tmp_path / "r.html").read_text())
    assert "Content-Security-Policy\" content=\"default-src 'none'" in text
    links, ids = re.findall(r'<a href="#([^"]+)"', text), re.findall(r'<section id="([^"]+)"', text)
    assert links == ids
    assert len(set(ids)) == len(ids) > 4
    assert all('scope="' in head for head in re.findall(r"<th[ >][^>]*>", text))
    assert all('alt="' in image for image in re.findall(r"<img[^>]*>", text))


@pytest.mark.parametrize(
    "top1, words",
    [(0.205, "no better than before training"), (0.31, "no more than raw pixels hold"), (0.6, "has learned: ")],
)
def test_the_verdict_weighs_noise(tmp_path, top1, words):
    run = make(tmp_path / "r", done=False)
    found = {"top1": top1, "k": 20, "temperature": 0.07, "part": "test", "queries": 1000}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 40, "final_knn": found}) + "\n")
    said = " ".join(verdict.of_run(read_run(run)))
    assert words in said
    assert f"± {100 * math.sqrt(top1 * (1 - top1) / 1000):.1f}" in said.replace("\u00a0", " ")
    assert "not finished" in said


def changed(folder, top1, seed=7, data="f", **settings):
    """A finished run with another result, seed, data or settings."""
    run = make(folder, done=False)
    config = yaml.safe_load((run / "run.yaml").read_text()) | {"seed": seed, "out": str(folder)} | settings
    config["provenance"]["data"]["fingerprint"] = data
    (run / "run.yaml").write_text(yaml.safe_dump(config))
    found = {"top1": top1, "k": 20, "temperature": 0.07, "part": "test", "queries": 1000}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 40, "final_knn": found}) + "\n")
    return run


def groups_of(paths):
    runs = [read_run(path) for path in paths]
    found = noise.common(runs)
    return noise.grouped(runs, found), noise.comparable(runs, found)


def test_seeds_make_a_group_with_its_deviation(tmp_path):
    paths = [changed(tmp_path / f"a-{s}", v, seed=s) for s, v in enumerate((0.50, 0.52, 0.57))]
    paths.append(changed(tmp_path / "b", 0.40, encoder="vit"))
    groups, why_not = groups_of(paths)
    assert why_not == ""
    assert [(g.name, g.runs) for g in groups] == [("a (3 seeds)", [0, 1, 2]), ("b", [3])]
    assert groups[0].noise == (pytest.approx(np.std([0.50, 0.52, 0.57], ddof=1)), "deviation over 3 seeds")
    assert groups[1].noise == (pytest.approx(math.sqrt(0.24 / 1000)), "standard error of the pictures asked")
    said = verdict.of_groups(groups, why_not)
    assert "more than noise explains" in said[0]
    assert "another seed may move it" in said[1]
    text = without_plotly(report(paths, tmp_path / "c.html").read_text())
    shown = text[text.index('id="ranking"') :]
    rows = re.findall(r'<tr><th scope="row">(?:<[^>]*></span>)?([^<]*)</th>(.*?)</tr>', shown)
    table = {name: re.findall(r"<td[^>]*>(.*?)</td>", cells) for name, cells in rows[::-1]}  # of two, the first
    assert table["encoder"] == ["resnet18", "vit"]
    assert table["seed"] == ["0, 1, 2", "7"]
    assert "out" not in table
    assert table["a (3 seeds)"][0] == "1"
    assert table["b"][0] == "2"
    assert table["b"][3] == "-13.0"  # points behind the first


def test_a_study_stands_for_its_runs_that_trained(tmp_path):
    study = tmp_path / "study"
    for name in ("a-s0", "a-s1"):
        make(study / "runs" / name)
    baseline = study / "runs" / "pixels-s0"
    baseline.mkdir()
    shutil.copy(study / "runs" / "a-s0" / "run.yaml", baseline)
    (study / "study.yaml").write_text("kind: compare\n")
    trained = [study / "runs" / name for name in ("a-s0", "a-s1")]
    assert folders([study]) == trained
    assert folders(sorted((study / "runs").iterdir())) == trained  # as a shell's star gives them
    assert folders([trained[0], tmp_path / "other"]) == [trained[0], tmp_path / "other"]
    assert cli.run(["report", str(study), "--quick"]) == 0
    assert "2 runs" in (study / "report.html").read_text()
    shutil.rmtree(study / "runs")
    with pytest.raises(WrongUse, match="nothing has trained"):
        folders([study])


def test_close_runs_are_not_told_apart(tmp_path):
    groups, why_not = groups_of([changed(tmp_path / "a", 0.50), changed(tmp_path / "b", 0.52, encoder="vit")])
    assert verdict.of_groups(groups, why_not)[0].startswith("Too close to call: b is first")
    groups, why_not = groups_of([changed(tmp_path / "c", 0.50), changed(tmp_path / "d", 0.57, encoder="vit")])
    assert "more than noise explains" in verdict.of_groups(groups, why_not)[0]


def test_what_does_not_compare_is_not_ranked(tmp_path):
    paths = [changed(tmp_path / "a", 0.5), changed(tmp_path / "b", 0.9, data="g")]
    groups, why_not = groups_of(paths)
    assert "different data" in why_not
    assert verdict.of_groups(groups, why_not) == [why_not]
    assert "different data" in report(paths, tmp_path / "r.html").read_text()
    _, why_not = groups_of([changed(tmp_path / "c", 0.5), make(tmp_path / "d", labelled=False)])
    assert "Not every run has an accuracy" in why_not


def test_minutes_that_became_other_steps_are_no_difference(tmp_path):
    a, b = (changed(tmp_path / n, 0.5, seed=i, max_minutes=1, steps=40 + i) for i, n in enumerate("ab"))
    assert [g.runs for g in groups_of([a, b])[0]] == [[0, 1]]
    c, d = (changed(tmp_path / n, 0.5, seed=i, steps=40 + i) for i, n in enumerate("cd"))
    assert len(groups_of([c, d])[0]) == 2


def test_many_runs_of_one_method_get_a_row_each(tmp_path):
    paths = [changed(tmp_path / f"t{i}", 0.3 + i / 50, encoder=f"net{i}") for i in range(12)]
    text = without_plotly(report(paths, tmp_path / "r.html").read_text())
    assert re.search(r'<th scope="col">runs</th><th scope="col">encoder</th>', text)
    lines = data_of(text)[0]["data"]
    styles = {(t["line"]["color"], t["line"]["dash"]) for t in lines}
    assert len(styles) == 12  # colours repeat after ten, with another dash
