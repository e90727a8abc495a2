"""The command line as a user meets it: exit codes, one-line mistakes, JSON, run folders, interruption, baselines.

What a verb does is asked of real processes; how it answers to wrong words is asked of `cli.run` in this process (the
import of torch would be most of the time), and of a real process once per way out.
"""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from selfsight import cli
from selfsight import run as runs
from selfsight.arguments import flags_of
from selfsight.catalogue import _LISTS
from selfsight.checkpoint import load as load_checkpoint
from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from selfsight.verbs.pretrain import settings

pytestmark = pytest.mark.xdist_group("cli")

TINY = "pretrain simclr --recipe tiny --threads 1 --precision fp32"
STEPS = 12


def ask(line: str, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run `selfsight LINE` as a process of its own."""
    command = [sys.executable, "-m", "selfsight", *shlex.split(line)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False, **more)


def begin(line: str, cwd: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "selfsight", *shlex.split(line)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = ("seconds", "cpu_seconds", "views_per_second", "waiting")
    return [{k: v for k, v in line.items() if k not in times} for line in lines]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder, with its size and the time of its last change."""
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}


def pictures(folder: Path, classes: int = 3, each: int = 8, seed: int = 0, side: int = 20) -> Path:
    """Labelled PNGs: one folder per class, each class of its own colour."""
    rng = np.random.default_rng(seed)
    for number in range(classes):
        place = folder / f"class{number}"
        place.mkdir(parents=True)
        for i in range(each):
            array = rng.integers(0, 80, (side, side, 3), dtype=np.uint8)
            array[..., number % 3] += 120
            Image.fromarray(array).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with a finished run, damaged checkpoints, settings and pictures."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "outcome").mkdir()
    command = f"{TINY} --steps {STEPS} --log-every 1 --checkpoint-every 4 --probe.every 0.5 --json --out run"
    done = ask(command, desk)
    (desk / "outcome" / "stdout").write_text(done.stdout)
    (desk / "outcome" / "stderr").write_text(done.stderr)
    assert done.returncode == 0, done.stderr

    content = torch.load(desk / "run/checkpoints/last.pt", weights_only=True)
    torch.save({**content, "format": 99}, desk / "version.pt")
    other = {k: v[:2] if v.ndim else v for k, v in content["method"].items()}
    torch.save({**content, "method": other}, desk / "architecture.pt")
    torch.save({k: v for k, v in content.items() if k != "extra"}, desk / "part.pt")
    torch.save({"weights": torch.zeros(3)}, desk / "foreign.pt")
    whole = (desk / "run/checkpoints/last.pt").read_bytes()
    (desk / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (desk / "random.pt").write_bytes(b"no checkpoint at all")
    whole = (desk / "run/encoder.safetensors").read_bytes()
    (desk / "cut.safetensors").write_bytes(whole[: len(whole) // 2])

    for name, text in {
        "byol.yaml": "method: {name: byol}", "deep.yaml": "method: {name: simclr, temperatur: 3}",
        "key.yaml": "temperatur: 3", "epoch.yaml": "epoch: 3", "type.yaml": "epochs: many", "group.yaml": "optimizer: 3",
        "method.yaml": "method: simcl", "methods.yaml": "method: [byol]", "number.yaml": "method: {name: 3}",
        "list.yaml": "- 1", "broken.yaml": "a: [", "blank.yaml": "", "recipe.yaml": "recipe: tinny",
        "temperature.yaml": "method: {temperature: -1}",
    }.items():  # fmt: skip
        (desk / name).write_text(text)
    (desk / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("empty", "text", "broken", "full"):
        (desk / name).mkdir()
    (desk / "text" / "a.txt").write_text("hello")
    (desk / "broken" / "a.png").write_bytes(b"no picture")
    (desk / "full" / "x").write_text("x")
    (desk / "taken.npz").write_text("taken")
    pictures(desk / "labelled")
    pictures(desk / "test", each=4, seed=1)
    pictures(desk / "flat", classes=1)
    return desk


# ---------------------------------------------------------------------------------------------- wrong use

WRONG = {  # command line -> words that the answer must hold
    "pretran": "Perhaps you meant 'pretrain'",
    "--foo": "unknown verb '--foo'. Known: pretrain",
    "pretrain simclr --epoch 3": "unknown flag --epoch. Perhaps you meant --epochs",
    "pretrain simclr --method.temprature 3": "Perhaps you meant --method.temperature",
    "pretrain simclr --zzz 3": "unknown flag --zzz. See `selfsight pretrain --help`",
    "pretrain simclr -x": "unexpected '-x'",
    "pretrain simclr extra": "unexpected 'extra'",
    "pretrain --quiet simclr": "unexpected 'simclr'",
    "pretrain simcrl": "unknown method 'simcrl'. Perhaps you meant 'simclr'",
    "pretrain simclr --recipe tinny": "unknown recipe 'tinny' for simclr. Perhaps you meant 'tiny'",
    "pretrain simclr --recipe byol-tiny": "recipe 'byol-tiny' is for byol",
    f"{TINY} --encoder resnet8 --out o": "Perhaps you meant 'resnet18'",
    f"{TINY} --views.policy simcl --out o": "Perhaps you meant 'simclr'",
    "pretrain --data shaps --out o": "Perhaps you meant 'shapes'",
    "pretrain --data cifar10 --data-root nothing --out o": "--download",
    f"{TINY} --epochs x": "--epochs 'x': expected a number or auto",
    f"{TINY} --seed 1.5": "--seed '1.5': expected a whole number",
    f"{TINY} --views.scale 0.5": "--views.scale '0.5': expected None or two numbers",
    f"{TINY} --views.scale=0.5": "expected None or two numbers",
    f"{TINY} --optimizer.betas 0.5": "--optimizer.betas needs 2 values",
    f"{TINY} --views.colour slow": "--views.colour 'slow': expected one of fast, exact",
    f"{TINY} --epochs": "--epochs needs a value",
    "pretrain simclr --recipe": "--recipe needs a value",
    f"{TINY} --epochs -1": "--epochs is -1.0, must not be negative",
    f"{TINY} --epochs nan": "--epochs is nan: give a finite number",
    f"{TINY} --method.temperature 0": "method.temperature is 0.0, must be above 0",
    f"{TINY} --method.temperature inf": "--method.temperature is inf: give a finite number",
    f"{TINY} --optimizer.lr 0": "optimizer.lr is 0.0; it must be above 0",
    f"{TINY} --seed -1": "--seed is -1, must not be negative",
    "pretrain simclr --recipe tiny --threads -1": "--threads is -1, must not be negative",
    f"{TINY} --workers -1": "--workers is -1",
    f"{TINY} --channels 2": "--channels is 2: give 1, 3 or 0",
    f"{TINY} --probe.k 0": "probe.k must be at least 1",
    f"{TINY} --epochs 1 --epochs 2": "--epochs is given twice",
    f"{TINY} --epochs 1 --epochs=1": "--epochs is given twice",
    f"{TINY} --download --no-download": "--no-download contradicts --download",
    f"{TINY} --recipe shapes": "--recipe is given 2 times",
    f"{TINY} --json --json": "--json is given 2 times",
    f"{TINY} --config byol.yaml": "--recipe and --config contradict each other",
    "pretrain simclr --config byol.yaml": "byol.yaml is for method byol, not simclr",
    "pretrain --config deep.yaml": "unknown setting method.temperatur. Perhaps you meant method.temperature",
    "pretrain --config key.yaml": "unknown setting temperatur. Perhaps you meant method.temperature",
    "pretrain --config epoch.yaml": "unknown setting epoch. Perhaps you meant epochs",
    "pretrain --config type.yaml": "epochs: 'many' is not a number or auto",
    "pretrain --config group.yaml": "optimizer: expected a group of settings, found 3",
    "pretrain --config method.yaml": "Perhaps you meant 'simclr'",
    "pretrain --config methods.yaml": "method: expected a name",
    "pretrain --config number.yaml": "method: expected a name",
    "pretrain --config temperature.yaml": "method.temperature is -1",
    "pretrain --config list.yaml": "is not a run",
    "pretrain --config blank.yaml": "is not a run",
    "pretrain --config broken.yaml": "is not valid YAML",
    "pretrain --config bytes.yaml": "is not readable text",
    "pretrain --config recipe.yaml": "Perhaps you meant 'tiny'",
    "pretrain --config missing.yaml": "no file 'missing.yaml'",
    "pretrain --data empty --out o": "no pictures in empty",
    "pretrain --data text --out o": "no pictures in text",
    "pretrain --data broken --out o": "no readable picture in broken",
    "pretrain --data missing/folder --out o": "there is no missing/folder",
    f"{TINY} --batch-size 1024 --out o": "choose at most 512",
    f"{TINY} --batch-size 64 --processes 3 --out o": "not divisible by 3 (--processes 3 times --accumulate 1)",
    f"{TINY} --batch-size 64 --accumulate 5 --out o": "not divisible by 5",
    f"{TINY} --epochs 0 --out o": "choose at least one step",
    f"{TINY} --holdout 1000 --out o": "hold-out of 1000",
    f"{TINY} --out full": "'full' exists and is not empty: choose another name, or empty it",
    f"{TINY} --out full/x": "choose another name",
    f"{TINY} --out full/x/y": "choose another place",
    f"{TINY} --out run": "go on with `selfsight resume run`",
    f"{TINY} --out full --processes 2": "choose another name",
    f"{TINY} --device cdua --out o": "Perhaps you meant 'cuda'",
    f"{TINY} --views.locals 2 --out o": "reads no local crops: leave out --views.locals",
    f"{TINY} --views.views 3 --out o": "set --views.views 2",
    f"{TINY} --net.stem small --out o": "net.stem is no setting of fastnet",
    f"{TINY} --log-to wandb --out o": "pip install selfsight[wandb]",
    f"{TINY} --log-to paper --out o": "expected one of tensorboard, wandb, mlflow",
    "resume": "resume takes one RUN",
    "resume run run": "resume takes one RUN",
    "resume run --steps 3": "unknown flag --steps",
    "resume nothing": "no run.yaml",
    "resume full": "give a folder that `selfsight pretrain` wrote",
    "evaluate": "evaluate takes one RUN",
    "evaluate nothing": "no run or checkpoint at 'nothing'",
    "evaluate full": "is not a run folder with an encoder",
    "evaluate version.pt --train labelled": "layout 99",
    "evaluate architecture.pt --train labelled": "does not fit",
    "evaluate part.pt --train labelled": "not a whole checkpoint",
    "evaluate foreign.pt --train labelled": "name their network, --encoder resnet50",
    "evaluate cut.pt --train labelled": "not readable as weights",
    "evaluate random.pt --train labelled": "not readable as weights",
    "evaluate cut.safetensors --train labelled": "not a readable safetensors file",
    "evaluate byol.yaml --train labelled": "give another file",
    "evaluate run/encoder.safetensors": "--train DATA",
    "evaluate run --train flat --test flat": "flat has no labels",
    "evaluate run --train labelled --test flat": "have no labels",
    "evaluate run --train empty": "no pictures in empty",
    "evaluate run --protocols knn,linaer": "unknown protocol 'linaer'. Perhaps you meant 'linear'",
    "evaluate run --protocols ''": "unknown protocol",
    "evaluate random --encoder resnet8": "Perhaps you meant 'resnet18'",
    "evaluate random --seed -1": "--seed -1",
    "evaluate pixels --tests labelled": "Perhaps you meant --test",
    "embed run": "--data DATA and --out FILE",
    "embed run --data labelled --out f.txt": ".npz, .npy, .csv, .parquet",
    "embed run --data labelled --out taken.npz": "exists: choose another name",
    "embed run --data labelled --out full/x/y.npz": "choose another place",
    "embed run --data empty --out new/g.npz": "no pictures in empty",
    "embed nothing --data labelled --out g.npz": "no run or checkpoint",
    "export run --format timm --out t.safetensors": "not a timm model: export it with --format safetensors",
    "export run --format onx": "unknown format 'onx'",
    "export run --format safetensors --out taken.npz": "exists: choose another name",
    "export nothing": "no run or checkpoint",
    "report": "report takes RUN [RUN ...]",
    "report nothing": "is no run folder",
    "list foo": "nothing to list under 'foo'",
    "list method": "Perhaps you meant 'methods'",
    "list methods encoders": "unexpected 'encoders'",
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_is_one_line_and_leaves_nothing(
    line: str,
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if "wandb" in line:
        monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    monkeypatch.chdir(desk)
    before = tree(desk)
    code = cli.run(shlex.split(line))
    out, err = capfd.readouterr()
    err = "\n".join(row for row in err.splitlines() if not row.startswith("reading "))  # progress of the data side
    assert code == 2
    assert out == ""
    assert err.startswith("selfsight: ")
    assert len(err.splitlines()) == 1
    assert WRONG[line] in err
    assert tree(desk) == before


@pytest.mark.parametrize("line", ["pretran", f"{TINY} --epochs x", "evaluate cut.pt --train labelled"])
def test_wrong_use_of_a_process(line: str, desk: Path) -> None:
    before = tree(desk)
    done = ask(line, desk)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("selfsight: ")
    assert done.stderr.count("\n") == 1
    assert tree(desk) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("line", [f"{TINY} --out o --device cuda", "evaluate run --device cuda"])
def test_no_gpu(
    line: str,
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(desk)
    before = tree(desk)
    assert cli.run(shlex.split(line)) == 2
    assert "try --device auto" in capfd.readouterr().err
    assert tree(desk) == before


def test_wrong_use_of_two_processes_is_one_line(desk: Path) -> None:
    """The mistake shows in the workers only: the batch is larger than the set."""
    before = tree(desk)
    done = ask(f"{TINY} --batch-size 1024 --processes 2 --out o", desk)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if line.startswith("selfsight: ")]
    assert len(told) == 1
    assert "choose at most 512" in told[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert tree(desk) == before


# ---------------------------------------------------------------------------------------------- help and lists


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(cli.run([verb, "--help"]))
    assert not stop.value.code
    shown = capsys.readouterr().out
    assert f"selfsight {verb}" in shown
    assert "Example: selfsight" in shown
    assert "--json" in shown


def test_help_and_version_are_quick(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom selfsight import cli\n"
        "for flag in ('--help', '-h', 'help', '--version'):\n    assert cli.run([flag]) == 0\nassert cli.run([]) == 0\n"
        "heavy = {'torch', 'numpy', 'tyro', 'timm', 'rich', 'yaml'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "selfsight pretrain simclr --data" in done.stdout


def test_version(tmp_path: Path) -> None:
    from selfsight import __version__

    done = ask("--version", tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", "methods", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown) == list(METHODS)
    assert all("arXiv" in about for name, about in shown.items() if name != "supervised")  # which needs no paper
    assert cli.run(["list", "--json"]) == 0
    everything = json.loads(capsys.readouterr().out)
    assert list(everything) == list(_LISTS)
    assert all(entries and all(entries.values()) for entries in everything.values())
    for what in _LISTS:
        assert cli.run(["list", what]) == 0
        text = capsys.readouterr().out
        assert all(name in text for name in everything[what])


# ---------------------------------------------------------------------------------------------- a finished run


def test_json_of_pretrain(desk: Path) -> None:
    found = json.loads((desk / "outcome/stdout").read_text())  # one object and nothing else
    assert (desk / "outcome/stdout").read_text().count("\n") == 1
    assert {"run", "steps", "seconds", "views_per_second", "final_loss", "knn", "health"} <= found.keys()
    assert (found["run"], found["steps"]) == ("run", STEPS)
    assert found["final_loss"] == [line["loss"] for line in metrics(desk / "run") if "loss" in line][-1]
    assert found["seconds"] > 0
    assert found["views_per_second"] > 0
    assert 0 <= found["knn"]["top1"] <= 1
    assert found["knn"]["part"] == "test"
    log = (desk / "outcome/stderr").read_text()
    assert "policy simclr-cifar: simclr at 16 px" in log
    assert "hold-out: 128 of 640 pictures" in log


def test_the_folder_has_what_the_documentation_lists(desk: Path) -> None:
    page = (Path(__file__).parent.parent / "docs/run-folder.md").read_text().split("\n## ")[0]  # the table of files
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    names = [name for row in rows for name in row.split("`")[1::2]]
    assert len(names) > 8
    run = desk / "run"
    for name in names:
        if "*" not in name:  # kept copies of the encoder come with --export-every
            assert (run / name).exists(), name
    for name in ("curves.png", "views.png", "neighbours.npz"):
        assert (run / "figures" / name).is_file()
    assert not list(run.rglob(".*"))
    report = (run / "report.html").read_text()
    assert not re.search(r"<script[^>]+src=", report)
    page = re.sub(r"<script.*?</script>", "", report, flags=re.DOTALL)  # inlined plotly names its makers' sites
    assert not re.search(r"""<(link|img|iframe)[^>]+(src|href)=["']?(https?:|//)|@import""", page)


def test_metrics_have_every_step(desk: Path) -> None:
    lines = metrics(desk / "run")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    for line in steps:
        assert {
            "step",
            "epoch",
            "loss",
            "lr",
            "gradient_norm",
            "views_per_second",
            "seconds",
            "cpu_seconds",
        } <= line.keys()
        assert line["epoch"] == line["step"] / 8  # 512 pictures in batches of 64
        assert all(isinstance(value, int | float) for value in line.values())
    seconds = [line["seconds"] for line in steps]
    assert seconds == sorted(seconds)
    assert [line["step"] for line in lines if "knn" in line] == [0, 4, 8, 12]
    assert [line["step"] for line in lines if "health" in line][-3:] == [4, 8, 12]
    assert all(line["why"] for line in lines if "health" in line)
    assert any("pixels" in line for line in lines)
    with (desk / "run/steps.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in table] == [line["loss"] for line in steps]


def test_run_yaml_round_trips_and_is_resolved(desk: Path) -> None:
    text = (desk / "run/run.yaml").read_text()
    run = runs.from_dict(yaml.safe_load(text))
    plain = yaml.safe_load(text)
    provenance = plain.pop("provenance")
    assert yaml.safe_load(runs.to_yaml(run)) == plain
    assert "auto" not in {run.encoder, run.epochs, run.batch_size, run.image_size, run.precision, run.views.policy}
    assert (run.steps, run.seed, run.recipe) == (STEPS, 0, "simclr-tiny")
    assert {"selfsight", "torch", "data", "git", "choices", "threads", "cores"} <= provenance.keys()
    assert (provenance["data"]["train"], provenance["data"]["holdout"]) == (512, 128)


def test_config_of_a_run_gives_the_same_run(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "again.yaml").write_text((desk / "run/run.yaml").read_text())
    assert cli.run(shlex.split("pretrain --config again.yaml --json --quiet --out again")) == 0
    out, err = capfd.readouterr()
    assert err == ""  # --quiet
    before = json.loads((desk / "outcome/stdout").read_text())
    after = json.loads(out)
    same = ("steps", "final_loss", "knn", "holdout", "untrained", "pixels", "health", "why")
    assert {k: after[k] for k in same} == {k: before[k] for k in same}
    assert (tmp_path / "again/encoder.safetensors").read_bytes() == (desk / "run/encoder.safetensors").read_bytes()


def test_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(shlex.split("pretrain byol --recipe tiny --epochs 3 --out o --dry-run --json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["steps"], found["steps_per_epoch"], found["pictures"]) == (24, 8, 512)
    assert found["settings"]["method"]["name"] == "byol"
    assert found["settings"]["epochs"] == 3
    assert found["peak_learning_rate"] == pytest.approx(0.1 * 64 / 256)
    assert any("policy asym" in choice for choice in found["choices"])
    assert cli.run(shlex.split("pretrain byol --recipe tiny --dry-run")) == 0
    assert yaml.safe_load(capsys.readouterr().out)["method"]["name"] == "byol"
    assert list(tmp_path.iterdir()) == []


def test_runs_get_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        assert cli.run(shlex.split(f"{TINY} --steps 1 --probe.every -1 --json --quiet")) == 0
        assert json.loads(capfd.readouterr().out)["run"] == f"runs/simclr-shapes-00{number}"


# ---------------------------------------------------------------------------------------------- every flag


SPECIAL = {  # flag -> words after it, where "one more" or "half" would not do
    "data": "cifar10", "data-root": "elsewhere", "image-size": "24", "channels": "1", "holdout": "64", "per-class": "5",
    "bad-files": "error", "cache": "off", "workers": "2", "encoder": "resnet18", "net.stem": "legacy", "net.norm": "group",
    "net.output-stride": "16", "views.policy": "none", "views.scale": "0.3 0.9", "views.local-scale": "0.1 0.2",
    "views.gray": "0.3", "views.blur": "0.3", "views.solarise": "0.3", "views.rotate": "0.3", "views.colour": "exact",
    "views.interpolation": "bicubic", "optimizer.name": "adam", "optimizer.scaling": "sqrt", "optimizer.betas": "0.5 0.6",
    "optimizer.lars-dialect": "tf", "schedule.name": "constant", "schedule.milestones": "0.2 0.5", "schedule.per": "epoch",
    "epochs": "7", "batch-size": "32", "precision": "bf16", "device": "cpu", "processes": "2", "out": "o",
    "log-to": "tensorboard", "accumulate": "2", "micro-batch": "16",
    "views.tiles.scale": "0.3 0.9", "views.tiles.value-shift": "0 5", "method.file": "set.npy",
    "views.pipeline": "[flip]", "views.mask-ratio": "0.2 0.3",
    "strategy": "fsdp", "schedule.stretch": "1.25", "net.sobel": "concat", "probe.protocols": "knn linear",
    "probe.monitor": "rank", "probe.study-every": "2",
}  # fmt: skip

EITHER = {  # flag -> two words, of which a method's recipe may have one already
    "optimizer.clip-per": ("all", "tensor"), "net.pool": ("mean", "cls"), "net.positions": ("sincos", "learned"),
    "views.mask": ("random", "block"),
}  # fmt: skip


# settings that another one must allow first (transformers have neither sgd nor muon; their clipping is by norm)
TOGETHER = (
    "method.stop-gradient",
    "method.symmetric",
    "method.train-between",
    "optimizer.nesterov",
    "optimizer.clip-value",
)


def others(flag: str, value: Any, hint: Any) -> list[list[str]]:
    """Flags that give this setting another value; the first legal one counts."""
    if isinstance(value, bool):
        head, dot, last = flag.rpartition(".")
        return [[f"--{head}{dot}no-{last}" if value else f"--{flag}"]]
    if flag in EITHER:
        return [[f"--{flag}", next(word for word in EITHER[flag] if word != value)]]
    if flag in SPECIAL:
        return [[f"--{flag}", *SPECIAL[flag].split()]]
    if typing.get_origin(hint) is typing.Literal:
        return [[f"--{flag}", str(choice)] for choice in typing.get_args(hint) if choice != value]
    if isinstance(value, int):
        return [[f"--{flag}", str(value + 1)], [f"--{flag}", str(value - 1)]]
    if value is None:
        return [[f"--{flag}", "0.5"]]
    if isinstance(value, float):
        return [
            [f"--{flag}", str(other)]
            for other in ((value / 2 if value else 0.5), (value + 1) / 2, 0.98 * value, 0.995 * value)
        ]
    raise AssertionError(f"no other value known for --{flag}")


@pytest.mark.parametrize("method", METHODS)
def test_every_flag_changes_the_settings(method: str) -> None:
    """Row T16: each flag alone changes its setting, and no other."""
    base = settings([method, "--recipe", "tiny"])
    plain, hints = runs.to_dict(base), typing.get_type_hints(type(base.method))
    for flag, value in flags_of(base).items():
        if flag == "recipe":  # it chooses the defaults, see test_no_flag_means_the_recipe_of_the_data
            continue
        hint = hints.get(flag.removeprefix("method.").replace("-", "_")) if flag.startswith("method.") else None
        for words in others(flag, value, hint):
            try:
                changed = runs.to_dict(settings([method, "--recipe", "tiny", *words]))
            except WrongUse:
                continue
            if changed != plain:
                break
        else:
            assert flag in TOGETHER, f"no value of --{flag} is legal"
            continue
        assert different(plain, changed) == [flag.replace("-", "_")], words
        if len(words) == 2:
            assert runs.to_dict(settings([method, "--recipe", "tiny", f"{words[0]}={words[1]}"])) == changed


def different(a: dict[str, Any], b: dict[str, Any], where: str = "") -> list[str]:
    found: list[str] = []
    for key in a:
        if isinstance(a[key], dict):
            found += different(a[key], b[key], f"{where}{key}.")
        elif a[key] != b[key]:
            found.append(where + key)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_no_flag_means_the_recipe_of_the_data(method: str) -> None:
    assert settings([method]).recipe == f"{method}-shapes"
    assert settings([method, "--data", "photos"]).recipe == f"{method}-any"
    assert settings([method, "--data=photos"]).data == "photos"
    assert settings([method, "--data", "cifar10", "--device", "cpu"]).recipe == f"{method}-cifar10-cpu"
    assert settings([method, "--data", "cifar10", "--device", "cuda"]).recipe == f"{method}-cifar10-200"
    assert settings(["--recipe", f"{method}-tiny"]).method_name == method


def test_config_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("method: {name: byol, momentum: 0.5}\nrecipe: tiny\noptimizer:\n  lr: 1e-2\nout: somewhere\n")
    run = settings(["--config", str(file), "--epochs", "9"])
    assert (run.method_name, run.method.momentum, run.optimizer.lr, run.epochs) == ("byol", 0.5, 0.01, 9)
    assert run.out is None  # a second run from the same file gets its own folder
    assert run.data == "shapes:16:640"  # of the recipe that the file names
    file.write_text(runs.to_yaml(settings(["byol", "--recipe", "tiny", "--max-minutes", "1"]), {"steps": "fixed"}))
    assert settings(["--config", str(file)]).max_minutes == 0  # in a run.yaml the minutes have become steps


# ---------------------------------------------------------------------------------------------- interruption

# the whole run takes some seconds, so that a signal finds it in the middle
LONG = f"{TINY} --epochs 8 --log-every 1 --checkpoint-every 1 --probe.every 10"
TOTAL = 64


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    desk = tmp_path_factory.mktemp("unbroken")
    done = ask(f"{LONG} --quiet --out run", desk)
    assert done.returncode == 0, done.stderr
    return desk / "run"


def wait_for_steps(process: "subprocess.Popen[str]", run: Path, count: int) -> None:
    limit = time.monotonic() + 120
    path = run / "checkpoints/last.pt"
    while time.monotonic() < limit and process.poll() is None:
        lines = (run / "metrics.jsonl").read_text().count('"loss"') if path.is_file() else 0
        if lines >= count:
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"no {count} steps: {process.communicate()}")


def same_run(a: Path, b: Path) -> None:
    assert (a / "encoder.safetensors").read_bytes() == (b / "encoder.safetensors").read_bytes()
    assert without_times(metrics(a)) == without_times(metrics(b))
    ours, theirs = (load_checkpoint(run / "checkpoints/last.pt") for run in (a, b))
    assert ours.step == theirs.step
    assert all(torch.equal(ours.method[name], theirs.method[name]) for name in theirs.method)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupted_run_goes_on_exactly(number: signal.Signals, code: int, unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = begin(f"{LONG} --json --out run", tmp_path)
    wait_for_steps(process, run, 5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    stopped = load_checkpoint(run / "checkpoints/last.pt").step
    assert 4 <= stopped < TOTAL  # a step is written down before its checkpoint is
    if number != signal.SIGKILL:
        assert f"interrupted after step {stopped} of {TOTAL}; go on with: selfsight resume run" in err
        assert json.loads(out)["steps"] == stopped
        assert "Traceback" not in err
    done = ask("resume run --json", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"going on at step {stopped} of {TOTAL}" in done.stderr
    assert json.loads(done.stdout)["steps"] == TOTAL
    same_run(run, unbroken)


def test_resume_of_a_finished_run_says_so(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk)
    before = tree(desk / "run")
    assert cli.run(["resume", "run", "--json"]) == 0
    assert "finished" in json.loads(capsys.readouterr().out)["note"]
    assert cli.run(["resume", "run"]) == 0
    assert "the run had finished already" in capsys.readouterr().out
    assert tree(desk / "run") == before


def test_resume_refuses_changed_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos", each=10)
    line = (
        f"{TINY} --data photos --steps 2 --batch-size 8 --holdout 6 --image-size 16 --probe.every -1 --quiet --out run"
    )
    assert cli.run(shlex.split(line)) == 0
    results = tmp_path / "run/results.json"
    results.write_text(json.dumps({**json.loads(results.read_text()), "finished": False}))
    Image.new("RGB", (20, 20)).save(tmp_path / "photos/class0/new.png")
    capfd.readouterr()
    assert cli.run(["resume", "run"]) == 2
    err = capfd.readouterr().err
    assert "the pictures of 'photos' changed" in err
    assert "restore them, or start a new run" in err


# ---------------------------------------------------------------------------------------------- two processes

PAIR = f"{TINY} --processes 2"


def test_two_processes(desk: Path, tmp_path: Path) -> None:
    done = ask(f"{PAIR} --steps {STEPS} --log-every 1 --probe.every 0.5 --json --out run", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    alone = json.loads((desk / "outcome/stdout").read_text())
    assert found["steps"] == STEPS
    assert found["untrained"] == alone["untrained"]
    assert abs(found["knn"]["top1"] - alone["knn"]["top1"]) < 0.12  # of 128 pictures; see below
    ours, theirs = ([line for line in metrics(folder / "run") if "loss" in line] for folder in (tmp_path, desk))
    # later steps drift, as float32 sums are split otherwise; equality at the end is asked in float64 in test_contract.py
    for a, b in zip(ours[:3], theirs[:3], strict=True):
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)  # of the whole batch, not of one process's rows
        assert a["lr"] == b["lr"]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run/.request.yaml").exists()


def test_workers_end_with_their_launcher_and_nobody_trains_beside_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = begin(f"{PAIR} --epochs 400 --log-every 1 --checkpoint-every 1 --probe.every -1 --out run", tmp_path)
    wait_for_steps(process, run, 5)
    second = ask("resume run", tmp_path)
    assert second.returncode == 2
    assert "run is being trained by another process: wait for it, or end it first" in second.stderr
    process.kill()  # the launcher alone
    process.communicate(timeout=60)
    limit = time.monotonic() + 60
    while time.monotonic() < limit and "interrupted after step" not in (run / "log.txt").read_text():
        time.sleep(0.1)
    stopped = load_checkpoint(run / "checkpoints/last.pt").step
    assert f"interrupted after step {stopped} of" in (run / "log.txt").read_text()


def test_two_processes_are_interrupted_and_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = begin(
        f"{PAIR} --epochs 6 --log-every 1 --checkpoint-every 1 --probe.every 10 --json --out run",
        tmp_path,
    )
    wait_for_steps(process, run, 5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 143, err
    stopped = load_checkpoint(run / "checkpoints/last.pt").step
    assert 5 <= stopped < 48
    done = ask("resume run --json", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 48
    assert [line["step"] for line in metrics(run) if "loss" in line] == list(range(1, 48 + 1))


# ---------------------------------------------------------------------------------------------- the other verbs


@pytest.mark.parametrize("target", ["run", "run/checkpoints/best.pt", "run/encoder.safetensors", "random", "pixels"])
def test_evaluate(target: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(desk)
    line = f"evaluate {target} --train labelled --test test --protocols knn,ridge,linear --encoder fastnet-tiny --json"
    assert cli.run(shlex.split(line)) == 0
    found = json.loads(capfd.readouterr().out)
    assert list(found) == ["knn", "ridge", "linear"]
    for numbers in found.values():
        assert numbers["top1"] > 0.9  # classes differ in colour, which any features see
        assert numbers["top1"] <= 1
        assert numbers["protocol"]
        assert numbers["train"] == "labelled (train, 24)"
        assert numbers["test"] == "test (test, 12)"
        assert numbers["features"] == ("pixels" if target == "pixels" else "encoder")
        assert numbers["dim"] > 0
    assert {"k", "temperature"} <= found["knn"].keys()


def test_evaluate_on_the_data_of_the_run(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk)
    assert cli.run(shlex.split("evaluate run --protocols knn --json")) == 0
    found = json.loads(capfd.readouterr().out)["knn"]
    pretrained = json.loads((desk / "outcome/stdout").read_text())["test"]
    assert found["top1"] == pytest.approx(pretrained["top1"], abs=1 / 128)
    assert cli.run(shlex.split("evaluate run --protocols knn")) == 0
    assert f"{found['top1']:.2%}" in capfd.readouterr().out


def test_embed(desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(desk)
    assert cli.run(shlex.split("embed run --data labelled --out features.npz --json")) == 0
    assert json.loads(capfd.readouterr().out) == {"out": "features.npz", "pictures": 24, "dim": 32, "labels": True}
    with np.load("features.npz", allow_pickle=False) as arrays:
        features, labels, paths, index = (arrays[name] for name in ("features", "labels", "paths", "index"))
        assert arrays["classes"].tolist() == ["class0", "class1", "class2"]
    assert (features.shape, features.dtype) == ((24, 32), np.float32)
    assert labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert paths.tolist() == [f"class{c}/{i}.png" for c in range(3) for i in range(8)]
    assert index.tolist() == list(range(24))
    assert cli.run(shlex.split("embed run --data labelled --out features.csv")) == 0
    with Path("features.csv").open() as file:
        header, *rows = list(csv.reader(file))
    assert header == ["index", "path", "label", "class", *[f"f{i}" for i in range(32)]]
    assert [row[1] for row in rows] == paths.tolist()
    assert [row[3] for row in rows] == ["class0"] * 8 + ["class1"] * 8 + ["class2"] * 8
    assert np.array([row[4:] for row in rows], np.float32) == pytest.approx(features)


def test_parquet_wants_pyarrow(desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.run(shlex.split("embed run --data labelled --out features.parquet")) == 2
    assert "selfsight[parquet]" in capfd.readouterr().err
    assert not Path("features.parquet").exists()


def test_report(desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(desk)
    assert cli.run(shlex.split("report run run --out both.html --json")) == 0
    assert json.loads(capfd.readouterr().out) == {"out": "both.html"}
    assert "<html" in Path("both.html").read_text()[:500].lower()


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m selfsight list | head -n 1"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.stdout.startswith("methods")
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
