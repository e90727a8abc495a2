"""The verdict in plain words: of one run, and of several."""

import math
from collections.abc import Sequence
from html import escape

from selfsight.report.noise import Group, Measured, headline
from selfsight.report.read import RunFolder
from selfsight.report.words import PARTS, percent, points, with_noise

GOOD, WAITING = ("healthy",), ("too early to tell",)


def badge(run: RunFolder, why: bool = True) -> str:
    """The health of a run as a mark."""
    if not run.health:
        return '<span class="verdict wait"><b>not judged yet</b></span>'
    last = run.health[-1]
    status, reason = str(last["health"]), str(last.get("why") or "") if why else ""
    kind = "good" if status in GOOD else "wait" if status in WAITING else "bad"
    return f'<span class="verdict {kind}"><b>{escape(status)}</b>{f" <span>{escape(reason)}</span>" if reason else ""}</span>'


def of_run(run: RunFolder) -> list[str]:
    """Sentences on a run, the most important first; plain text."""
    told = [_learned(run, headline(run))]
    if not run.finished:
        total = f" of {run.total:,}" if run.total else ""
        told.append(f"The run is not finished: {run.done:,}{total} steps are done, and numbers may still change.")
    return told


def _learned(run: RunFolder, found: Measured | None) -> str:
    if found is None:
        return _unlabelled(run)
    asked = f"{found.queries:,} {_pictures(found.part)}" if found.queries else _pictures(found.part)
    told = f"k-NN on its features names the right class of {with_noise(found.top1, found.error)} of {asked}"
    untrained = run.untrained()
    names = (("before training it was", untrained), ("raw pixels give", run.pixels), ("guessing", chance(run)))
    beside = [f"{name} {percent(value)}" for name, value in names if value is not None]
    known = [value for value in (untrained, run.pixels) if value is not None]
    text = f"{told}; {', '.join(beside)}." if beside else f"{told}."
    if not known:
        return text
    margin = 2 * (found.error or 0.01)
    if found.top1 > max(known) + margin:
        return f"The encoder has learned: {text}"
    if untrained is not None and found.top1 <= untrained + margin:
        return f"The encoder is no better than before training: {text}"
    return f"The encoder has learned something, but no more than raw pixels hold: {text}"


def _pictures(part: str) -> str:
    return f"{PARTS.get(part, part)} pictures"


def _unlabelled(run: RunFolder) -> str:
    last = next((line for line in reversed(run.health) if isinstance(line.get("features_rank"), int | float)), None)
    told = "There is no accuracy: the pictures have no labels, or none was measured yet."
    if last is None:
        return told
    most = last.get("features_dim")
    of = f" of at most {most:.0f}" if isinstance(most, int | float) else ""
    return f"{told} The features of different pictures differ along {last['features_rank']:.0f} directions{of} (effective rank)."


def chance(run: RunFolder) -> float | None:
    """Accuracy of guessing one of the classes."""
    classes = run.setting("provenance", "data", "classes")
    count = len(classes) if isinstance(classes, list) else classes
    return 1 / count if isinstance(count, int) and count > 1 else None


def of_groups(groups: Sequence[Group], why_not: str) -> list[str]:
    """Sentences on a comparison; plain text."""
    known = [g for g in groups if g.mean is not None]
    if why_not or not known:
        return [why_not or "No run has an accuracy, so there is nothing to rank."]
    part = _pictures(known[0].measured[0].part)
    best = known[0]
    assert best.mean is not None
    if len(known) == 1:
        return [f"{best.name}: {_with_noise(best)} of {part}, {best.noise[1]}."]
    second = known[1]
    assert second.mean is not None
    gap = best.mean - second.mean
    told = f"{best.name} is first with {_with_noise(best)} of {part} right, {second.name} second with {_with_noise(second)}"
    if best.error is None or second.error is None:
        return [f"{told}. How far chance moves these numbers is not known."]
    both = math.hypot(best.error, second.error)
    twice = f"(twice its standard error is {points(2 * both)})"
    if gap > 2 * both:
        lines = [f"{told}: the lead of {points(gap)} is more than noise explains {twice}."]
    else:
        lines = [f"Too close to call: {told}. The lead of {points(gap)} is within noise {twice}."]
    if best.deviation is None or second.deviation is None:
        lines.append(
            "Of a single run the noise is that of the pictures asked alone; another seed may move it further. "
            "Run several seeds to know."
        )
    elif min(len(best.values), len(second.values)) < 3:
        lines.append("Two seeds say little about the spread; three or more are better.")
    return lines


def _with_noise(group: Group) -> str:
    noise, _ = group.noise
    assert group.mean is not None
    return with_noise(group.mean, noise)
