"""Row D19: two moons."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from selfsight import api
from selfsight.errors import WrongUse
from selfsight.evaluate.moons import two_moons


def test_two_half_circles_that_no_line_divides() -> None:
    train, labels, test, _, classes, _ = two_moons("two-moons:400:0")
    assert train is not None
    assert labels is not None
    assert (train.shape, test.shape, classes) == ((400, 2), (80, 2), ["upper", "lower"])
    upper = labels == 0
    assert upper.sum() == 200
    centres = torch.where(upper[:, None], torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.5]))
    offset = train - centres
    assert torch.allclose(offset.norm(dim=1), torch.ones(400), atol=1e-6)  # half circles of radius 1
    assert (offset[upper, 1] >= 0).all()
    assert (offset[~upper, 1] <= 0).all()
    noisy, again = two_moons(), two_moons()
    assert noisy.train is not None
    assert again.train is not None
    assert torch.equal(noisy.train, again.train)
    radius = (noisy.train - centres.repeat(3, 1)[:1000]).norm(dim=1) - 1
    assert 0.09 < radius.std() < 0.11


def test_they_are_evaluated_as_features() -> None:
    found = api.evaluate("two-moons", protocols=["linear", "knn"])
    assert 0.8 < found["linear"]["top1"] < 0.95
    assert found["linear"]["dim"] == 2
    sets = two_moons()
    assert sets.train is not None
    assert sets.labels is not None
    near = torch.cdist(sets.test, sets.train).argmin(1)
    assert sets.test_labels is not None
    assert torch.eq(sets.labels[near], sets.test_labels).float().mean() > 0.98  # they do not overlap


@pytest.mark.parametrize(
    ("name", "message"), [("two-moons:many", "COUNT"), ("two-moons:5", "from 10"), ("two-moons:100:-1", "not negative")]
)
def test_wrong_numbers(name: str, message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        two_moons(name)


@pytest.fixture
def example() -> ModuleType:
    """examples/two_moons.py"""
    spec = importlib.util.spec_from_file_location("example", Path(__file__).parents[1] / "examples" / "two_moons.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_contrastive_learning_lays_them_out_for_a_line(example: ModuleType) -> None:
    """Without a label: what a linear probe reads of one angle beats the coordinates, and by far the untrained network."""
    found = example.measure(seed=0, steps=200)
    assert found["coordinates"] < 0.9
    assert found["untrained"] < found["coordinates"]
    assert found["contrastive"] > found["coordinates"] + 0.05


def test_the_figure_is_drawn(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "STEPS", 2)
    example.figure(tmp_path / "moons.png")
    assert (tmp_path / "moons.png").stat().st_size > 5_000
