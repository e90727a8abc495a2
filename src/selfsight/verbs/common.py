"""What verbs share: words before flags, tables."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from selfsight.arguments import check_flags, parse, take
from selfsight.errors import WrongUse


@dataclasses.dataclass(frozen=True)
class NoFlags:
    """The verb takes no flags but --json."""


@dataclasses.dataclass(frozen=True)
class EncoderFlags:
    """Flags that name an encoder which is not in a run."""

    encoder: str | None = None
    """The network of `random` (default resnet18) or of a file of weights: one of ours, timm:NAME or torchvision:NAME."""
    weights: str | None = None
    """Weights for timm:NAME, torchvision:NAME or one of our encoders: a file or folder; `random`: untrained."""
    net: str = "{}"
    """Settings of such a network as YAML, such as 'stem: legacy' or, of timm, 'global_pool: avg'."""
    normalise: str | None = None
    """Of such a network: none, a data set's name, or 0.5,0.5,0.5/0.2,0.2,0.2; default: what it says, else ImageNet's."""
    prefix: str = ""
    """Only weights whose names start so, such as student.backbone. (the point ends it); default: those that fit best."""
    image_size: int = 0
    """Side of the pictures in pixels; 0: the run's, or the network's own."""


def encoder_or_name(word: str, flags: EncoderFlags, seed: int = 0) -> Any:
    """What `evaluate` and `embed` work on: an encoder of another program, loaded as the flags say, or the word itself."""
    from selfsight import external
    from selfsight.run import read_yaml

    if not external.is_foreign(word, flags.weights):
        named = {"weights": flags.weights, "normalise": flags.normalise, "prefix": flags.prefix}
        if wrong := [f"--{name}" for name, value in named.items() if value]:
            raise WrongUse(f"{word!r} is no network or file of another program: leave out {' and '.join(wrong)}")
        return word
    return external.load(
        word, weights=flags.weights, encoder=flags.encoder, image_size=flags.image_size, normalise=flags.normalise,
        settings=read_yaml(flags.net, "--net") or {}, prefix=flags.prefix, seed=seed,
    )  # fmt: skip


def words_and_flags(
    argv: list[str],
    default: Any,
    verb: str,
    what: str,
    about: str,
    many: bool = False,
    more: Sequence[str] = (),
) -> tuple[list[str], bool, Any]:
    """Words before the flags, --json, and the flags. `more`: names of flags that the caller took out."""
    json_flag, argv = take(argv, "--json", valued=False)
    if any(token in ("-h", "--help") for token in argv):
        parse(type(default), ["--help"], default, verb, what, about + "\n\nAlso: --json (one JSON object on stdout).")
    words: list[str] = []
    while argv and not argv[0].startswith("-"):
        words.append(argv.pop(0))
    if not words and len(argv) > 1 and not argv[-1].startswith("-") and not argv[-2].startswith("--"):
        words.append(argv.pop())
    needed = not what.startswith("[")
    if needed and (not words or (len(words) > 1 and not many)):
        raise WrongUse(f"{verb} takes {'' if many else 'one '}{what} before its flags (see `selfsight {verb} --help`)")
    if not needed and len(words) > 1:
        raise WrongUse(f"unexpected {words[1]!r} (see `selfsight {verb} --help`)")
    check_flags(argv, default, verb, more)
    return words, bool(json_flag), parse(type(default), argv, default, verb, what, about)


def table(header: str, rows: list[list[str]]) -> None:
    """Print a table; the header is words."""
    from rich.console import Console
    from rich.table import Table

    made = Table(*header.split(), box=None, pad_edge=False)
    for row in rows:
        made.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200).print(made)
