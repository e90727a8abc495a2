"""What was run, with what, and how to do it again."""

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import yaml

from selfsight.report.read import RunFolder
from selfsight.report.words import table

_VERSIONS = ("selfsight", "torch", "torchvision", "timm", "numpy", "python")


def repeat(runs: Sequence[RunFolder]) -> str:
    """Commands, versions and data of each run, and its settings, folded."""
    rows = []
    for run in runs:
        if run.config:
            known = [(name, run.setting("provenance", name)) for name in _VERSIONS]
            versions = ", ".join(f"{name} {value}" for name, value in known if value)
            rows.append(
                [escape(run.name), escape(_data(run)), escape(versions), escape(_code(run)), escape(_machine(run))]
            )
    found = "".join(_commands(run) for run in runs[:1])
    heads = ["run", "data and fingerprint", "versions", "code", "machine"]
    return found + table(heads, rows, "What the runs were made with", "wide") + "".join(_settings(run) for run in runs)


def _commands(run: RunFolder) -> str:
    """Command lines that make a run again, measure it and draw it."""
    if not run.config:
        return ""
    folder, again = shlex.quote(str(run.path)), shlex.quote(f"{run.path}-again")
    config = shlex.quote(str(run.path / "run.yaml"))
    lines = [
        f"selfsight pretrain --config {config} --out {again}",
        f"selfsight evaluate {folder} --protocols knn,linear",
        f"selfsight report {folder}",
    ]
    about = (
        f"run.yaml holds every setting of {run.name}, nothing left to defaults. "
        "The same versions on the same machine give the same run."
    )
    return f'<p class="note">{escape(about)}</p><pre class="commands">{escape(chr(10).join(lines))}</pre>'


def _data(run: RunFolder) -> str:
    found = run.setting("provenance", "data")
    found = found if isinstance(found, Mapping) else {}
    counts = [
        f"{found[part]:,} {part}"
        for part in ("train", "holdout", "test")
        if isinstance(found.get(part), int) and found[part]
    ]
    mark = str(found.get("fingerprint") or "")
    return f"{run.setting('data')}: {', '.join(counts)}" + (f"; {mark}" if mark else "")


def _code(run: RunFolder) -> str:
    git = run.setting("provenance", "git")
    if not isinstance(git, Mapping) or not git.get("commit"):
        return "an installed package"
    return str(git["commit"])[:10] + (", changed" if git.get("changed") else "")


def _machine(run: RunFolder) -> str:
    name = run.setting("provenance", "device_name") or run.setting("provenance", "device") or "?"
    threads, started = run.setting("threads"), run.setting("provenance", "started")
    parts: list[Any] = [name, f"{threads} threads" if threads else None, started]
    return ", ".join(str(part) for part in parts if part)


def _settings(run: RunFolder) -> str:
    if not run.config:
        return ""
    choices = run.setting("provenance", "choices")
    lines = "".join(f"<li>{escape(str(line))}</li>" for line in choices) if isinstance(choices, list) else ""
    text = escape(yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True))
    listed = f"<ul>{lines}</ul>" if lines else ""
    return f"<details><summary>{escape(run.name)}: run.yaml</summary>{listed}<pre>{text}</pre></details>"
