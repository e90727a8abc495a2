"""P06: a package that adds a method, an encoder, a data set, a policy and a step, one entry each, installed as users do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "examples/plugin"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder into which pip installed the sample package."""
    import shutil

    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    shutil.copytree(SAMPLE, source / "plugin")  # building writes beside the files
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--target", str(target), str(source / "plugin")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return target


def run(place, code, cwd):
    """Python with the package installed: what it prints, and its complaints."""
    paths = [str(place), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr


def test_one_entry_each_and_everything_works(place, tmp_path):
    (tmp_path / "my.yaml").write_text("- flip\n- invert: {apply_prob: 0.5, amount: 0.7}\n")
    guide = (ROOT / "docs/extending.md").read_text()
    command = next(line for line in guide.splitlines() if line.startswith("selfsight pretrain plain"))
    assert command in (SAMPLE / "README.md").read_text()
    code = (
        f"command = {command!r}"
        + """
from selfsight.cli import run
assert run(command.split()[1:] + ["--steps", "2", "--quiet"]) == 0  # as the guide has it
for what in ("methods", "encoders", "data", "recipes", "policies"):
    assert run(["list", what]) == 0
train = "pretrain plain --recipe tiny --encoder dotnet --data stripes:256 --image-size 16 --holdout 64 --epochs 2 --quiet "
assert run((train + "--views.policy half --out r --json").split()) == 0
assert run("evaluate r --protocols knn,ridge --json".split()) == 0
assert run("evaluate r --protocols knn --features projector --json".split()) == 0
assert run((train + "--views.pipeline my.yaml --out p --method.temperature 0.3").split()) == 0
assert run("export r --format safetensors".split()) == 0
import selfsight
assert selfsight.load("r").embed("stripes:20").shape == (20, 48)
run_ = selfsight.pretrain("plain", data="stripes", steps=2, batch_size=32, out="s", quiet=True)  # no recipe: SimCLR's, borrowed
assert run_.code == 0
"""
    )
    out, err = run(place, code, tmp_path)
    for line in ("plain", "dotnet", "stripes", "half", "plain-tiny", "SimCLR with a plain head (arXiv 2002.05709)."):
        assert line in out
    assert "left out" not in err
    objects = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert objects[0]["steps"] == 6
    assert objects[1]["ridge"]["top1"] > 0.8  # stripes across and down
    settings = (tmp_path / "r/run.yaml").read_text()
    assert "name: plain" in settings
    assert "temperature: 0.2" in settings
    assert "invert" in (tmp_path / "p/run.yaml").read_text()


def test_a_part_may_be_imported_first(place, tmp_path):
    code = """
import selfsight_sample.policy, selfsight_sample.data, selfsight_sample.encoder, selfsight_sample.method
import selfsight, selfsight.api
from selfsight.augment import ENTRIES, STEPS, POLICIES
assert "half" in ENTRIES and "half" in POLICIES and "invert" in STEPS
assert "plain" in selfsight.METHODS and "dotnet" in selfsight.ENCODERS and "stripes" in selfsight.DATASETS
"""
    _, err = run(place, code, tmp_path)
    assert "left out" not in err


def test_what_cannot_be_used_is_left_out_and_told(tmp_path):
    site = tmp_path / "site"
    info = site / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[selfsight.methods]\nsimclr = brokenparts:Mine\nlost = brokenparts:nothing\nconfigless = brokenparts:Mine\n"
        "[selfsight.encoders]\nbare = brokenparts:function\n[selfsight.policies]\nmissing = no_such_module:ENTRY\n"
        "[selfsight.steps]\nother = brokenparts:Named\n"
    )
    (site / "brokenparts.py").write_text(
        "from selfsight.core import Method\nclass Mine(Method): ...\ndef function(): ...\n"
        "def __getattr__(name):\n"
        "    if name != 'Named': raise AttributeError(name)\n"
        "    from selfsight.augment import Step\n"
        "    return type('Named', (Step,), {'name': 'another'})\n"
    )
    code = """
from selfsight.cli import run
assert run(["list"]) == 0
assert run("pretrain lost --recipe tiny".split()) == 2
assert run("pretrain simclr --recipe tiny --steps 1 --out r --quiet".split()) == 0
"""
    _, err = run(site, code, tmp_path)
    told = [line for line in err.splitlines() if "left out" in line]
    assert len(told) == 6
    for part in (
        "'simclr' of broken (methods) is left out: selfsight has one of that name",
        "'lost' of broken (methods) is left out: AttributeError",
        "'configless' of broken (methods) is left out: brokenparts:Mine is not a subclass of selfsight.core.Method with a Config",
        "'bare' of broken (encoders) is left out: brokenparts:function is not a selfsight.encoders.Encoder",
        "'missing' of broken (policies) is left out: ModuleNotFoundError",
        "'other' of broken (steps) is left out",
    ):
        assert any(part in line for line in told), part
    assert "unknown method 'lost'" in err


def test_the_guide_shows_the_files_of_the_sample():
    """Blocks that name a file of the sample hold it, word for word."""
    text = (ROOT / "docs/extending.md").read_text()
    files = [SAMPLE / "selfsight_sample" / name for name in ("method.py", "encoder.py", "data.py", "policy.py")]
    for file in [SAMPLE / "pyproject.toml", *files]:
        content = file.read_text()
        shown = content.split("# One line for each part", 1)[1].split("\n", 1)[1] if file.suffix == ".toml" else content
        assert shown.strip() in text, file.name
