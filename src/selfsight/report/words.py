"""Numbers and sections as text and HTML. Whatever comes from a run is escaped here or by who calls."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

PARTS = {"test": "test", "holdout": "held-out", "train": "training"}  #: parts of a data set in words
NONE = "-"  #: where there is no value


def percent(value: Any, digits: int = 1) -> str:
    """A fraction in 0..1 as a percentage; a dash for what is no number."""
    return f"{value:.{digits}%}" if isinstance(value, int | float) else NONE


def with_noise(value: float, noise: float | None) -> str:
    """A fraction as a percentage, and its noise in points behind it; they stay on one line."""
    return percent(value) if noise is None else f"{percent(value)}\u00a0±\u00a0{100 * noise:.1f}"


def points(value: float) -> str:
    """A difference of fractions in percentage points."""
    return f"{100 * value:.1f} points"


def number(value: Any, form: str) -> str | None:
    """A number in that format; None for what is no number."""
    return format(value, form) if isinstance(value, int | float) else None


def short(value: Any) -> str:
    """A value of a setting."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(short, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def duration(seconds: Any) -> str | None:
    """Seconds in words; None for what is no number."""
    if not isinstance(seconds, int | float):
        return None
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60:02d} min"
    return f"{rest // 60} min {rest % 60:02d} s" if rest >= 60 else f"{seconds:.1f} s"


def key(tint: str, name: str) -> str:
    """A name behind its colour."""
    return f'<span class="key" style="background:{tint}"></span>{escape(name)}'


def note(text: str) -> str:
    """A paragraph about what is shown; empty for an empty text."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], about: str, kind: str = "") -> str:
    """A table of HTML cells in a frame that scrolls; the first cell of a row is its header. Empty without rows.

    Args:
        heads: escaped; those that begin with "#" are columns of numbers.
        rows: escaped cells.
        about: what the table says, for readers who hear it.
        kind: a class of the style sheet.
    """
    aligned = [' class="num"' if head.startswith("#") else "" for head in heads]
    top = "".join(f'<th scope="col"{style}>{head.lstrip("#")}</th>' for head, style in zip(heads, aligned))
    body = [
        f'<tr><th scope="row">{cells[0]}</th>'
        + "".join(f"<td{style}>{cell}</td>" for cell, style in zip(cells[1:], aligned[1:]))
        + "</tr>"
        for cells in rows
    ]
    if not body:
        return ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(about)}"><table class="{kind}">'
        f'<caption class="heard">{escape(about)}</caption><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def bar(share: float, tint: str, error: float | None = None, mark: float | None = None) -> str:
    """A bar of a share in 0..1, with a whisker of `error` on both sides and a line at `mark`."""
    share = min(1.0, max(0.0, share))
    parts = [f'<i style="width:{100 * share:.2f}%;background:{tint}"></i>']
    if error:
        low, high = max(0.0, share - error), min(1.0, share + error)
        parts.append(f'<b style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></b>')
    if mark is not None:
        parts.append(f'<u style="left:{100 * mark:.2f}%"></u>')
    return f'<span class="bar" aria-hidden="true">{"".join(parts)}</span>'


def section(title: str, content: str) -> str:
    """A section under a heading that the list of contents names; empty without content."""
    return f'<section id="{anchor(title)}"><h2>{escape(title)}</h2>{content}</section>' if content else ""


def anchor(title: str) -> str:
    """The id of a section."""
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower()).strip("-")
