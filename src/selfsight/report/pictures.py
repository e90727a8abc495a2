"""Pictures of the report: nearest neighbours, attention maps, views and what a method draws, embedded as PNG."""

import base64
import io
import zipfile
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from selfsight.report.read import RunFolder

LARGEST = 128  #: side of an embedded neighbour picture in pixels


def neighbours(run: RunFolder, analysis: Mapping[str, Any] | None = None) -> str:
    """Sample pictures and their nearest neighbours, of the analysis or figures/neighbours.npz; empty without them."""
    arrays = analysis if analysis and "query" in analysis else _arrays(run.path / "figures" / "neighbours.npz")
    if "query" not in arrays or "neighbours" not in arrays or arrays["neighbours"].ndim != 5:
        return ""
    names = [str(name) for name in arrays.get("class_names", [])]
    rows = []
    for i, picture in enumerate(arrays["query"]):
        own = _label(arrays.get("query_labels"), i)
        cells = [_cell(picture, own, names, "query")]
        for j, other in enumerate(arrays["neighbours"][i]):
            label = _label(arrays.get("neighbour_labels"), i, j)
            known = own is not None and label is not None
            cells.append(_cell(other, label, names, ("same" if own == label else "other") if known else ""))
        rows.append(f'<div class="row">{"".join(cells)}</div>')
    note = "The picture asked, then its nearest training pictures by cosine of the features."
    labelled = arrays.get("neighbour_labels", np.empty(0)) >= 0  # in some sets not every picture is
    if "query_labels" in arrays and labelled.any():
        same = np.mean((arrays["neighbour_labels"] == arrays["query_labels"][:, None])[labelled])
        note += f" Whole green frame: same class ({same:.0%} here); dashed: another."
    return f'<p class="note">{note}</p><div class="neighbours">{"".join(rows)}</div>'


def views(run: RunFolder) -> str:
    """The augmentation preview figures/views.png; empty if it is not there."""
    return _whole(run.path / "figures" / "views.png", "views", "sample pictures and their views")


def attention(run: RunFolder) -> str:
    """The attention maps figures/attention.png of a transformer; empty if they are not there."""
    image = _whole(run.path / "figures" / "attention.png", "attention", "sample pictures and their attention maps")
    note = "Where the class token looks in the last block: the mean of all heads, then each head, bright where it looks most."
    return image and f'<p class="note">{note}</p>{image}'


def drawn(run: RunFolder) -> str:
    """What the method draws of sample pictures, figures/drawn.png; empty if it is not there."""
    image = _whole(run.path / "figures" / "drawn.png", "drawn", "sample pictures and what the method makes of them")
    studies = sorted((run.path / "study").glob("*.npz"))
    arrays = _arrays(studies[-1]) if image and studies else {}
    if "permutations" not in arrays or "distances" not in arrays:
        return image
    least, mean = arrays["distances"]
    note = (
        "Tiles in a green frame lie where they belong, those in a red frame do not. "
        f"{len(arrays['permutations'])} permutations, at least {least:g} and on average {mean:.3f} tiles apart."
    )
    return f'<p class="note">{note}</p>{image}'


def png(picture: np.ndarray) -> str:
    """(H, W, C) uint8 -> data URI, at most LARGEST pixels a side."""
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture[..., :3])
    image.thumbnail((LARGEST, LARGEST))
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _whole(path: Path, kind: str, about: str) -> str:
    """A PNG file as it is; empty if it is not there."""
    if not path.is_file():
        return ""
    source = base64.b64encode(path.read_bytes()).decode()
    return f'<div class="card"><img class="{kind}" alt="{about}" src="data:image/png;base64,{source}"></div>'


def _cell(picture: np.ndarray, label: int | None, names: list[str], kind: str) -> str:
    text = "" if label is None else escape(names[label] if 0 <= label < len(names) else str(label))
    caption = f"<figcaption title='{text}'>{text}</figcaption>" if text else ""
    return f'<figure class="{kind}"><img alt="{text}" src="{png(picture)}">{caption}</figure>'


def _label(labels: np.ndarray | None, *where: int) -> int | None:
    return None if labels is None or labels[where] < 0 else int(labels[where])


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # missing, or cut short
        return {}
