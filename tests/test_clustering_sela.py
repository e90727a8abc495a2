# mypy: disable-error-code="func-returns-value,method-assign,arg-type,union-attr"
"""SeLa: when it labels, what it labels, and that label i is of picture i."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfsight.assign import balanced_labels
from selfsight.core import Step
from selfsight.errors import WrongUse
from selfsight.methods.sela import SeLa, SeLaConfig
from test_methods import Facts, pictures
from tiny import losses, make, tiny


def at(index: int, total: int = 400, per_epoch: int = 20) -> Step:
    return Step(index, total, per_epoch, torch.Generator().manual_seed(index))


class Flat(nn.Module):
    dim = 12

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :12]


class Noisy(Facts):
    """Pictures; what a sweep is asked for is written down, and its augmentation is noise."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(images)
        self.sweeps: list[tuple[bool, bool]] = []

    def sweep(self, fn, *, rng=None, train=False):
        self.sweeps.append((rng is not None, train))
        noise = 0 if rng is None else 0.1 * torch.randn(self.images.shape, generator=rng)
        with torch.no_grad():
            return fn(self.images + noise)


def sela(count: int = 60, **settings: Any) -> tuple[Any, Noisy]:
    torch.manual_seed(0)
    data = Noisy(pictures(count))
    config = SeLaConfig(**{"clusters": 5, "heads": 3, "relabels": 7, **settings})
    return SeLa(config, Flat(), data), data


@pytest.mark.parametrize("spacing", ["quadratic", "linear"])
@pytest.mark.parametrize("n", [2, 7, 100, 401])
def test_the_schedule(spacing: Any, n: int) -> None:
    method, _ = sela(relabels=n, spacing=spacing)
    epochs, per_epoch = 20, 20
    found = [i for index in range(400) for i in method.due(at(index))]
    power = 2 if spacing == "quadratic" else 1
    times = [(epochs + 1.01) * (i / (n - 1)) ** power for i in range(n)]  # in epochs
    assert times[0] == 0
    assert times[-1] > epochs
    gaps = [b - a for a, b in pairwise(times)]
    assert all(b >= a - 1e-9 for a, b in pairwise(gaps))
    assert found == [i for i, time in enumerate(times) if time * per_epoch <= 399]  # each once, the last ones never
    for index in (0, 1, 37, 399):
        assert method.due(at(index)) == [i for i, t in enumerate(times) if index - 1 < t * per_epoch <= index]
    assert method.due(at(0))[0] == 0


def test_one_relabelling_is_the_first() -> None:
    method, _ = sela(relabels=1)
    assert [i for index in range(400) for i in method.due(at(index))] == [0]


def test_labels_start_balanced_and_differ_between_heads() -> None:
    method, _ = sela()
    assert all(head.bincount().tolist() == [12] * 5 for head in method.labels)
    assert not torch.equal(method.labels[0], method.labels[1])
    assert not torch.equal(method.labels[0], torch.arange(60) % 5)


def test_a_relabelling_solves_every_head_with_its_own_weights() -> None:
    method, data = sela()
    method.before_step(at(0), data)
    assert data.sweeps == [(True, False)]  # augmented, eval mode; the features are of all heads
    features = Noisy(data.images).sweep(method.encoder, rng=torch.Generator().manual_seed(0))
    for head in range(3):
        part = slice(5 * head, 5 * head + 5)
        wanted = balanced_labels(features, method.head.weight[part], method.head.bias[part], 25.0)
        assert torch.equal(method.labels[head], wanted)
    before = method.labels.clone()
    method.before_step(at(1), data)  # nothing is due
    assert torch.equal(method.labels, before)
    assert len(data.sweeps) == 1
    method.before_step(at(0), data)  # twice without training is once
    assert torch.equal(method.labels, before)
    assert float(method.agreement) == pytest.approx(1.0)


def test_the_label_pass_of_the_authors_code() -> None:
    method, data = sela(label_pass="train")
    method.before_step(at(0), data)
    assert data.sweeps == [(True, True)]


def test_one_head_at_a_time() -> None:
    method, data = sela(one_head=True, spacing="linear", relabels=20, sharpness=1.0)
    changed = []
    for index in range(400):
        before = method.labels.clone()
        method.head.weight.data.normal_(generator=torch.Generator().manual_seed(index))
        method.before_step(at(index), data)
        changed += [head for head in range(3) if not torch.equal(before[head], method.labels[head])]
    assert changed == [i % 3 for i in range(19)]  # the last event lies behind the end


def test_label_i_is_of_picture_i() -> None:
    """An encoder that tells pictures apart, weights that know their label: the labels are those, by picture."""
    count, k = 60, 5
    images = torch.zeros(count, 3, 2, 2)
    truth = torch.arange(count).mul(7) % k  # balanced
    images.flatten(1)[torch.arange(count), truth] = 1.0
    data = Noisy(images)
    torch.manual_seed(0)
    method = SeLa(SeLaConfig(clusters=k, heads=2, relabels=3), Flat(), data)
    method.head.weight.data.zero_()
    for head in range(2):
        shift = (torch.arange(k) + head) % k
        method.head.weight.data[head * k + shift, torch.arange(k)] = 5.0
    method.head.bias.data.normal_()  # takes no part in who gets which label
    method.before_step(at(0), data)
    assert torch.equal(method.labels[0], truth)
    assert torch.equal(method.labels[1], (truth + 1) % k)
    index = torch.tensor([50, 3, 17, 3])
    found = method({"global": images[index][None]}, index, at(0))
    logits = method.head(images.flatten(1)[index]).tolist()
    total = 0.0
    for row, picture in zip(logits, index.tolist()):
        for head in range(2):
            part = row[head * k : head * k + k]
            label = (int(truth[picture]) + head) % k
            total += math.log(sum(math.exp(v) for v in part)) - part[label]
    assert found.loss.item() == pytest.approx(total / 8, abs=1e-5)


def test_features_without_their_relu_get_it() -> None:
    method, data = sela()
    method.encoder.pre_activation = True
    method.before_step(at(0), data)
    features = Noisy(data.images).sweep(Flat(), rng=torch.Generator().manual_seed(0)).relu()
    assert torch.equal(method.labels[0], balanced_labels(features, method.head.weight[:5], method.head.bias[:5], 25.0))
    logits = method.encode({"global": data.images[None]}, at(0))["logits"]
    torch.testing.assert_close(logits[0], method.head(data.images.flatten(1).relu())[:, :5])


def test_the_loss_starts_at_log_k_and_labels_stay_balanced() -> None:
    run, data = tiny("sela")
    made = make(run, data)
    first = losses(run, made, 0, 1)[0]
    assert first == pytest.approx(math.log(20), abs=0.25)
    assert made[0].constant_loss(64) == pytest.approx(math.log(20))
    losses(run, made, 1, 20)
    for head in made[0].labels:
        counts = head.bincount(minlength=20)
        assert counts.min() > 0.3 * 512 / 20  # the soft assignment is balanced exactly, its largest entries nearly
        assert counts.max() < 3 * 512 / 20


@pytest.mark.parametrize(
    "settings",
    [
        {"clusters": 1}, {"heads": 0}, {"sharpness": 0}, {"relabels": 0}, {"spacing": "cubic"}, {"label_pass": "test"},
        {"tolerance": 0}, {"iterations": 0}, {"cache": -1},
    ],
)  # fmt: skip
def test_wrong_settings(settings: Any) -> None:
    with pytest.raises(WrongUse, match=r"method\."):
        SeLaConfig(**settings)


def test_more_labels_than_pictures_are_refused() -> None:
    with pytest.raises(WrongUse, match="choose at most 60"):
        sela(clusters=61)
