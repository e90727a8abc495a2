"""One HTML page on one or several runs: no other file, nothing fetched. The verdict comes first, how to repeat it last."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from selfsight.errors import WrongUse
from selfsight.report import charts, compare, pictures, verdict
from selfsight.report.found import Found, clusters, maps_of, mistakes, read_found, spectra
from selfsight.report.map import Maps, document
from selfsight.report.noise import common, comparable, grouped, headline
from selfsight.report.palette import colour
from selfsight.report.read import RunFolder, read_run
from selfsight.report.repeat import repeat
from selfsight.report.scripts import CHARTS
from selfsight.report.words import NONE, PARTS, anchor, bar, duration, key, note, number, percent, section, short, table
from selfsight.tables import whole

SEVERAL = 4  #: runs whose maps and pictures are shown; of more, those of the best groups of seeds


def report(
    runs: Sequence[Path],
    out: Path,
    analyses: Mapping[Path, Path] | None = None,
    missing: Mapping[Path, str] | None = None,
) -> Path:
    """Write the report of one or several run folders, finished or not.

    Args:
        runs: run folders; several are compared.
        out: the HTML file.
        analyses: run folder -> file of `analysis.summary`; default: RUN/figures/analysis.npz where it is.
        missing: run folder -> why nothing could be computed for it, in words.

    Returns:
        `out`.

    Raises:
        WrongUse: no folder was given, or one is no run folder.
    """
    from plotly.offline import get_plotlyjs

    if not runs:
        raise WrongUse("a report needs at least one run folder; give one that pretrain wrote")
    folders = [Path(path) for path in runs]
    found = _distinct([read_run(path) for path in folders])
    files = [(analyses or {}).get(path, path / "figures" / "analysis.npz") for path in folders]
    some = shown_of(found)
    read = [(i, one) for i in some if (one := read_found(files[i])) is not None]
    known = [(found[i].name, one) for i, one in read]
    tints = [colour(i) for i, _ in read]
    pictured = [found[i] for i in some]
    drawn: list[charts.Chart] = []
    maps = Maps()
    sections = [
        *_comparison(found),
        ("Accuracy", _finals(found)),
        ("Training", _grid(charts.training(found), drawn)),
        ("Map", _chosen(found, some) + (maps_of(known, maps) if known else _absent(found, folders, missing or {}))),
        ("Mistakes", mistakes(known)),
        *_per_run("Nearest neighbours", pictured, known, lambda run, one: pictures.neighbours(run, one and one.arrays)),
        *_per_run("Clusters", pictured, known, lambda run, one: clusters(one) if one else ""),
        ("Spectrum", _spectrum(known, tints, drawn)),
        ("Collapse watch", _grid(charts.monitors(found), drawn)),
        *_per_run("What the method makes of pictures", pictured, known, lambda run, one: pictures.drawn(run)),
        *_per_run("Attention", pictured, known, lambda run, one: pictures.attention(run)),
        *_per_run("Views", pictured, known, lambda run, one: pictures.views(run)),
        ("The method's own numbers", _grid(charts.own_logs(found), drawn)),
        ("How to repeat it", repeat(found)),
    ]
    shown = [(title, content) for title, content in sections if content]
    links = "".join(f'<a href="#{anchor(title)}">{escape(title)}</a>' for title, _ in shown)
    body = "\n".join([
        _header(found), f'<nav aria-label="Contents">{links}</nav>', _facts_of(found), *(section(*one) for one in shown),
        "<footer>Written by selfsight. Everything is in this file; it opens without a network.</footer>",
    ])  # fmt: skip
    data = json.dumps([{"data": c["data"], "layout": c["layout"]} for c in drawn]).replace("<", "\\u003c")
    plots = (
        f"<script>{get_plotlyjs()}</script>\n"
        f'<script type="application/json" id="charts">{data}</script>\n<script>{CHARTS}</script>\n'
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    whole(out, document(", ".join(run.name for run in found), body, plots + maps.script()))
    return out


def shown_of(runs: Sequence[RunFolder]) -> list[int]:
    """Which of the runs are shown with maps and pictures: the first of each group of seeds, the best groups first."""
    if len(runs) <= SEVERAL:
        return list(range(len(runs)))
    return [group.runs[0] for group in grouped(runs, common(runs))][:SEVERAL]


def _distinct(runs: list[RunFolder]) -> list[RunFolder]:
    """Runs of one name get their parent's name in front; a folder that is given twice is told by its number."""
    names = [run.name for run in runs]
    runs = [replace(r, name=f"{r.path.resolve().parent.name}/{r.name}") if names.count(r.name) > 1 else r for r in runs]
    names = [run.name for run in runs]
    return [replace(r, name=f"{r.name} #{i + 1}") if names.count(r.name) > 1 else r for i, r in enumerate(runs)]


def _header(runs: list[RunFolder]) -> str:
    if len(runs) == 1:
        run = runs[0]
        over = " · ".join(str(v) for v in (run.method, run.setting("encoder"), run.setting("data")) if v and v != "?")
        title, mark, lines = run.name, verdict.badge(run), verdict.of_run(run)
    else:
        found = common(runs)
        title, mark, over = f"{len(runs)} runs", "", "Comparison"
        lines = verdict.of_groups(grouped(runs, found), comparable(runs, found))
        ill = [r.name for r in runs if r.health and r.health[-1]["health"] not in (*verdict.GOOD, *verdict.WAITING)]
        under_way = [r.name for r in runs if not r.finished]
        marks = [
            f"{what}: {', '.join(names)}."
            for what, names in (("Not finished", under_way), ("Not healthy", ill))
            if names
        ]
        lines += [" ".join(marks)] if marks else []
    told = "".join(f'<p class="lead">{escape(line)}</p>' for line in lines)
    return f'<header><div class="over">{escape(over)}</div><h1>{escape(title)}</h1>{mark}</header>{told}'


def _comparison(runs: list[RunFolder]) -> list[tuple[str, str]]:
    if len(runs) == 1:
        return []
    found = common(runs)
    why_not = comparable(runs, found)
    groups = grouped(runs, found)
    table_of = compare.ranking(runs, groups, not why_not)
    return [("Ranking", note(why_not) + table_of), ("What is set differently", compare.settings(runs, groups))]


def _per_run(title: str, runs: list[RunFolder], known: list[tuple[str, Found]], make: Any) -> list[tuple[str, str]]:
    """A section with a part for each of the runs that are shown."""
    by_name = dict(known)
    made = [(run.name, content) for run in runs if (content := make(run, by_name.get(run.name)))]
    if len(made) == len(runs) == 1:
        return [(title, made[0][1])]
    return [(title, "".join(f"<h3>{escape(name)}</h3>{content}" for name, content in made))] if made else []


def _chosen(runs: list[RunFolder], some: list[int]) -> str:
    """Which runs are shown from here on, where not all are."""
    if len(some) == len(runs):
        return ""
    names = ", ".join(runs[i].name for i in some)
    return note(f"Of {len(runs)} runs, maps and pictures are of {names}: one of each of the best settings.")


def _absent(runs: list[RunFolder], folders: list[Path], missing: Mapping[Path, str]) -> str:
    """Why there is no map."""
    told = [f"{run.name}: {missing[path]}" for run, path in zip(runs, folders) if path in missing]
    if told:
        return note(f"There is no map, no confusion matrix and no gallery. {' '.join(told)}")
    command = f"selfsight report {' '.join(str(path) for path in folders[:3])}"
    return note(
        f"Not computed yet. `{command}` adds a map of the pictures, what is mistaken for what, clusters and the spectrum."
    )


def _facts_of(runs: list[RunFolder]) -> str:
    """A list of one run's facts; of several a table, folded."""
    if len(runs) > 1:
        facts = [_facts(run) for run in runs]
        names = list(dict.fromkeys(name for fact in facts for name in fact))
        rows = [[key(colour(i), run.name), *(facts[i].get(name, NONE) for name in names)] for i, run in enumerate(runs)]
        return f"<details><summary>Facts of each run</summary>{table(['run', *names], rows, 'Facts of each run', 'wide')}</details>"
    cells = "".join(f"<div><dt>{escape(n)}</dt><dd>{v}</dd></div>" for n, v in _facts(runs[0]).items())
    return f'<dl class="facts">{cells}</dl>'


def _facts(run: RunFolder) -> dict[str, str]:
    """Name -> HTML, of what is known."""
    data = run.setting("provenance", "data")
    data = data if isinstance(data, Mapping) else {}
    last = run.steps[-1] if run.steps else {}
    total = f" of {run.total:,}" if run.total else ""
    state = "finished" if run.finished else "running or interrupted"
    speeds = sorted(v for v in run.curve("views_per_second")[1] if v > 0)
    found: dict[str, Any] = {
        "method": run.method if run.config else None,
        "encoder": run.setting("encoder"),
        "data": run.setting("data"),
        "pictures": f"{data['train']:,} to train on" if isinstance(data.get("train"), int) else None,
        "image size": run.setting("image_size"),
        "batch": run.setting("batch_size"),
        "epochs": number(last.get("epoch"), ",.4g"),
        "steps": f"{run.done:,}{total}, {state}",
        "time": duration(last.get("seconds")),
        "views per second": number(speeds[len(speeds) // 2] if speeds else None, ",.0f"),
        "last loss": number(last.get("loss"), ".4g"),
        "seed": run.setting("seed"),
        "precision": run.setting("precision"),
        "device": run.setting("provenance", "device_name") or run.setting("provenance", "device"),
    }
    return {name: escape(str(value)) for name, value in found.items() if value is not None}


def _finals(runs: list[RunFolder]) -> str:
    """Accuracies of the end with their noise and protocol, and what they must beat."""
    rows = []
    for i, run in enumerate(runs):
        name = key(colour(i), run.name) if len(runs) > 1 else ""
        beside = [("k-NN", found) for protocol, found in run.finals if protocol == "knn"]
        beside = beside or [("k-NN", run.accuracy()[-1][1]) for _ in run.accuracy()[-1:]]
        beside += [(protocol, found) for protocol, found in run.finals if protocol != "knn"]
        for protocol, found in beside:
            rows.append(
                _measurement(name, protocol, found, i, run.untrained("knn" if protocol == "k-NN" else protocol))
            )
        if len(runs) == 1:
            for what, value in (("k-NN, untrained", run.untrained()), ("k-NN, raw pixels", run.pixels)):
                if value is not None:
                    cells = [name, what, f"<b>{percent(value)}</b>", "", bar(value, "#8a8f98"), NONE]
                    rows.append([*cells, '<span class="how">what training must beat</span>'])
    heads = ["run", "protocol", "#top-1", "#±", "", "#top-5", "measured with"]
    cut = 0 if len(runs) > 1 else 1
    asked = [m for run in runs if (m := headline(run)) is not None and m.error is not None]
    told = (
        "±: one standard error of the pictures asked, in points. It does not hold what another seed would change."
        if asked
        else ""
    )
    content = table(heads[cut:], [row[cut:] for row in rows], "Accuracies", "finals")
    if len(runs) > 1 and content:
        return f"<details><summary>Every measurement, with its protocol</summary>{content}</details>"
    return note(told) + content if content else ""


def _measurement(name: str, protocol: str, found: Mapping[str, Any], index: int, untrained: float | None) -> list[str]:
    value, queries = found["top1"], found.get("queries")
    error = (value * (1 - value) / queries) ** 0.5 if isinstance(queries, int) and queries else None
    used = {
        k: v
        for k, v in found.items()
        if k not in ("top1", "top5", "settings", "part") and v is not None and not isinstance(v, list | dict)
    }
    how = ", ".join(f"{k.replace('_', ' ')} {short(v)}" for k, v in used.items())
    title = protocol + (f", {PARTS.get(str(found['part']), found['part'])}" if found.get("part") else "")
    return [
        name, escape(title), f"<b>{percent(value)}</b>", "" if error is None else f"{100 * error:.1f}",
        bar(value, colour(index), error, untrained), percent(found.get("top5")), f'<span class="how">{escape(how)}</span>',
    ]  # fmt: skip


def _spectrum(known: list[tuple[str, Found]], tints: Sequence[str], drawn: list[charts.Chart]) -> str:
    ranks, traces = spectra(known, tints)
    if not traces:
        return ""
    chart = charts.chart("Singular values of the centred features, relative to the largest", traces, legend=True)
    chart["layout"]["yaxis"] |= {"type": "log", "exponentformat": "power", "dtick": 1}
    chart["layout"]["xaxis"] = {"title": {"text": "direction"}}
    told = f"How many directions the features use: a curve that falls early means few. Of {known[0][1].where}."
    return note(told) + ranks + _grid([chart], drawn)


def _grid(found: list[charts.Chart], drawn: list[charts.Chart]) -> str:
    """Places for charts; `drawn` collects what the script puts there."""
    cells = []
    for chart in found:
        told = escape(f"Chart: {chart['title']}, a line for each run", quote=True)
        cells.append(
            f'<div class="card"><h3>{escape(chart["title"])}</h3><div class="chart" id="c{len(drawn)}" role="img" '
            f'aria-label="{told}" style="height:{chart["layout"]["height"]}px"></div></div>'
        )
        drawn.append(chart)
    return f'<div class="grid">{"".join(cells)}</div>' if cells else ""
