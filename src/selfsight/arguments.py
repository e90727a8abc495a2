"""Command-line arguments: flags come from dataclasses, tyro reads them, and what is wrong is said in one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

from selfsight.errors import WrongUse, perhaps


def value_of(argv: Sequence[str], flag: str) -> str | None:
    """The value of `--flag value` or `--flag=value`, if given."""
    for i, token in enumerate(argv):
        if token == flag and i + 1 < len(argv):
            return argv[i + 1]
        if token.startswith(flag + "="):
            return token.split("=", 1)[1]
    return None


def take(argv: Sequence[str], flag: str, valued: bool) -> tuple[str | None, list[str]]:
    """Take a flag (and its value) out of the arguments: (value, or "yes" for one without; the rest)."""
    rest: list[str] = []
    found: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        if token == flag:
            value = next(tokens, "") if valued else "yes"
            if not value or (valued and value.startswith("--")):
                raise WrongUse(f"{flag} needs a value: write {flag} VALUE")
            found.append(value)
        elif valued and token.startswith(flag + "="):
            found.append(token.split("=", 1)[1])
        else:
            rest.append(token)
    if len(found) > 1:
        raise WrongUse(f"{flag} is given {len(found)} times: give it once")
    return (found[0] if found else None), rest


def flags_of(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flag name -> value of every setting of a dataclass instance, nested ones with dots."""
    flags: dict[str, Any] = {}
    for f in dataclasses.fields(value):
        name, inner = prefix + f.name.replace("_", "-"), getattr(value, f.name)
        if dataclasses.is_dataclass(inner):
            flags |= flags_of(inner, name + ".")
        else:
            flags[name] = inner
    return flags


def check_flags(argv: Sequence[str], default: Any, verb: str, more: Sequence[str] = ()) -> None:
    """Refuse unknown flags, with a suggestion, and flags given twice. `more`: flags that the caller took out."""
    known = flags_of(default)
    no = {_no(name): name for name, value in known.items() if isinstance(value, bool)}
    seen: dict[str, str] = {}
    for token in argv:
        if not token.startswith("--") or token == "--":
            continue
        name = token[2:].split("=", 1)[0].replace("_", "-")
        if name not in known and name not in no and name != "help":
            hint = perhaps(name, {*known, *no, *more, "help"}).replace("'", "")
            way = hint.replace("meant ", "meant --") if "Perhaps" in hint else f" See `selfsight {verb} --help`."
            raise WrongUse(f"unknown flag --{name}.{way}")
        plain = no.get(name, name)
        if plain in seen:
            same = seen[plain] == name
            raise WrongUse(f"--{name} {'is given twice' if same else f'contradicts --{seen[plain]}'}: give one of them")
        seen[plain] = name


def _no(name: str) -> str:
    """Tyro's name for switching a flag off: quiet -> no-quiet, views.clean -> views.no-clean."""
    head, dot, last = name.rpartition(".")
    return f"{head}{dot}no-{last}"


def parse(cls: Any, argv: Sequence[str], default: Any, verb: str, words: str, description: str) -> Any:
    """Parse with tyro; help goes to stdout, a mistake raises WrongUse. `words`: what comes before the flags."""
    import tyro

    from selfsight.augment import Pipeline
    from selfsight.pipelines import as_text, read_pipeline

    registry = tyro.constructors.ConstructorRegistry()
    refused: list[WrongUse] = []

    def read(words: list[str]) -> Pipeline | None:
        try:
            return None if words == ["None"] else read_pipeline(words[0])
        except WrongUse as error:  # in its own words, which tyro would bury
            refused.append(error)
            raise

    @registry.primitive_rule
    def _(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if info.type != Pipeline | None:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="FILE",
            instance_from_str=read,
            is_instance=lambda value: value is None or isinstance(value, Pipeline),
            str_from_instance=lambda value: ["None" if value is None else as_text(value)],
        )

    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), registry:
            return tyro.cli(
                cls, args=argv, default=default, prog=f"selfsight {verb} {words}".rstrip(), description=description
            )
    except SystemExit as stop:
        if not stop.code:
            print(out.getvalue(), end="")
            raise
        if refused:
            raise refused[0] from None
        raise WrongUse(_one_line(err.getvalue() + out.getvalue(), argv, verb)) from None


def _one_line(box: str, argv: Sequence[str], verb: str) -> str:
    """The message in a box of tyro's: a title, a rule, the message, and then more between rules or empty lines."""
    paragraphs: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip("│╭╮╰╯|+ \t")
        if not text or set(text) <= {"─", "-"} or line.startswith("╭"):
            paragraphs.append([])
        else:
            paragraphs[-1].append(text)
    told = [" ".join(lines) for lines in paragraphs if lines]
    message = next((text for text in told if not re.fullmatch(r"[A-Z]\w+ \w+", text)), "wrong arguments")
    flag = re.search(r"(?:Error parsing|argument) '?(--[\w.-]+)", message)
    kind = re.search(r"Argument helptext: (?:-\w, )?--[\w.-]+ (.+)", _about_flag(box)) if flag else None
    if message.startswith("Missing value") and flag:
        several = re.search(r"Expected (\d+) values", message)
        message = f"{flag[1]} needs {several[1] + ' values' if several and several[1] != '1' else 'a value'}"
    elif message.startswith("Unrecognized options: "):
        message = f"unexpected {message.removeprefix('Unrecognized options: ')!r}"
    elif message.startswith("invalid choice") and flag:
        choices = message.partition("Expected one of ")[2].strip("(). ").replace("'", "")
        message = f"{flag[1]} {_given(argv, flag[1])}: expected one of {choices}"
    elif kind and flag:
        message = f"{flag[1]} {_given(argv, flag[1])}: expected {_words(kind[1])}"
    else:  # what a settings class refused, in its own words
        message = re.sub(r"^Error parsing (?!-)\S+: ", "", message)
    return f"{message.rstrip('.')} (see `selfsight {verb} --help`)"


def _about_flag(box: str) -> str:
    """The first lines of the paragraph on the flag, in one."""
    lines = [line.strip("│ \t") for line in box.splitlines()]
    start = next((i for i, line in enumerate(lines) if line.startswith("Argument helptext")), None)
    return " ".join(lines[start : start + 2]) if start is not None else ""


def _given(argv: Sequence[str], flag: str) -> str:
    """The values that follow a flag."""
    for i, token in enumerate(argv):
        if token.startswith(flag + "="):
            return repr(token.split("=", 1)[1])
        if token == flag:
            rest = list(argv[i + 1 :])
            end = next((j for j, t in enumerate(rest) if t.startswith("--")), len(rest))
            return " ".join(map(repr, rest[:end]))
    return ""


def _words(kind: str) -> str:
    """Tyro's name of a type in words: INT|{auto} -> a whole number or auto."""
    names = {"INT": "a whole number", "FLOAT": "a number", "FLOAT FLOAT": "two numbers", "STR": "text"}
    parts = [part.strip("{} ") for part in kind.split("|")]
    return " or ".join(names.get(part, part.replace(",", ", ")) for part in parts)
