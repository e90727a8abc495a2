"""The map of a representation as a part of a page: a canvas whose points show their pictures; and as a page of its own."""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import numpy as np

from selfsight.report.palette import COLOURS
from selfsight.report.scripts import MAP
from selfsight.report.style import STYLE
from selfsight.report.words import note

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
"""The browser itself keeps the page from fetching anything."""


class Colour(NamedTuple):
    """A way to colour the points."""

    name: str
    values: np.ndarray  #: (n,) numbers of `names`, -1: none; or numbers on a scale, NaN: none
    names: Sequence[str] | None  #: None: a scale
    score: str  #: in words


class Sheet(NamedTuple):
    """Small pictures of the points, in their order, as one JPEG."""

    content: bytes
    across: int  #: pictures in a row


@dataclass
class Maps:
    """The maps of a page. Runs that show the same pictures share their sheet."""

    maps: list[dict[str, Any]] = field(default_factory=list)
    sheets: list[dict[str, Any]] = field(default_factory=list)
    _known: dict[bytes, int] = field(default_factory=dict)

    def add(
        self, points: np.ndarray, colours: Sequence[Colour], about: str, sheet: Sheet | None = None,
        names: Sequence[str] | None = None, height: int = 560,
    ) -> str:  # fmt: skip
        """HTML of a map.

        Args:
            points: (n, 2), from -1 to 1.
            colours: at least one; the first is shown.
            about: how it was made, in words.
            sheet: their pictures.
            names: n file names.
            height: in pixels, at most.
        """
        if sheet is not None and sheet.content not in self._known:
            source = "data:image/jpeg;base64," + base64.b64encode(sheet.content).decode()
            self._known[sheet.content] = len(self.sheets)
            self.sheets.append({"source": source, "across": sheet.across})
        count, place = len(points), len(self.maps)
        self.maps.append({
            "points": np.rint(points * 5000).astype(int).flatten().tolist(), "by": [_plain(by) for by in colours],
            "sheet": None if sheet is None else self._known[sheet.content], "names": None if names is None else list(names),
            "stride": _stride(count), "height": height,
        })  # fmt: skip
        scores = "; ".join(f"by {by.name}: {by.score}" for by in colours if by.score)
        told = escape(f"Map of {count} pictures: {about}. {scores}", quote=True)
        return (
            f'<div class="map" id="map{place}"><div class="tools"></div><canvas tabindex="0" role="img" aria-label="{told}">'
            f'</canvas><div class="legend"></div></div>{note(about + ".")}'
        )

    def script(self) -> str:
        """Data and script of all maps; empty without a map."""
        if not self.maps:
            return ""
        data = json.dumps({"maps": self.maps, "sheets": self.sheets, "colours": COLOURS}, separators=(",", ":"))
        data = data.replace("<", "\\u003c")
        return f'<script type="application/json" id="maps">{data}</script>\n<script>{MAP}</script>'


def page(title: str, content: str, maps: Maps) -> str:
    """A page with maps alone."""
    return document(title, f"<header><h1>{escape(title)}</h1></header>{content}", maps.script())


def document(title: str, body: str, scripts: str) -> str:
    """A whole HTML page. `title` is text, the others HTML."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)} - selfsight</title><style>{STYLE}</style></head>\n<body><main>{body}</main>\n"
        f"<noscript>Charts and maps need JavaScript.</noscript>\n{scripts}</body></html>\n"
    )


def _plain(by: Colour) -> dict[str, Any]:
    if by.names is not None:
        return {"name": by.name, "values": by.values.tolist(), "names": list(by.names), "score": by.score}
    values = [None if math.isnan(v) else float(f"{v:.6g}") for v in by.values.tolist()]
    known = [v for v in values if v is not None] or [0.0]
    return {"name": by.name, "values": values, "names": None, "score": by.score, "low": min(known), "high": max(known)}


def _stride(count: int) -> int:
    """A step that visits all of the points in an order that mixes classes, so that none lies on top of the others."""
    step = max(1, round(count * 0.618))
    while math.gcd(step, count) != 1:
        step += 1
    return step
