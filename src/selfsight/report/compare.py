"""Several runs beside one another: ranking, accuracies as bars, what is set differently."""

from collections.abc import Sequence
from html import escape
from typing import Any

from selfsight.report.noise import ABSENT, Group, differences
from selfsight.report.palette import colour
from selfsight.report.read import RunFolder
from selfsight.report.verdict import badge
from selfsight.report.words import NONE, PARTS, bar, duration, key, note, percent, short, table

COLUMNS = 24  #: runs with a row or a column of their own


def ranking(runs: Sequence[RunFolder], groups: Sequence[Group], ranked: bool) -> str:
    """A row for each group of runs that differ by the seed alone, the most accurate first."""
    tints = _tints(groups)
    best = next((g.mean for g in groups if g.mean is not None), None)
    rows = []
    for place, group in enumerate(groups, 1):
        first = runs[group.runs[0]]
        noise, _ = group.noise
        accuracy = NONE if group.mean is None else f"<b>{percent(group.mean)}</b>"
        if group.mean is not None and noise is not None:
            accuracy += f' <span class="soft">± {100 * noise:.1f}</span>'
        behind = (
            NONE if group.mean is None or best is None else f"{100 * (group.mean - best):+.1f}" if place > 1 else NONE
        )
        times = [
            t
            for i in group.runs
            if isinstance(t := (runs[i].steps[-1] if runs[i].steps else {}).get("seconds"), int | float)
        ]
        shown = "" if group.mean is None else bar(group.mean, tints[group.runs[0]], noise, first.untrained())
        states = dict.fromkeys(badge(runs[i], why=False) for i in group.runs)
        rows.append([
            key(tints[group.runs[0]], group.name), str(place) if ranked and group.mean is not None else NONE, accuracy, shown,
            behind, percent(first.untrained()), str(len(group.runs)), " ".join(states),
            escape(duration(sum(times) / len(times)) or NONE) if times else NONE,
        ])  # fmt: skip
    heads = [
        "runs",
        "#place",
        "#k-NN top-1",
        "",
        "#to the first, points",
        "#untrained",
        "#seeds",
        "health",
        "#time each",
    ]
    measured = next((g.measured[0] for g in groups if g.measured), None)
    kinds = dict.fromkeys(g.noise[1] for g in groups if g.noise[0] is not None)
    how = ""
    if measured is not None:
        asked = f"{measured.queries:,} pictures" if measured.queries else "pictures"
        settings = {n: measured.found.get(n) for n in ("k", "temperature", "weighting", "bank")}
        listed = ", ".join(f"{n} {short(v)}" for n, v in settings.items() if v is not None)
        how = (
            f"k-NN on {asked} of the {PARTS.get(measured.part, measured.part)} part ({listed}). ±: {'; '.join(kinds)}. "
            "Line in a bar: the untrained encoder."
        )
    return note(how) + table(heads, rows, "Runs by accuracy", "ranking")


def settings(runs: Sequence[RunFolder], groups: Sequence[Group]) -> str:
    """The settings that are not equal in all runs; runs that differ by the seed alone stand together."""
    shown = groups[:COLUMNS]
    first = [runs[group.runs[0]] for group in shown]
    found = differences(first)
    alone = [name for name, values in found.items() if name.startswith("method.") and any(v is ABSENT for v in values)]
    found = {name: values for name, values in found.items() if name not in alone}
    seeds = [", ".join(str(runs[i].setting("seed")) for i in group.runs) for group in shown]
    if len(set(seeds)) > 1 or any(len(group.runs) > 1 for group in shown):
        found["seed"] = seeds
    if not found:
        return note("All settings are equal, the seed too.")
    tints = [colour(group.runs[0]) for group in shown]
    if len(found) < len(shown):  # few settings of many runs: a row for each run reads better
        heads = ["runs", *(escape(name) for name in found)]
        names = [key(tint, group.name) for tint, group in zip(tints, shown)]
        rows = [[name, *(_cell(values[i]) for values in found.values())] for i, name in enumerate(names)]
    else:
        heads = ["setting", *(key(tint, group.name) for tint, group in zip(tints, shown))]
        rows = [[escape(name), *(_cell(value) for value in values)] for name, values in found.items()]
    told = "Everything else that the runs have in common is equal."
    told += f" {len(alone)} settings of single methods are in the run.yaml of each, at the end." if alone else ""
    told += f" Of {len(groups)} the first {COLUMNS} are shown." if len(groups) > COLUMNS else ""
    return note(told) + table(heads, rows, "Settings that differ", "wide")


def _cell(value: Any) -> str:
    return NONE if value is ABSENT else escape(short(value))


def _tints(groups: Sequence[Group]) -> dict[int, str]:
    """Colour of each run: its own, as in the curves."""
    return {i: colour(i) for group in groups for i in group.runs}
