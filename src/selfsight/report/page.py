"""One HTML page on one or several runs: no other file, nothing fetched, readable in a light and a dark browser."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from selfsight.errors import WrongUse
from selfsight.report import charts, pictures
from selfsight.report.read import RunFolder, read_run
from selfsight.report.style import SCRIPT, STYLE
from selfsight.tables import whole

GOOD, WAITING = ("healthy",), ("too early to tell",)


def report(runs: Sequence[Path], out: Path) -> Path:
    """Write the report of one or several run folders, finished or not.

    Args:
        runs: run folders; several are overlaid.
        out: the HTML file.

    Returns:
        `out`.

    Raises:
        WrongUse: no folder was given, or one is no run folder.
    """
    from plotly.offline import get_plotlyjs

    if not runs:
        raise WrongUse("a report needs at least one run folder; give one that pretrain wrote")
    found = _distinct([read_run(Path(path)) for path in runs])
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn: list[charts.Chart] = []
    body = "\n".join(
        [
            _header(found),
            _section("Training", _grid(charts.training(found), drawn)),
            _section("Collapse watch", _grid(charts.monitors(found), drawn)),
            _section("Final evaluation", _finals(found)),
            *(_section(_of("Nearest neighbours", r, found), pictures.neighbours(r)) for r in found),
            *(_section(_of("What the method makes of pictures", r, found), pictures.drawn(r)) for r in found),
            *(_section(_of("Attention", r, found), pictures.attention(r)) for r in found),
            *(_section(_of("Views", r, found), pictures.views(r)) for r in found),
            _section("The method's own numbers", _grid(charts.own_logs(found), drawn)),
            _section("Choices and settings", "".join(_settings(r) for r in found)),
        ]
    )
    title = escape(", ".join(run.name for run in found))
    data = json.dumps([{"data": c["data"], "layout": c["layout"]} for c in drawn]).replace("<", "\\u003c")
    whole(
        out,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">'
        f"<title>{title} - selfsight</title><style>{STYLE}</style></head>\n<body><main>{body}</main>\n"
        f"<script>{get_plotlyjs()}</script>\n"
        f'<script type="application/json" id="charts">{data}</script>\n<script>{SCRIPT}</script></body></html>\n',
    )
    return out


def _distinct(runs: list[RunFolder]) -> list[RunFolder]:
    """Runs of one name get their parent's name in front."""
    names = [run.name for run in runs]
    for i, run in enumerate(runs):
        if names.count(run.name) > 1:
            name = f"{run.path.resolve().parent.name}/{run.name}"
            runs[i] = RunFolder(run.path, name, run.config, run.lines, run.results)
    return runs


def _header(runs: list[RunFolder]) -> str:
    facts = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    if len(runs) == 1:
        run = runs[0]
        cells = "".join(f"<div><dt>{escape(n)}</dt><dd>{v}</dd></div>" for n, v in facts[0].items())
        return f'<header><h1>{escape(run.name)}</h1>{_verdict(run)}</header><dl class="facts">{cells}</dl>'
    heads = "".join(
        f'<th><span class="key" style="background:{charts.colour(i)}"></span>{escape(r.name)}</th>'
        for i, r in enumerate(runs)
    )
    rows = [f"<tr><th>verdict</th>{''.join(f'<td>{_verdict(run)}</td>' for run in runs)}</tr>"]
    for name in names:
        cells = "".join(f"<td>{fact.get(name, '-')}</td>" for fact in facts)
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return (
        f'<header><h1>{len(runs)} runs</h1></header><div class="scroll"><table class="wide"><thead><tr><th></th>{heads}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _verdict(run: RunFolder) -> str:
    if not run.health:
        return '<p class="verdict wait"><b>not judged yet</b></p>'
    last = run.health[-1]
    status, why = str(last["health"]), str(last.get("why") or "")
    kind = "good" if status in GOOD else "wait" if status in WAITING else "bad"
    return f'<p class="verdict {kind}"><b>{escape(status)}</b> <span>{escape(why)}</span></p>'


def _facts(run: RunFolder) -> dict[str, str]:
    """Name -> HTML, of what is known."""
    provenance = run.setting("provenance") or {}
    data = provenance.get("data") if isinstance(provenance, Mapping) else {}
    data = data if isinstance(data, Mapping) else {}
    last = run.steps[-1] if run.steps else {}
    total = f" of {run.total:,}" if run.total else ""
    state = "finished" if run.finished else "running or interrupted"
    found: dict[str, Any] = {
        "method": run.method if run.config else None,
        "encoder": run.setting("encoder"),
        "data": run.setting("data"),
        "pictures": f"{data['train']:,} to train on" if isinstance(data.get("train"), int) else None,
        "image size": run.setting("image_size"),
        "batch": run.setting("batch_size"),
        "epochs": _number(last.get("epoch"), ",.4g"),
        "steps": f"{run.done:,}{total}, {state}",
        "time": _duration(last.get("seconds")),
        "views per second": _number(_median([v for v in run.curve("views_per_second")[1] if v > 0]), ",.0f"),
        "last loss": _number(last.get("loss"), ".4g"),
        "k-NN": _knn(run),
        "k-NN without training": _baselines(run),
        "seed": run.setting("seed"),
        "precision": run.setting("precision"),
        "device": run.setting("provenance", "device_name") or run.setting("provenance", "device"),
        "selfsight": run.setting("provenance", "selfsight"),
        "torch": run.setting("provenance", "torch"),
        "code": _commit(run.setting("provenance", "git")),
        "data fingerprint": str(data["fingerprint"])[:16] if data.get("fingerprint") else None,
        "started": run.setting("provenance", "started"),
    }
    return {name: escape(str(value)) for name, value in found.items() if value is not None}


def _knn(run: RunFolder) -> str | None:
    """The final k-NN, else the last one, with the part it was measured on."""
    found = [entry for name, entry in run.finals if name == "knn"] or [entry for _, entry in run.accuracy()]
    return (
        _percent(found[-1]["top1"]) + (f" on {found[-1]['part']}" if found[-1].get("part") else "") if found else None
    )


def _baselines(run: RunFolder) -> str | None:
    """k-NN without training."""
    parts = ((run.untrained(), "untrained"), (run.pixels, "pixels"))
    return ", ".join(f"{name} {_percent(value)}" for value, name in parts if value is not None) or None


def _commit(git: Any) -> str | None:
    if not isinstance(git, Mapping) or not git.get("commit"):
        return None
    return str(git["commit"])[:10] + (", changed" if git.get("changed") else "")


def _finals(runs: list[RunFolder]) -> str:
    rows = []
    for i, run in enumerate(runs):
        for name, found in run.finals:
            shown = {k: v for k, v in found.items() if k not in ("top1", "top5", "settings") and v is not None}
            how = ", ".join(f"{k.replace('_', ' ')} {_short(v)}" for k, v in shown.items())
            key = f'<span class="key" style="background:{charts.colour(i)}"></span>{escape(run.name)}'
            rows.append(
                f'<tr><td>{key}</td><td>{escape(name)}</td><td class="num"><b>{_percent(found["top1"])}</b></td>'
                f'<td class="num">{_percent(found.get("top5"))}</td><td class="how">{escape(how)}</td></tr>'
            )
    if not rows:
        return ""
    head = "<tr><th>run</th><th>protocol</th><th>top-1</th><th>top-5</th><th>measured with</th></tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _settings(run: RunFolder) -> str:
    if not run.config:
        return ""
    choices = run.setting("provenance", "choices")
    lines = "".join(f"<li>{escape(str(line))}</li>" for line in choices) if isinstance(choices, list) else ""
    text = escape(yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True))
    listed = f"<ul>{lines}</ul>" if lines else ""
    return f"<details><summary>{escape(run.name)}: run.yaml</summary>{listed}<pre>{text}</pre></details>"


def _grid(found: list[charts.Chart], drawn: list[charts.Chart]) -> str:
    """Places for charts; `drawn` collects what the script puts there."""
    cells = []
    for chart in found:
        cells.append(f'<div class="card"><h3>{chart["title"]}</h3><div class="chart" id="c{len(drawn)}"></div></div>')
        drawn.append(chart)
    return f'<div class="grid">{"".join(cells)}</div>' if cells else ""


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _of(title: str, run: RunFolder, runs: list[RunFolder]) -> str:
    return title if len(runs) == 1 else f"{title}: {run.name}"


def _percent(value: Any) -> str:
    return f"{value:.2%}" if isinstance(value, int | float) else "-"


def _number(value: Any, form: str) -> str | None:
    return format(value, form) if isinstance(value, int | float) else None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _duration(seconds: Any) -> str | None:
    if not isinstance(seconds, int | float):
        return None
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60:02d} min"
    return f"{rest // 60} min {rest % 60:02d} s" if rest >= 60 else f"{seconds:.1f} s"
