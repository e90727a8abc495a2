"""docs/seed-map.md: no section is missing, and every flag, recipe, verb, protocol, policy and file that it names exists."""

import dataclasses
import re
from importlib import import_module
from pathlib import Path

import pytest

from selfsight.arguments import flags_of
from selfsight.augment import ENTRIES
from selfsight.encoders import ENCODERS
from selfsight.evaluate import PICTURES, PROTOCOLS
from selfsight.methods import METHODS
from selfsight.recipes import RECIPES
from selfsight.references import eleven, jigsaw_deepcluster, main, siamese
from selfsight.run import Run
from selfsight.verbs import VERBS

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "seed-map.md").read_text()
SPANS = re.findall(r"`([^`\n]+)`", TEXT)
SECTIONS = [f"{part}.{n}" for part, count in ((1, 4), (2, 7), (3, 6), (4, 6)) for n in range(1, count + 1)]


def known_flags() -> set[str]:
    """Of every verb, of every method's settings, of the four projects, without dashes."""
    found = {"recipe", "config", "dry-run", "json", "grid", "methods", "print-only"}
    for method in METHODS.values():
        found |= set(flags_of(Run(method=method.Config())))
    for verb in VERBS:
        module = import_module(f"selfsight.verbs.{verb}")
        for value in vars(module).values():
            if dataclasses.is_dataclass(value) and isinstance(value, type) and value.__name__.endswith("Flags"):
                found |= {f.name.replace("_", "-") for f in dataclasses.fields(value)}
    for options in (
        jigsaw_deepcluster.JIGSAW,
        jigsaw_deepcluster.DEEPCLUSTER,
        siamese.TRAIN,
        siamese.TEST,
        eleven.OPTIONS,
    ):
        found |= {name.replace("_", "-") for option in options for name in option.names}
    return found | {re.sub(r"(^|\.)([^.]+)$", r"\1no-\2", name) for name in found}


def test_every_section_is_there_in_order() -> None:
    assert re.findall(r"^### (\d\.\d) ", TEXT, re.M) == SECTIONS


def test_every_flag_exists() -> None:
    named = {flag for span in SPANS for flag in re.findall(r"(?<![\w-])--([a-z][\w.-]*)", span)}
    assert len(named) > 100
    known = known_flags()
    groups = {name.rpartition(".")[0] for name in known}
    named = {flag.replace("_", "-") for flag in named if flag != "resume"}  # theirs was removed
    assert not {flag for flag in named if flag not in known and not (flag.endswith(".") and flag[:-1] in groups)}


def test_every_recipe_exists() -> None:
    named = {span for span in SPANS if re.fullmatch(r"[a-z0-9]+-(cifar10|svhn|imagenet100|celeba|seer)[\w-]*", span)}
    assert len(named) > 25
    assert named <= set(RECIPES)


def test_every_verb_method_and_protocol_exists() -> None:
    for span in SPANS:
        words = span.split()
        words = words[1:] if words[0] == "selfsight" and len(words) > 1 else words
        if words[0] not in VERBS:
            assert not span.startswith("selfsight "), span
            continue
        if words[0] == "pretrain" and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in METHODS, span
        if "--protocols" in words:
            asked = words[words.index("--protocols") + 1].split(",")
            assert set(asked) <= {*PROTOCOLS, *PICTURES}, span
        if "--encoder" in words:
            assert words[words.index("--encoder") + 1] in ENCODERS, span


def test_every_policy_exists() -> None:
    named = {name for names in re.findall(r"polic(?:y|ies) ((?:`[\w-]+`(?: \(\w+\))?(?:, )?)+)", TEXT)
             for name in re.findall(r"`([\w-]+)`", names)}  # fmt: skip
    assert {"seed001", "seed002", "seed004", "svhn"} <= named <= set(ENTRIES)


def test_every_file_exists() -> None:
    for span in SPANS:
        if re.fullmatch(r"(tests|src|configs|docs)/[\w/.-]*", span):
            assert (ROOT / span).exists(), span
    for link in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (ROOT / "docs" / link).exists(), link


def test_every_command_of_the_page_is_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The block of commands, as typed, at the root of the repository; nothing is run."""
    monkeypatch.chdir(ROOT)
    lines = re.findall(r"^python main\.py (.*)$", TEXT, re.M)
    assert len(lines) >= 8
    for line in lines:
        words = line.replace("--print-only", "").split()
        at = words.index("--") if "--" in words else len(words)
        code = main([*words[:at], "--print-only", *words[at:]])
        if words[0] == "test":  # there is no such run
            assert code == 2
            assert "train it first" in capsys.readouterr().err
        else:
            assert code == 0, capsys.readouterr().err
