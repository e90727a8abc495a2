"""The eigenspace of predictors: spectra, alignment and asymmetry by loops; what a run keeps; figures; the studies."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import selfsight
from selfsight import cli, measure, pretraining
from selfsight.analysis import eigenfigures
from selfsight.analysis.eigenspace import Record, Studied, alignment, asymmetry, decompose, read_run
from selfsight.errors import WrongUse
from selfsight.methods.siamese import correlation, predictor_from
from selfsight.nn import mlp
from selfsight.passes import to_device
from selfsight.recipes import RECIPES, recipe
from selfsight.rng import Stream, generator
from selfsight.run import ProbeConfig
from selfsight.train import steps
from test_joint_embedding import build
from tiny import make, same, state, tiny

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "byol": ("byol", {}),
    "byol symmetric": ("byol", {"symmetric": True}),
    "byol linear": ("byol", {"predictor": "linear"}),
    "byol linear symmetric": ("byol", {"predictor": "linear", "symmetric": True}),
    "simsiam": ("simsiam", {}),
    "simsiam symmetric": ("simsiam", {"symmetric": True, "norm": "batch-plain"}),
    "directpred": ("directpred", {}),
    "directpred centred": ("directpred", {"centre": True, "every": 3}),
    "directcopy": ("directcopy", {}),
}
family = pytest.mark.parametrize("who", FAMILY)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def run_of(who: str, **changes: Any) -> Any:
    name, settings = FAMILY[who]
    run = replace(recipe(name, "tiny"), quiet=True, threads=1, precision="fp32", log_every=1, **changes)
    return replace(run, method=replace(run.method, **settings))


# ---------------------------------------------------------------------------------------------- formulas


def test_spectra_alignment_and_asymmetry_by_loops() -> None:
    z, w = random(2, 30, 5), random(5, 5, seed=1)
    f = np.sum([np.outer(row, row) for view in z for row in view], axis=0) / 60
    np.testing.assert_allclose(correlation(torch.from_numpy(z)).numpy(), f, atol=1e-13)
    found = decompose(f, w)
    for i, value in enumerate(found.spectrum):  # each eigenvalue has a vector, by the null space of F - value I
        v = np.linalg.svd(f - value * np.eye(5))[2][-1]
        assert np.abs(f @ v - value * v).max() < 1e-9
        image = [sum(w[a, b] * v[b] for b in range(5)) for a in range(5)]
        dot = sum(v[a] * image[a] for a in range(5))
        lengths = sum(x * x for x in image) ** 0.5 * sum(x * x for x in v) ** 0.5
        assert found.alignment[i] == pytest.approx(dot / lengths, abs=1e-9)
    assert list(found.spectrum) == sorted(found.spectrum, reverse=True)
    assert found.spectrum.sum() == pytest.approx(np.trace(f), abs=1e-12)
    polynomial = np.roots(np.poly(w))  # roots of the characteristic polynomial
    np.testing.assert_allclose(found.predictor, sorted(polynomial.real, reverse=True), atol=1e-9)
    difference = sum(abs(w[a, b] - w[b, a]) for a in range(5) for b in range(5))
    assert found.asymmetry == pytest.approx(difference / sum(abs(x) for row in w for x in row), abs=1e-12)


def test_closed_values() -> None:
    f = np.diag([4.0, 1.0, 0.041, 0.039])
    w = np.array([[2.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]])
    found = decompose(f.astype(np.float32), w.astype(np.float32))
    np.testing.assert_allclose(found.spectrum, [4, 1, 0.041, 0.039], rtol=1e-6)
    np.testing.assert_allclose(found.predictor, [2, 1, 0, -1], atol=1e-12)  # the zero direction stays visible
    np.testing.assert_allclose(found.alignment, [1, -1, 0, 1], atol=1e-12)  # kept, turned round, turned aside, kept
    assert (found.used, found.passed, found.aligned) == (3, 2, 2)  # 0.039 lies below 1 % of 4
    assert found.asymmetry == pytest.approx(2 / 5)
    assert alignment(np.eye(4), np.zeros((4, 4))).tolist() == [0] * 4
    assert asymmetry(np.zeros((4, 4))) == 0
    assert asymmetry(random(200, 200)) == pytest.approx(2**0.5, abs=0.02)  # independent entries
    turn = np.linalg.qr(random(4, 4))[0]
    np.testing.assert_allclose(decompose(turn @ f @ turn.T, turn @ w @ turn.T).alignment, [1, -1, 0, 1], atol=1e-9)


def test_a_closed_form_predictor_is_aligned_everywhere() -> None:
    f = correlation(torch.from_numpy(random(2, 40, 6)))
    for power in (0.5, 1.0):
        found = decompose(f.numpy(), predictor_from(f, 0.1, power).numpy())
        np.testing.assert_allclose(found.alignment, 1, atol=1e-9)
        relative = (found.spectrum / found.spectrum[0]) ** power + 0.1
        np.testing.assert_allclose(found.predictor, relative, atol=1e-9)
        assert found.asymmetry < 1e-12


@pytest.mark.parametrize("hidden", [(), (8,), (7, 5)])
def test_the_predictors_matrix_at_any_depth(hidden: tuple[int, ...]) -> None:
    """The product of the layers, without normalisation and ReLU, so that z -> W_p z where neither acts."""
    method = build("byol")
    method.predictor = mlp([4, *hidden, 4], norm="batch", bias=True).double()
    plain = nn.Sequential(*(m for m in method.predictor if isinstance(m, nn.Linear)))
    z = torch.from_numpy(random(9, 4))
    zero = plain(torch.zeros(1, 4).double())
    torch.testing.assert_close(z @ method.matrix.T, plain(z) - zero, atol=1e-12, rtol=0)


# ---------------------------------------------------------------------------------------------- recording


@family
def test_what_is_studied(who: str) -> None:
    """F of the projections of two views, with statistics of the batch; nothing moves: no state, flag or generator."""
    run, data = tiny(FAMILY[who][0])
    run = replace(run, method=replace(run.method, **FAMILY[who][1]))
    made = make(run, data)
    method, _, pictures = made
    before, flags = state(made), [m.training for m in method.modules()]
    torch.manual_seed(3)
    kept = torch.get_rng_state()
    probe = ProbeConfig(samples=128)
    found = measure.study(method, pictures, probe, run.seed)
    assert torch.equal(torch.get_rng_state(), kept)
    assert same(state(made), before)
    assert [m.training for m in method.modules()] == flags
    again = measure.study(method, pictures, probe, run.seed)
    assert all(np.array_equal(found[name], again[name]) for name in found)

    rows, rng = measure.sample(len(pictures), 128, run.seed, 9), generator(run.seed, Stream.PROBE, 10)
    images = to_device(pictures.part.gather(rows.repeat(2)), pictures.device)  # a batch is filled up with other views
    total = np.zeros((32, 32))
    method.train()
    for _ in range(2):
        views = method.views(images, method.views.draw(256, rng))["global"]
        with torch.no_grad():
            z = method.projector(method.encoder(views[0]))[:128].double()
        z = z - z.mean(0) if who == "directpred centred" else z
        total += sum(np.outer(row, row) for row in z.numpy()) / 256
    np.testing.assert_allclose(found["correlation"], total, atol=1e-4 * total.max())
    weights = [m.weight.detach().numpy() for m in method.predictor.modules() if isinstance(m, nn.Linear)]
    product = weights[0] if len(weights) == 1 else weights[1] @ weights[0]
    np.testing.assert_allclose(found["predictor"], product, atol=1e-6)
    assert decompose(**found).asymmetry < (1e-6 if "symmetric" in who or "direct" in who else 2)
    assert ("symmetric" in who or "direct" in who) or decompose(**found).asymmetry > 1


@family
def test_looking_changes_no_loss(who: str) -> None:
    run, data = tiny(FAMILY[who][0])
    run = replace(run, method=replace(run.method, **FAMILY[who][1]))
    curves, ends = [], []
    for look in (False, True):
        made = make(run, data)
        method, optimizer, pictures = made
        curve = []
        for done in steps(method, optimizer, pictures, run, 0, 6):
            curve.append(float(done.loss))
            if look:
                assert measure.study(method, pictures, ProbeConfig(samples=64), run.seed)
        curves.append(curve)
        ends.append(state(made))
    assert curves[0] == curves[1]
    assert same(*ends)


class Later:
    """A signal that comes after some steps: stands for the list of those that were caught."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __bool__(self) -> bool:
        self.count -= 1
        return self.count < 0

    def __getitem__(self, index: int) -> int:
        return 15


def lines(folder: Path) -> list[tuple[int, float]]:
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in found if "loss" in line]


def test_a_run_keeps_its_eigenspace_also_when_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the untrained network on, every so many epochs; files and losses are those of an unbroken run, or of one unwatched."""
    probe = ProbeConfig(every=-1, study_every=0.5, samples=64)
    whole, broken, blind = (tmp_path / name for name in ("whole", "broken", "blind"))
    run = run_of("byol", epochs=2.0, probe=probe)
    assert pretraining.start(replace(run, out=str(whole))).code == 0

    @contextmanager
    def soon() -> Iterator[Any]:
        yield Later(5)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "signals", soon)
        assert pretraining.start(replace(run, out=str(broken))).code == 143
    assert len(list((broken / "study").glob("*.npz"))) == 2
    (broken / "study" / ".0000008.npz.1.part").write_bytes(b"cut")  # what a kill leaves behind is not read
    assert pretraining.go_on(broken).code == 0
    off = replace(probe, study_every=-1)
    assert pretraining.start(replace(run, probe=off, out=str(blind))).code == 0
    assert not (blind / "study").exists()
    assert lines(whole) == lines(broken) == lines(blind)
    assert len(lines(whole)) == 16
    first, second = read_run(whole), read_run(broken, "again")
    assert [record.step for record in first.records] == [0, 4, 8, 12, 16]
    assert [record.epoch for record in first.records] == [0, 0.5, 1, 1.5, 2]
    assert (first.name, second.name) == ("whole", "again")
    assert first.numbers == second.numbers
    assert first.numbers[0]["asymmetry"] > 1.2
    assert (first.target, first.predictor) == ("EMA", "SGD, two layers")
    ends = [torch.load(f / "checkpoints/last.pt", weights_only=True)["method"] for f in (whole, broken, blind)]
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])


def test_how_often_is_checked() -> None:
    with pytest.raises(WrongUse, match="study_every"):
        ProbeConfig(study_every=-2)


# ---------------------------------------------------------------------------------------------- figures and the verb


def studied(
    name: str, target: str = "EMA", predictor: str = "DirectPred", accuracy: float | None = 0.5, **more: Any
) -> Studied:
    f, w = correlation(torch.from_numpy(random(2, 40, 6))).numpy(), random(6, 6, seed=1)
    records = [Record(10 * i, 2.5 * i, decompose(f, w + i * w.T)) for i in range(3)]
    method = {"target": target, "predictor": predictor, "dim": 6}
    return Studied(name, records, target, predictor, {"method": method, "seed": 0, "lr": 1, **more}, accuracy)


def test_what_the_figures_show() -> None:
    run = studied("a $ run")
    figure = eigenfigures.comparison([run, run])
    assert len(figure.axes) == 8
    for row in (0, 4):
        axes = figure.axes[row : row + 4]
        for i, record in enumerate(run.records):
            wanted = (record.space.spectrum, record.space.predictor, record.space.alignment)
            for panel, values in zip(axes, wanted):
                np.testing.assert_array_equal(panel.lines[i].get_ydata(), values)
        assert axes[0].get_yscale() == "log"
        assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["0", "2.5", "5"]
        assert list(axes[3].lines[0].get_xdata()) == [0, 2.5, 5]
        assert axes[3].lines[0].get_ydata()[0] == run.records[0].space.asymmetry


CELLS = [(target, who) for target in ("EMA", "no EMA") for who in ("DirectCopy", "DirectPred", "SGD, one layer")]


def test_six_bars_with_their_numbers() -> None:
    runs = [studied("r", *cell, accuracy=0.5 + 0.05 * i) for i, cell in enumerate(CELLS)]
    cells = eigenfigures.cells_of([*runs, studied("s", *CELLS[0], accuracy=0.6, seed=1)])
    assert list(cells) == CELLS
    assert cells[CELLS[0]] == [0.5, 0.6]
    (axes,) = eigenfigures.bars(cells, "k-NN top-1").axes
    heights = sorted((bar.get_x(), bar.get_height()) for bar in axes.patches)
    assert [height for _, height in heights] == pytest.approx([55, 55, 60, 65, 70, 75])
    told = [text.get_text() for text in axes.texts]
    assert sorted(told) == ["55.0", "55.0\n±7.1", "60.0", "65.0", "70.0", "75.0"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["EMA", "no EMA"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["DirectCopy", "DirectPred", "SGD, one layer"]
    assert not eigenfigures.cells_of([*runs, studied("other rate", *CELLS[1], lr=2)])  # no fair comparison
    assert not eigenfigures.cells_of([studied("alone")])
    assert not eigenfigures.cells_of([replace_accuracy(run) for run in runs])


def replace_accuracy(run: Studied) -> Studied:
    return run._replace(accuracy=None)


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name, who in (("a", "directpred"), ("b", "directcopy")):
        run = run_of(who, steps=4, epochs=1.0, probe=ProbeConfig(study_every=0.25, samples=64, bank=64, queries=32))
        run = replace(run, method=replace(run.method, target="shared"), out=name)
        assert pretraining.start(run).code == 0
    assert cli.run(shlex.split("eigenspace a b --names one,two --out figures --json")) == 0
    told = json.loads(capsys.readouterr().out)
    names = ["spectrum-log", "spectrum-linear", "predictor", "alignment", "asymmetry", "comparison", "accuracy"]
    assert [Path(path).stem for path in told["figures"]] == names
    for path in told["figures"]:
        with Image.open(path) as picture:
            assert min(picture.size) > 200
    assert [run["name"] for run in told["runs"]] == ["one", "two"]
    last = told["runs"][0]["records"][-1]
    assert (last["step"], last["epoch"]) == (4, 0.5)
    assert last["used"] >= 1
    assert cli.run(["eigenspace", "a"]) == 0
    assert (tmp_path / "a/figures/eigenspace/comparison.png").is_file()
    assert not (tmp_path / "a/figures/eigenspace/accuracy.png").exists()
    assert capsys.readouterr().out.count("a ") >= 2  # before training, and after
    assert pretraining.start(replace(recipe("simclr", "tiny"), steps=1, quiet=True, threads=1, out="c")).code == 0
    for line, said in (
        ("eigenspace c", "keeps no eigenspace"),
        ("eigenspace nowhere", "no run folder"),
        ("eigenspace a b --names one", "1 names for 2 runs"),
    ):
        assert cli.run(shlex.split(line)) == 2
        assert said in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- presets and studies


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("byol-cifar10-101-linear", {"predictor": "linear", "target": "ema", "symmetric": False}),
        ("simsiam-cifar10-101-linear", {"predictor": "linear", "target": "shared", "symmetric": False}),
        ("byol-cifar10-101-symmetric", {"predictor": "mlp", "target": "ema", "symmetric": True}),
        ("simsiam-cifar10-101-symmetric", {"predictor": "mlp", "target": "shared", "symmetric": True}),
        ("directpred-cifar10-101-shared", {"predictor": "closed-form", "target": "shared", "power": 0.5}),
        ("directcopy-cifar10-101-shared", {"predictor": "closed-form", "target": "shared", "power": 1.0}),
        ("directpred-cifar10-101-every5", {"predictor": "closed-form", "every": 5, "train_between": False}),
        ("directpred-cifar10-101-deep", {"predictor": "closed-form", "layers": 3, "hidden": 512, "dim": 128}),
        ("simsiam-cifar10-101-fast-symmetric", {"symmetric": True, "predictor_lr": 10.0, "predictor_decay": 0.0}),
        ("byol-cifar10-101-fast-decay", {"symmetric": False, "predictor_lr": 10.0, "predictor_decay": 4e-4}),
    ],
)
def test_presets_are_what_they_are_called(name: str, settings: dict[str, Any]) -> None:
    run = RECIPES[name]()
    assert {key: getattr(run.method, key) for key in settings} == settings
    assert run.optimizer.lr == (0.2 if "fast" in name else 0.03)
    assert (run.method_name, run.epochs, run.batch_size) == (name.split("-")[0], 101, 128)


def test_a_deeper_projector_is_evaluated_twice(tmp_path: Path) -> None:
    """The encoder alone, and with the first layer of the projector (its normalisation and ReLU too) used again."""
    run = run_of("directpred", steps=3, out=str(tmp_path / "r"))
    run = replace(run, method=replace(run.method, layers=3), probe=ProbeConfig(every=-1))
    assert pretraining.start(run).code == 0
    found = {
        name: selfsight.evaluate(tmp_path / "r", protocols=["ridge"], features=name, out=tmp_path / f"{name}.npz")
        for name in ("encoder", "projector-1")
    }
    assert [found[name]["ridge"]["dim"] for name in found] == [32, 64]
    assert {name: found[name]["ridge"]["features"] for name in found} == {name: name for name in found}
    with np.load(tmp_path / "projector-1.npz") as arrays, np.load(tmp_path / "encoder.npz") as plain:
        first, features = arrays["test_features"], plain["test_features"]
    saved = torch.load(tmp_path / "r/checkpoints/last.pt", weights_only=True)["method"]
    layer = mlp([32, 64, 64, 32], norm="batch-plain", bias=True).eval()
    layer.load_state_dict({k.removeprefix("projector."): v for k, v in saved.items() if k.startswith("projector.")})
    with torch.no_grad():
        wanted = layer[:3](torch.from_numpy(features).float())
    np.testing.assert_allclose(first, wanted.numpy(), atol=1e-4)


def test_the_studies_go_on_where_they_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import eigenspace as studies

    monkeypatch.setattr(studies, "EPOCHS", dict.fromkeys(studies.EPOCHS, 1.0))
    monkeypatch.setattr(studies, "TARGETS", dict(list(studies.TARGETS.items())[::3]))
    line = f"eigenspace.py shapes:16:200 --study targets --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", line.split())
    studies.main()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "targets").rglob("*") if path.is_file()}
    (tmp_path / "eigenspace.json").unlink()
    (tmp_path / "figures/targets.png").unlink()
    studies.main()
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "targets").rglob("*") if path.is_file()}
    kept = json.loads((tmp_path / "eigenspace.json").read_text())["targets"]
    assert list(kept) == ["EMA, DirectPred", "no EMA, DirectPred"]
    assert all(0 < found["linear"] < 1 for cell in kept.values() for found in cell)
    assert (tmp_path / "figures/targets.png").is_file()
    assert capsys.readouterr().out.count("| EMA, DirectPred |") == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_is_known_of_predictors_shows(tmp_path: Path) -> None:
    """docs/eigenspace.md: the asymmetry of a free predictor falls several-fold, its directions become few and F's; a symmetric
    SimSiam collapses, and does not with a rate and a decay of the predictor's own."""
    import argparse

    import eigenspace as studies

    arguments = argparse.Namespace(out=str(tmp_path), size="cpu", pictures="shapes:16:8000", fraction=1.0)
    first, *_, last = read_run(studies.train("byol-cifar10-101", "spaces", 0, arguments)).numbers
    assert last["asymmetry"] < first["asymmetry"] / 4
    assert first["aligned"] == 0 < last["aligned"]
    assert abs(last["passed"] - last["used"]) <= 2  # it lets through what F uses
    assert last["passed"] < first["passed"] / 2
    collapsed = studies.measured(studies.train("simsiam-cifar10-101-symmetric", "rates", 0, arguments))
    assert collapsed["health"] in ("collapsed", "dimensional collapse")
    assert collapsed["last"]["used"] <= 2
    found = studies.measured(studies.train("simsiam-cifar10-101-fast-symmetric-decay", "lower", 0, arguments))
    assert found["health"] == "healthy", found["why"]
    assert found["knn"] > found["untrained"] + 0.02 > collapsed["knn"]
