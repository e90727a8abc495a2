"""What a command of a reference project becomes: commands of this system, and what they cannot do as asked."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from selfsight.arguments import flags_of
from selfsight.augment import Pipeline
from selfsight.errors import WrongUse, perhaps
from selfsight.pipelines import as_text
from selfsight.run import Run

Command = tuple[str, ...]  #: words after `selfsight`


@dataclass(frozen=True)
class Translation:
    """Commands in their order, and remarks on what differs from what was asked, and why."""

    commands: tuple[Command, ...]
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Text for people: remarks, then the commands as a shell takes them."""
        said = [f"# {note}" for note in self.notes]
        return [*said, *(shlex.join(("selfsight", *command)) for command in self.commands)]


def pretrain(run: Run[Any], base: Run[Any], *more: str) -> Command:
    """`pretrain --recipe R` with the flags that make `run` of the recipe that `base` is. `more`: flags at the end."""
    return ("pretrain", run.method_name, "--recipe", base.recipe, *changes(base, run), *more)


def changes(base: Run[Any], run: Run[Any]) -> list[str]:
    """The flags that make `run` of `base`, which are of one method."""
    was, now = flags_of(base), flags_of(run)
    return [word for name, value in now.items() if value != was[name] for word in flag(name, value)]


def flag(name: str, value: Any) -> list[str]:
    """A setting as words: --views.clean, --views.no-clean, --views.scale 0.2 1.0."""
    if isinstance(value, bool):
        head, dot, last = name.rpartition(".")
        return [f"--{name}" if value else f"--{head}{dot}no-{last}"]
    if isinstance(value, Pipeline):
        return [f"--{name}", as_text(value)]
    values = value if isinstance(value, tuple) else (value,)
    return [f"--{name}", *(f"{v:g}" if isinstance(v, float) and float(f"{v:g}") == v else str(v) for v in values)]


def evaluate(target: str, protocols: Sequence[str], settings: dict[str, Any] | None = None, *more: str) -> Command:
    """`evaluate TARGET`, its settings as one line of YAML."""
    told = (
        yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, width=float("inf")).strip()
        if settings
        else ""
    )
    return ("evaluate", target, "--protocols", ",".join(protocols), *(("--settings", told) if told else ()), *more)


def with_flags(command: Command, flags: Sequence[str]) -> Command:
    """A command with more flags, each in place of the same flag before it."""
    given = {token.split("=", 1)[0] for token in flags if token.startswith("--")}
    given |= {_other(name) for name in given}
    kept: list[str] = []
    skipping = False
    for token in command:
        if token.startswith("--"):
            skipping = token.split("=", 1)[0] in given
        if not skipping:
            kept.append(token)
    return (*kept, *flags)


def _other(name: str) -> str:
    """The flag that says the opposite: --views.clean and --views.no-clean."""
    head, dot, last = name.removeprefix("--").rpartition(".")
    return f"--{head}{dot}{last.removeprefix('no-') if last.startswith('no-') else 'no-' + last}"


def merge(run: Run[Any], **parts: Any) -> Run[Any]:
    """A run with changes; a dict changes the settings of a group."""
    whole = {
        name: dataclasses.replace(getattr(run, name), **value) if isinstance(value, dict) else value
        for name, value in parts.items()
    }
    return dataclasses.replace(run, **whole)


def free(folder: str) -> str:
    """The folder if it is free, else the first free one of folder-2, folder-3, ..."""
    names = (folder if number == 1 else f"{folder.rstrip('/')}-{number}" for number in range(1, 100000))
    return next(name for name in names if not Path(name).exists() or not any(Path(name).iterdir()))


@dataclass(frozen=True)
class Option:
    """An option of a reference project's command line."""

    names: tuple[str, ...]
    """As typed, without dashes; the first one is what the rest of the program calls it."""
    kind: type = str
    """bool: no value follows."""
    choices: tuple[str, ...] = ()
    """Values that there are, if not any."""


def options(argv: Sequence[str], known: Sequence[Option], what: str) -> dict[str, Any]:
    """Option name -> value of a command line; - and _ in names are alike.

    Raises:
        WrongUse: an unknown option (with a suggestion), a missing or wrong value, an option given twice.
    """
    by_name = {name: option for option in known for name in option.names}
    found: dict[str, Any] = {}
    tokens = iter(argv)
    for token in tokens:
        typed, equals, value = token.partition("=")
        name = typed.lstrip("-").replace("-", "_")
        option = by_name.get(name)
        if not token.startswith("-") or option is None or (len(name) == 1) != (not typed.startswith("--")):
            hint = perhaps(name, {"--" + option.names[0] for option in known})
            raise WrongUse(f"{what} has no option {typed!r}.{hint}")
        first = option.names[0]
        if first in found:
            raise WrongUse(f"{typed} is given twice: give it once")
        found[first] = _value(typed, option, value if equals else None, tokens)
    return found


def _value(typed: str, option: Option, given: str | None, rest: Iterator[str]) -> Any:
    if option.kind is bool:
        if given is not None:
            raise WrongUse(f"{typed} takes no value: leave out ={given}")
        return True
    text = given if given is not None else next(rest, "")
    if not text or (given is None and text.startswith("--")):
        raise WrongUse(f"{typed} needs a value: write {typed} VALUE")
    if option.choices and text not in option.choices:
        raise WrongUse(f"{typed} {text!r} is unknown.{perhaps(text, list(option.choices))}")
    return number(typed, option.kind, text)


def number(name: str, kind: type, text: str) -> Any:
    """A value of this kind; WrongUse if the text is none."""
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise WrongUse(f"{name} is {text!r}: write True or False")
    try:
        return kind(text)
    except ValueError:
        words = {int: "a whole number", float: "a number"}
        raise WrongUse(f"{name} is {text!r}: give {words[kind]}") from None
