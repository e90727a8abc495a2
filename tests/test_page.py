"""The report in a browser: no error, no request, hostile names stay text, maps and charts are there and answer."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from browser import open_page, outside
from selfsight.analysis.figures import figures
from selfsight.analysis.gather import Gathered, Rows
from selfsight.analysis.summary import arrays_of, write
from selfsight.report import report
from test_figures import blobs, made
from test_report import changed, make, pictures

HOSTILE = "</script><script>document.title='broken'</script><img src=http://evil.example/x>"


def hostile() -> Gathered:
    """Features whose class and file names are HTML and end scripts."""
    found = made(count=60)
    names = [f"{HOSTILE}{i}" for i in range(3)]
    asked = Rows(
        *blobs(60), found.asked.pictures, [f"{HOSTILE}/{i}.png" for i in range(60)], "holdout", 60, np.arange(60)
    )
    return Gathered(asked, found.bank, names, HOSTILE, HOSTILE, 0, {"step": 7})


def run_with(folder: Path, name: str) -> Path:
    run = make(folder, name=name)
    config = yaml.safe_load((run / "run.yaml").read_text()) | {"data": HOSTILE, "encoder": HOSTILE}
    (run / "run.yaml").write_text(yaml.safe_dump(config))
    pictures(run)
    write(run / "figures" / "analysis.npz", arrays_of(hostile(), "pca"))
    return run


POINT = """
var map = document.getElementById('map0'), canvas = map.querySelector('canvas'), box = canvas.getBoundingClientRect();
var all = JSON.parse(document.getElementById('maps').textContent).maps[0], side = 0.47 * Math.min(box.width, box.height);
var x = all.points[0] / 5000 * side, y = all.points[1] / 5000 * side;
var at = {clientX: box.left + box.width / 2 + x, clientY: box.top + box.height / 2 - y};
canvas.dispatchEvent(new PointerEvent('pointermove', at));
map.querySelector('.legend button').click();
var select = map.querySelector('select'); select.value = '1'; select.dispatchEvent(new Event('change'));
var pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data, painted = 0;
for (var i = 3; i < pixels.length; i += 4) if (pixels[i]) painted++;
map.setAttribute('data-painted', painted);
map.setAttribute('data-wide', document.documentElement.scrollWidth - window.innerWidth);
"""


@pytest.mark.parametrize("width", [1200, 500])
def test_a_page_of_hostile_names(tmp_path: Path, width: int) -> None:
    page = report([run_with(tmp_path / "a<img src=x onerror=alert(1)>", "<i>m</i>")], tmp_path / "r.html")
    seen = open_page(page, tmp_path, POINT.replace("\n", " "), width)
    assert (seen.errors, seen.violations, seen.requests) == ([], [], [])
    assert "broken" not in re.findall(r"<title>(.*?)</title>", seen.dom)[0]
    assert outside(seen.dom) == []
    assert seen.dom.count('class="main-svg"') > 6  # the charts are drawn
    tip = re.search(r'<div class="tip"[^>]*>(.*?)</div></div>', seen.dom, re.S)
    assert tip is not None
    assert "data:image/jpeg" in tip[1]  # the picture of the point
    assert "class: &lt;/script&gt;" in tip[1]
    assert "/0.png" in tip[1]
    assert int(re.findall(r'data-painted="(\d+)"', seen.dom)[0]) > 500
    assert int(re.findall(r'data-wide="(-?\d+)"', seen.dom)[0]) <= 0  # nothing sticks out at the right
    assert "<button" in seen.dom[seen.dom.index('class="legend"') :]
    assert ">cluster 1 (" in seen.dom  # the legend of what was chosen


def test_a_page_of_several_runs(tmp_path: Path) -> None:
    runs = [run_with(tmp_path / x / "r", x) for x in "ab"]
    page = report(runs, tmp_path / "r.html")
    assert page.read_text().count("data:image/jpeg;base64") < 60
    seen = open_page(page, tmp_path)
    assert (seen.errors, seen.violations, seen.requests) == ([], [], [])
    assert seen.dom.count("<canvas") == 2
    assert page.read_text().count('"source":"data:image/jpeg') == 1  # equal pictures are there once


def test_of_many_runs_the_best_are_shown(tmp_path: Path) -> None:
    runs = [changed(tmp_path / f"r{i}", 0.3 + i / 50, encoder=f"net{i // 2}", seed=i) for i in range(12)]
    for run in runs:
        write(run / "figures" / "analysis.npz", arrays_of(made(count=60), "pca"))
    text = report(runs, tmp_path / "r.html").read_text()
    assert re.findall(r'<div class="card"><h3>(\w+)</h3><div class="map"', text) == ["r10", "r8", "r6", "r4"]
    assert "Of 12 runs, maps and pictures are of r10, r8, r6, r4" in text


def test_a_map_of_its_own(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    np.savez(tmp_path / "f.npz", features=g.normal(size=(40, 5)).astype(np.float32), paths=np.array([HOSTILE] * 40))
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["height", *(f"{x:.4f}" for x in g.normal(size=40))]))
    found = figures(
        tmp_path / "f.npz", tmp_path / "o", ["map"], kind="pca", colour=["height"], attributes=table, html=True
    )
    page = Path(found["files"]["page"])
    assert page.stat().st_size < 100_000
    seen = open_page(page, tmp_path)
    assert (seen.errors, seen.violations, seen.requests) == ([], [], [])
    assert re.search(r'<div class="legend"><span>', seen.dom)  # a scale, no classes


def test_the_watch_sees_what_it_looks_for(tmp_path: Path) -> None:
    page = report([make(tmp_path / "r")], tmp_path / "r.html")
    bad = "var i = new Image(); i.src = 'https://example.org/x.png'; document.body.appendChild(i); undefinedName();"
    seen = open_page(page, tmp_path, bad)
    assert any("example.org" in uri for uri in seen.violations)
    assert any("undefinedName" in error for error in seen.errors)
