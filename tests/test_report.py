"""The report: what it shows, what it survives, that nothing leaves the machine."""

import base64
import io
import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from selfsight.errors import WrongUse
from selfsight.report import curves, read_run, report
from selfsight.report.charts import POINTS, training
from selfsight.report.curves import smooth
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
    knn = lambda top1, part="holdout": {"top1": top1, "top5": 0.9, "k": 20, "temperature": 0.07, "part": part}
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
        "first", "simclr", "resnet18", "9.9.9", "4,321", "40 of 40, finished", "1 min 20 s", "65.50% on test",
        "untrained 20.00%, pixels 30.00%", "healthy", "spread &lt;0.8&gt;", "size 32: a &amp; b", "temperature: 0.5",
        "Collapse watch", "Final evaluation", "Nearest neighbours", "Views", ">nmi<",
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
    assert text.count("<script") == 3
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
    loss = data_of(text)[0]["data"]
    assert [(t["name"], len(t["x"])) for t in loss] == [("x/r", 40), ("y/r", 25)]
    assert loss[0]["line"]["color"] != loss[1]["line"]["color"]


def test_a_run_without_labels(tmp_path):
    run = make(tmp_path / "plain", labelled=False)
    pictures(run, labelled=False, channels=1)
    text = without_plotly(report([run], tmp_path / "r.html").read_text())
    assert "k-NN" not in text
    assert "Final evaluation" not in text
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
