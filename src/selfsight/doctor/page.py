"""The contact sheet: one HTML page with thumbnails of what was found; no other file, nothing fetched."""

from html import escape

import numpy as np

from selfsight.data import decode
from selfsight.data.objects import with_channels
from selfsight.doctor.examine import OTHER, TEST, TRAIN, Checked, Finding
from selfsight.doctor.kinds import BROKEN, KINDS
from selfsight.doctor.show import facts, headline, shown
from selfsight.report.pictures import png
from selfsight.report.style import STYLE

MOST = 24  #: groups of each kind
TOGETHER = 4  #: pictures of a group
_SHORTER = 96  # pixels of a thumbnail's shorter side, before it is fitted into its square
_STYLE = """
.sheet{display:flex;flex-wrap:wrap;gap:12px;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px}
.sheet figure{width:112px}.sheet figure img,.sheet .none{width:112px;height:112px;border:0}
.sheet figcaption{white-space:normal;overflow-wrap:anywhere;line-height:1.25;max-height:5em}
.sheet .none{display:flex;padding:6px;color:var(--soft)}
.sheet .none{align-items:center;justify-content:center;border:1px dashed var(--line);border-radius:5px}
.together{display:flex;gap:6px;padding:6px;border:1px solid var(--line);border-radius:8px}
.serious{color:var(--bad)}.warning{color:var(--wait)}.level{font-size:13px;margin-left:8px}.bar{background:var(--soft);height:10px;border-radius:3px}
"""


def page(checked: Checked) -> str:
    """The whole page."""
    kind = {"serious": "bad", "warning": "wait"}.get(checked.level, "good")
    cells = "".join(f"<div><dt>{_html(name)}</dt><dd>{_html(text)}</dd></div>" for name, text in facts(checked))
    body = [
        f'<header><h1>{_html(checked.name)}</h1><p class="verdict {kind}"><b>{_html(headline(checked))}</b></p></header>',
        f'<dl class="facts">{cells}</dl>',
        *(_section(checked, finding) for finding in checked.findings.values()),
        *(_balance(checked, side, name) for side, name in ((TRAIN, "training"), (TEST, "test"))),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light">'
        f"<title>{_html(checked.name)} - selfsight check</title><style>{STYLE}{_STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _section(checked: Checked, finding: Finding) -> str:
    kind = KINDS[finding.kind]
    if finding.lines:
        lines = finding.lines[:MOST]
        content = "<ul>" + "".join(f"<li>{_html(line)}</li>" for line in lines) + "</ul>"
        rest = len(finding.lines) - len(lines)
    else:
        groups = finding.groups[:MOST]
        content = '<div class="sheet">' + "".join(_group(checked, finding.kind, group) for group in groups) + "</div>"
        rest = len(finding.groups) - len(groups)
    more = f'<p class="note">and {rest:,} more: `selfsight check --json` lists all of them</p>' if rest else ""
    title = f"{finding.count:,} {_html(kind.said(finding.count))}"
    return (
        f'<section id="{finding.kind}"><h2>{title}<span class="level {kind.level}">{kind.level}'
        f'</span></h2><p class="note">{_html(kind.advice)}</p>{content}{more}</section>'
    )


def _group(checked: Checked, kind: str, group: list[int]) -> str:
    # of a leak, at least one picture of the other side must be in sight
    rows = [group[0], *group[1:][-(TOGETHER - 1) :]]
    figures = "".join(_figure(checked, kind, row) for row in rows)
    rest = f'<span class="note">and {len(group) - len(rows)} more</span>' if len(group) > len(rows) else ""
    return figures if len(group) == 1 else f'<div class="together">{figures}{rest}</div>'


def _figure(checked: Checked, kind: str, row: int) -> str:
    file = checked.file(row)
    caption = _html(file["file"])
    if checked.sides[row] == OTHER:
        caption = f"{_html(file['set'])}: {caption}"
    elif checked.labels[row] >= 0 and "label" in kind:
        caption += f" <b>{_html(checked.classes[checked.labels[row]])}</b>"
    if "why" in file:
        caption += f" ({_html(file['why'])})"
    source = "" if kind in BROKEN else _thumbnail(checked, row)
    picture = f'<img alt="" src="{source}">' if source else '<div class="none">no picture</div>'
    return f'<figure>{picture}<figcaption title="{_html(file["file"])}">{caption}</figcaption></figure>'


def _thumbnail(checked: Checked, row: int) -> str:
    """A data URI; empty if the picture cannot be read any more."""
    part, at = checked.place(row)
    try:
        if part.pictures.pixels is not None:
            pixels = with_channels(part.pictures.pixels[at : at + 1], 3)[0]
        else:
            pixels = decode.read((part.pictures.paths or [])[at], 3, _SHORTER)
    except decode.Unreadable:
        return ""
    return png(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def _balance(checked: Checked, side: int, name: str) -> str:
    """Bars of the pictures of each class, the largest first."""
    counts = sorted(checked.counts(side).items(), key=lambda item: -item[1])
    if not counts:
        return ""
    chosen = counts if len(counts) <= 2 * MOST else [*counts[:MOST], *counts[-MOST:]]
    rows = "".join(
        f'<tr><th>{_html(label)}</th><td class="num">{count:,}</td><td style="width:70%">'
        f'<div class="bar" style="width:{100 * count / max(1, counts[0][1]):.1f}%"></div></td></tr>'
        for label, count in chosen
    )
    note = f" (largest and smallest {MOST} of {len(counts):,})" if len(chosen) < len(counts) else ""
    return (
        f'<section><h2>Classes of the {name} part{note}</h2><div class="scroll"><table><tbody>{rows}</tbody></table></div>'
        "</section>"
    )


def _html(text: str) -> str:
    return escape(shown(text), quote=True)
