"""Every command and snippet of README.md and docs/ works.

- Commands that a test can afford are run, in a folder with tiny pictures and runs under the names that the documents use: evaluate,
  embed, report, check, list, resume, preview, export (not to timm, torchvision and ONNX, see test_formats.py), and the two steps of
  README.md with the recipe `tiny`. So are the Python blocks, whose trainings are two steps of it.
- The others (named data sets that are not here, trainings, studies) are parsed by their verb up to the end of its flags: a
  wrong flag, method, recipe or value fails.
- The plug-in's commands are run by test_extending.py.
- `make` targets and `python FILE` must exist; `pip install` must name an extra that there is.
"""

import dataclasses
import importlib
import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import selfsight
import selfsight.formats
from selfsight import cli, encoders
from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from selfsight.verbs import VERBS
from selfsight.verbs.pretrain import settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
PAGES = [page for page in PAGES if page.name != "acceptance.md"]
RUN = "runs/photos"
NAMES = {
    "RUN": RUN,
    "DATA": "photos",
    "OTHER": "labelled/test",
    "FOLDER": "photos",
    "NAME": "simclr",
    "FILE": "leave-out.txt",
}


def commands():
    """(page, command) of every line of a fenced block, and of `selfsight ...` in the text."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
            if language in ("", "sh", "bash"):
                lines = re.sub(r"\\\n\s*", " ", body).splitlines()
                found += [(page, line.split("  #")[0].split(" # ")[0].strip()) for line in lines]
        plain = re.sub(r"\\\n\s*", " ", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        found += [
            (page, " ".join(code.split())) for code in re.findall(r"`((?:selfsight|make|pip install) [^`]+)`", plain)
        ]
        found += [(page, line.strip()) for line in re.findall(r"^    ((?:selfsight|make|pip|python) .+)$", plain, re.M)]
    starts = ("selfsight ", "make ", "pip ", "python ")
    kept = [(page, line) for page, line in found if line.startswith(starts) and "..." not in line]
    return list(dict.fromkeys(kept))


def named(items):
    return [pytest.param(*item, id=f"{item[0].name}: {item[1][:60]}") for item in items]


SELFSIGHT = [(page, line) for page, line in commands() if line.startswith("selfsight ") and " plain " not in line]
OTHERS = [(page, line) for page, line in commands() if not line.startswith("selfsight ")]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Pictures, a run, and files under the names that the documents use."""
    desk = tmp_path_factory.mktemp("desk")
    rng = np.random.default_rng(0)
    labelled = {f"labelled/{part}/{kind}": n for part, n in (("train", 100), ("test", 12)) for kind in ("cat", "dog")}
    for folder, count in {"photos/a": 12, "photos/b/deep": 12, **labelled}.items():
        (desk / folder).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(desk / folder / f"{i}.png")
    shutil.copytree(desk / "labelled/train", desk / "photos/train")
    shutil.copytree(desk / "labelled/test", desk / "photos/test")
    shutil.copy(desk / "photos/test/cat/0.png", desk / "photos/train/cat/leak.png")  # for the doctor
    made = selfsight.pretrain("simclr", recipe="tiny", steps=2, out=desk / RUN, quiet=True)
    assert made.code == 0
    for name in ("a", "b", "c", "byol", "first", "demo"):
        shutil.copytree(desk / RUN, desk / "runs" / name)
    dino = selfsight.pretrain("ibot", recipe="tiny", steps=1, out=desk / "runs/dino", quiet=True)  # a transformer
    assert dino.code == 0
    for part in ("train", "test"):
        selfsight.embed(desk / RUN, str(desk / "labelled" / part), desk / f"{part}.npz")
    selfsight.evaluate(
        str(desk / RUN), train=str(desk / "labelled/train"), test=str(desk / "labelled/test"), protocols=["knn"],
        out=desk / "both.npz",
    )  # fmt: skip
    selfsight.check(desk / "photos", exclude=desk / "leave-out.txt")
    (desk / "configs").symlink_to(ROOT / "configs")
    shutil.copy(ROOT / "configs/byol.yaml", desk / "mine.yaml")
    (desk / "my.yaml").write_text("- crop: {scale: [0.2, 1.0]}\n- flip\n")
    return desk


@pytest.fixture
def place(desk, monkeypatch):
    """The desk as working folder and home; what a command writes is new each time."""
    monkeypatch.chdir(desk)
    monkeypatch.setenv("HOME", str(desk))
    shutil.copy(desk / "both.npz", desk / "features.npz")  # other commands write one part to it
    return desk


class Parsed(Exception):
    """The verb has read its arguments."""


def parse_only(argv, monkeypatch):
    """A verb up to the end of its flags; WrongUse if they are wrong."""
    verb = importlib.import_module(f"selfsight.verbs.{argv[0]}")
    wrapped = [name for name in ("words_and_flags", "parse", "read_flags") if hasattr(verb, name)]
    assert wrapped, f"selfsight.verbs.{argv[0]} reads its flags by none of words_and_flags, parse, read_flags"
    for name in wrapped:
        real = getattr(verb, name)

        def stop(*args, real=real, name=name, **kwargs):
            found = real(*args, **kwargs)
            if name == "read_flags":  # a study: what it left are words, then flags of `pretrain`
                rest = found[1]
                flags = next((i for i, token in enumerate(rest) if token.startswith("--")), len(rest))
                settings(["simclr", *rest[flags:]])
            raise Parsed

        monkeypatch.setattr(verb, name, stop)
    with pytest.raises(Parsed):
        verb.main(argv[1:])


FAST = ("export", "report", "check", "list", "resume")  #: verbs that are run wherever their words are there


def affordable(argv):
    """Whether a command is run: quick, and all that it names is on the desk."""
    verb, rest = argv[0], argv[1:]
    words = [token for token in rest if not token.startswith("--")]
    data = [Path(rest[rest.index(flag) + 1]).expanduser() for flag in ("--train", "--test", "--data") if flag in rest]
    if any(not path.exists() for path in data) or ("--exclude" in rest and verb == "evaluate"):
        return False
    if verb == "list":
        return True
    if verb == "preview":
        return words and Path(words[0]).expanduser().exists()
    there = bool(words) and Path(words[0]).expanduser().exists()
    return there and (verb in FAST or verb in ("embed", "evaluate"))


def settled(line):
    """The arguments with the documents' placeholders filled in, without the shell's redirection."""
    return [NAMES.get(token, token.replace("RUN/", f"{RUN}/")) for token in shlex.split(line.split(" > ")[0])[1:]]


@pytest.mark.parametrize(("page", "line"), named(SELFSIGHT))
def test_a_command_of_selfsight(page, line, place, monkeypatch, capsys):
    try:
        work(page, line, monkeypatch, capsys)
    except WrongUse as error:
        mentioned = f"`{line}`" in " ".join(page.read_text().split())  # in a sentence it may be a part of a command
        if not mentioned or re.search("unknown|unexpected|Perhaps", str(error)):
            raise


def work(page, line, monkeypatch, capsys):
    """Run or parse a command."""
    argv = settled(line)
    if argv[0] == "--help":
        assert cli.run(argv) == 0
        return
    assert argv[0] in VERBS, f"{page.name}: no verb {argv[0]}"
    if argv[1:] in ([], ["--help"]) and argv[0] != "list":  # the verb is named, not shown
        assert cli.VERB_LINES
        return
    if argv[0] == "check" and len(argv) == 2 and not Path(argv[1]).expanduser().exists():
        argv[1] = "photos"
    if not affordable(argv):
        parse_only(argv, monkeypatch)
        return
    Path("views.png").unlink(missing_ok=True)  # where preview writes, unless told
    if "--out" in argv:
        out = Path(argv[argv.index("--out") + 1])
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
    if argv[0] == "export":
        kind = argv[argv.index("--format") + 1] if "--format" in argv else "timm"
        if kind in (
            "timm",
            "torchvision",
            "onnx",
        ):  # not the tiny run's network; a graph takes seconds: test_formats.py
            parse_only(argv, monkeypatch)
            return
        shutil.rmtree(Path(argv[1]) / kind, ignore_errors=True)
        (Path(argv[1]) / f"encoder-{kind}.safetensors").unlink(missing_ok=True)
    if argv[0] == "evaluate" and "geometry" not in line and "--train" not in argv and not argv[1].endswith(".npz"):
        argv += ["--train", "labelled/train"]
        argv += ["--test", "labelled/test"] * ("--test" not in argv)
    code = cli.run([*argv, "--json"])
    told = capsys.readouterr()
    assert code == 0, f"{page.name}: selfsight {shlex.join(argv)}\n{told.err}"
    assert json.loads(told.out.strip().splitlines()[-1])


def test_the_two_steps_of_the_readme(place, capsys):
    """The newcomer's own folder, as it is written, but for the recipe `tiny` and two steps."""
    text = (ROOT / "README.md").read_text().split("## Your own folder in two steps")[1]
    lines = [line.split("  #")[0].strip() for line in text.split("```")[1].strip().splitlines()]
    for line, more in zip(
        lines, (["--recipe", "tiny", "--steps", "2", "--batch-size", "16", "--holdout", "8", "--quiet"], [])
    ):
        argv = [token.replace("runs/photos", "runs/mine") for token in shlex.split(line)[1:]]
        Path("features.npz").unlink(missing_ok=True)
        assert cli.run([*argv, *more]) == 0, capsys.readouterr().err
    assert Path("features.npz").is_file()


@pytest.mark.parametrize(("page", "line"), named(OTHERS))
def test_other_commands_name_what_there_is(page, line):
    words = shlex.split(line.split("  #")[0])
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[1] in targets
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    elif words[1] == "install":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = re.findall(r"\[([\w,]+)\]", line)
        assert {name for names in asked for name in names.split(",")} <= extras.keys()


def snippets():
    found = []
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
        found += [pytest.param(page, block, id=f"{page.name} {i}") for i, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize(("page", "code"), snippets())
def test_a_snippet_of_python(page, code, place, monkeypatch):
    """Run as it is, with `images` at hand; trainings are two steps of the recipe `tiny`."""
    real = selfsight.pretrain

    def short(method, **given):
        shutil.rmtree(given.get("out", "none"), ignore_errors=True)
        given.pop("epochs", None)
        return real(method, **{**given, "recipe": "tiny", "data": "shapes:16:640", "steps": 2, "quiet": True})

    monkeypatch.setattr(selfsight, "pretrain", short)
    if "import lightning" in code:  # a training: tests/test_lightning.py runs it
        imports = [text for text in code.splitlines() if text.startswith("from selfsight")]
        exec("\n".join(imports), {})
        return
    images = torch.rand(2, 3, 16, 16)
    exec(compile(code, page.name, "exec"), {"images": images, "__name__": f"snippet_of_{page.stem}"})


def test_the_method_table_is_the_stored_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    readme = importlib.import_module("readme")
    text = readme.README.read_text()
    assert readme.table(text, json.loads(readme.RESULTS.read_text())) == text, "run python benchmarks/readme.py"
    rows = re.findall(r"^\| \[(\w+)\]\((docs/methods/\w+\.md)\)", text, re.M)
    assert [name for name, _ in rows] == sorted(METHODS, key=[name for name, _ in rows].index)
    assert {name for name, _ in rows} == set(METHODS)
    assert all((ROOT / page).is_file() for _, page in rows)
    free = sum(not cls.labelled for cls in METHODS.values())
    assert f"any of {free} self-supervised methods" in text
    changed = {"methods": {"simclr": {"trained": 0.5, "untrained": 0.45, "health": "healthy", "steps": 7}}}
    assert "| 50.0% (45.0%) | +5.0, little | healthy, 7 |" in readme.table(text, changed)


def test_observations_are_measured():
    """Every accuracy and every long number of the page stands in the results."""
    results = re.sub(r"(\d) %", r"\1%", (ROOT / "docs/results.md").read_text())
    page = (ROOT / "docs/observations.md").read_text()
    numbers = set(re.findall(r"\d+\.\d+%?|\d+%|\d,\d{3}", page)) - {"0.7"}
    assert len(numbers) > 40
    missing = sorted(number for number in numbers if number not in results)
    assert not missing, missing


def anchors(text):
    """GitHub's names of a page's headings."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.replace("`", "").lower()).replace(" ", "-") for head in heads}


LINKED = [*PAGES, ROOT / "docs/acceptance.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in LINKED])
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_the_diagrams_show_what_there_is(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "docs/figures"))
    draw = importlib.import_module("draw")
    for _, boxes in draw.LAYOUT.values():
        for name in boxes:
            assert (ROOT / "src/selfsight" / name).exists(), name
    draw.layout(tmp_path / "layout.svg")
    draw.siamese(tmp_path / "siamese.svg")
    assert all((tmp_path / name).read_text().startswith("<?xml") for name in ("layout.svg", "siamese.svg"))


def test_every_verb_and_format_is_documented():
    text = "\n".join(page.read_text() for page in PAGES)
    for verb in VERBS:
        assert f"selfsight {verb}" in text, verb
    for name in selfsight.formats.FORMATS:
        assert f"| `{name}`" in text, name
    fields = {field.name.replace("_", "-") for field in dataclasses.fields(encoders.EncoderConfig)}
    assert all(f"`{name}`" in (ROOT / "docs/encoders.md").read_text() or f"--net.{name}" in text for name in fields)
