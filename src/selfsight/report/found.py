"""Sections on the representation, from files that `selfsight.analysis.summary` writes: map, mistakes, clusters, spectrum."""

import base64
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from selfsight.report.map import Colour, Maps, Sheet
from selfsight.report.palette import colour
from selfsight.report.words import NONE, PARTS, bar, note, percent, table

NAMED = 20  #: classes of a confusion matrix whose cells are numbers
SHOWN = 24  #: clusters in a gallery


@dataclass(frozen=True)
class Found:
    """What is known of a run's representation."""

    arrays: dict[str, Any]
    header: dict[str, Any]

    @property
    def where(self) -> str:
        """What was looked at, in words."""
        h = self.header
        count, total = h.get("pictures", 0), h.get("total", 0)
        some = f"{count:,} of {total:,}" if count < total else f"{count:,}"
        step = f", encoder after step {h['step']:,}" if isinstance(h.get("step"), int) else ""
        return f"{some} pictures of {h.get('data')} ({PARTS.get(str(h.get('part')), h.get('part'))} part){step}"

    @property
    def classes(self) -> list[str]:
        """Class names."""
        return [str(name) for name in self.arrays.get("class_names", ())]


def read_found(path: Path) -> Found | None:
    """Read a file of analysis; None if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop("header")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Found(arrays, header) if isinstance(header, dict) else None


def maps_of(found: Sequence[tuple[str, Found]], maps: Maps) -> str:
    """A map of each run whose file has one."""
    cards = []
    shown = [(name, one) for name, one in found if "points" in one.arrays]
    for name, one in shown:
        a, rows = one.arrays, one.arrays["rows"]
        sheet = Sheet(a["sheet"].tobytes(), int(a["across"])) if "sheet" in a else None
        names = [str(text) for text in a["names"]] if "names" in a else None
        height = 560 if len(shown) == 1 else 420
        content = maps.add(a["points"], _colours(one, rows), one.header["map"]["about"], sheet, names, height)
        title = f"<h3>{escape(name)}</h3>" if len(shown) > 1 else ""
        cards.append(f'<div class="card">{title}{content}</div>')
    if not cards:
        return ""
    told = (
        f"Each point is one of {shown[0][1].where}; near points have similar features. "
        "Point at one to see it. Distances between groups and sizes of groups mean little on such a map."
    )
    frame = f'<div class="grid">{"".join(cards)}</div>' if len(cards) > 1 else cards[0]
    return note(told) + frame


def _colours(one: Found, rows: np.ndarray) -> list[Colour]:
    a, h, found = one.arrays, one.header, []
    if "labels" in a:
        score = h.get("silhouette")
        found.append(
            Colour(
                "class", a["labels"][rows], one.classes, "" if score is None else f"silhouette of features {score:.3f}"
            )
        )
    known = h["clusters"]
    told = f"NMI with classes {known['nmi']:.3f}" if known.get("nmi") is not None else ""
    if not told and known.get("silhouette") is not None:
        told = f"silhouette {known['silhouette']:.3f}"
    found.append(Colour("cluster", a["clusters"][rows], [f"cluster {i + 1}" for i in range(known["count"])], told))
    if "predicted_knn" in a:
        guess, labels = a["predicted_knn"][rows], a["labels"][rows]
        right = np.where(guess < 0, -1, (guess != labels).astype(np.int64))
        top1 = h["knn"]["top1"]
        found.append(Colour("k-NN says", guess, one.classes, f"{percent(top1)} right"))
        found.append(Colour("k-NN verdict", right, ["right", "wrong"], f"{percent(top1)} right"))
    return found


def mistakes(found: Sequence[tuple[str, Found]]) -> str:
    """Of one run its confusion matrix and the accuracy of each class; of several the accuracies side by side."""
    known = [(name, one) for name, one in found if "confusion_knn" in one.arrays]
    if not known:
        return ""
    if len(known) > 1:
        return _side_by_side(known)
    one = known[0][1]
    counts, names = one.arrays["confusion_knn"], one.classes
    h = one.header
    told = (
        f"A k-NN probe ({h['knn']['protocol']}) on {one.where} and a bank of {h.get('bank') or 0:,}: "
        f"{percent(h['knn']['top1'])} right."
    )
    worst = _pairs(counts, names)
    matrix = _matrix(counts, names) if len(names) <= NAMED else _large(counts)
    return f"{note(told)}{note(worst)}<div class='side'><div>{matrix}</div><div>{_classes(one)}</div></div>"


def _pairs(counts: np.ndarray, names: Sequence[str]) -> str:
    off = counts.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:4]
    pairs = [(i, j, int(off[i, j])) for i, j in zip(*np.unravel_index(order, off.shape)) if off[i, j]]
    told = "; ".join(f"{names[i]} taken for {names[j]} ({count} of {int(counts[i].sum())})" for i, j, count in pairs)
    return f"Most often mistaken: {told}." if told else "No picture is mistaken."


def _matrix(counts: np.ndarray, names: Sequence[str]) -> str:
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    heads = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j, value in enumerate(share[i]):
            ink = "#fff" if value > 0.5 else "#1b1f24"
            style = f"background:rgba(0,90,141,{value:.3f});color:{ink}" if counts[i, j] else "background:#f3f5f7"
            text = f"{100 * value:.0f}" if counts[i, j] else ""
            told = escape(f"{name} taken for {names[j]}: {counts[i, j]} of {counts[i].sum()}", quote=True)
            cells.append(f'<td style="{style}" title="{told}">{text}</td>')
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix"><table class="matrix"><caption class="heard">'
        "Percent of the pictures of a class (row) taken for each class (column)</caption>"
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        + note("Percent of each class (rows) taken for each class (columns).")
    )


def _large(counts: np.ndarray) -> str:
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    tint = np.array([0, 90, 141])
    cells = (255 - share[..., None] * (255 - tint)).round().astype(np.uint8)
    told = f"Confusion matrix of {len(counts)} classes: rows are true classes, columns what they were taken for"
    return f'<div class="card"><img class="large" alt="{told}" src="{_uri(Image.fromarray(cells), "PNG")}"></div>{note(told + ".")}'


def _classes(one: Found) -> str:
    """Accuracy of each class, the hardest first."""
    tables = {
        probe: one.arrays[f"confusion_{probe}"] for probe in ("knn", "linear") if f"confusion_{probe}" in one.arrays
    }
    total = tables["knn"].sum(1)
    share = {probe: np.diag(counts) / np.maximum(1, counts.sum(1)) for probe, counts in tables.items()}
    order = [int(i) for i in np.argsort(share["knn"], kind="stable") if total[i]]
    more = ""
    if len(order) > NAMED:
        more, order = f"The ten hardest and the five easiest of {len(order)} classes.", [*order[:10], *order[-5:]]
    rows = []
    for i in order:
        p, n = float(share["knn"][i]), int(total[i])
        cells = [
            escape(one.classes[i]),
            str(n),
            percent(p),
            bar(p, colour(0), float(np.sqrt(p * (1 - p) / n)), one.header["knn"]["top1"]),
        ]
        rows.append(cells + ([percent(float(share["linear"][i]))] if "linear" in share else []))
    heads = ["class, hardest first", "#asked", "#k-NN", "", *(["#linear"] if "linear" in share else [])]
    told = (
        f"Linear probe: {one.header['linear']['protocol']}, {percent(one.header['linear']['top1'])} of all right."
        if "linear" in share
        else ""
    )
    line = "Whiskers: one standard error of the pictures asked; line: all classes."
    return table(heads, rows, "Accuracy of each class") + note(" ".join(text for text in (more, line, told) if text))


def _side_by_side(known: Sequence[tuple[str, Found]]) -> str:
    first = known[0][1]
    same = [(name, one) for name, one in known if one.classes == first.classes]
    share = [np.diag(o.arrays["confusion_knn"]) / np.maximum(1, o.arrays["confusion_knn"].sum(1)) for _, o in same]
    total = first.arrays["confusion_knn"].sum(1)
    order = [int(i) for i in np.argsort(np.mean(share, 0), kind="stable") if total[i]]
    more = f" The {NAMED} hardest of {len(order)} classes." if len(order) > NAMED else ""
    rows = [[escape(first.classes[i]), *(percent(float(s[i])) for s in share)] for i in order[:NAMED]]
    rows.append(["all", *(f"<b>{percent(o.header['knn']['top1'])}</b>" for _, o in same)])
    heads = ["class, hardest first", *(f"#{escape(name)}" for name, _ in same)]
    told = (
        f"Share of each class that a k-NN probe ({first.header['knn']['protocol']}) gets right, on {first.where}.{more}"
    )
    return note(told) + table(heads, rows, "k-NN accuracy of each class in each run")


def clusters(one: Found) -> str:
    """The pictures nearest to the centre of each cluster."""
    a, known = one.arrays, one.header["clusters"]
    if "cluster_pictures" not in a:
        return ""
    cards = []
    for i, pictures in enumerate(a["cluster_pictures"][:SHOWN]):
        there = pictures[a["cluster_there"][i]]
        told = f"Cluster {i + 1}: {int(a['cluster_sizes'][i]):,} pictures"
        if "cluster_class" in a and a["cluster_class"][i] >= 0:
            told += f", {a['cluster_purity'][i]:.0%} {one.classes[int(a['cluster_class'][i])]}"
        image = Image.fromarray(
            np.concatenate(list(there), 1)[..., 0] if there.shape[-1] == 1 else np.concatenate(list(there), 1)
        )
        alt = escape(f"{told}; the {len(there)} nearest to its centre", quote=True)
        cards.append(f'<p>{escape(told)}</p><img class="strip" alt="{alt}" src="{_uri(image, "JPEG")}">')
    scores = [
        f"{name} {known[key]:.3f}"
        for key, name in (("nmi", "NMI with classes"), ("silhouette", "silhouette"))
        if known.get(key) is not None
    ]
    more = f" The {SHOWN} largest are shown." if known["count"] > SHOWN else ""
    told = (
        f"k-means with {known['count']} clusters of {one.where} ({', '.join(scores)}), labels unseen; "
        f"the pictures nearest to each centre.{more}"
    )
    half = -(-len(cards) // 2)
    columns = "".join(f'<div class="strips">{"".join(part)}</div>' for part in (cards[:half], cards[half:]) if part)
    return f'{note(told)}<div class="card"><div class="grid">{columns}</div></div>'


def spectra(found: Sequence[tuple[str, Found]], tints: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
    """A table of ranks, and the traces of a chart of singular values."""
    rows, traces = [], []
    for (name, one), tint in zip(found, tints):
        h = one.header.get("spectrum")
        if h is None:
            continue
        values = [float(v) for v in one.arrays["spectrum"] if v > 0]
        keep = (
            np.unique(np.geomspace(1, len(values), 300).astype(int))
            if len(values) > 300
            else np.arange(1, len(values) + 1)
        )
        traces.append({
            "type": "scatter", "mode": "lines", "name": escape(name), "x": keep.tolist(),
            "y": [float(f"{values[i - 1]:.4g}") for i in keep], "line": {"color": tint, "width": 2},
            "hovertemplate": "%{y:.3g} at direction %{x}<extra>" + escape(name) + "</extra>",
        })  # fmt: skip
        rows.append([
            escape(name), f"{h['effective_rank']:.1f}", str(h["possible"]), f"{h['rankme']:.1f}",
            NONE if h.get("alpha") is None else f"{h['alpha']:.2f}", str(h["half"]),
        ])  # fmt: skip
    heads = ["run", "#effective rank", "#at most", "#RankMe", "#alpha", "#directions with half of the variance"]
    return table(heads, rows, "Ranks of the features"), traces


def _uri(image: Image.Image, form: str) -> str:
    out = io.BytesIO()
    image.convert("RGB").save(out, form, quality=85, optimize=True)
    return f"data:image/{form.lower()};base64," + base64.b64encode(out.getvalue()).decode()
