"""Optimizers against torch and against the golden rows of the specification; parameter groups; clipping."""

import copy
import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfsight.core import Method, Step
from selfsight.errors import WrongUse
from selfsight.optim import (
    LARS,
    Muon,
    OptimizerConfig,
    ScheduleConfig,
    build,
    clip,
    decay_factor,
    drop_unstarted,
    newton_schulz,
    peak_rate,
    set_rates,
)
from selfsight.train import steps
from tiny import make, tiny


class Toy(Method):
    """A body (conv, norm, linear) and a head; `groups` is what param_groups returns."""

    def __init__(self, groups: str = "default"):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
        self.head = nn.Linear(5, 2)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.head(self.body(x)).square().mean()

    def param_groups(self) -> list[dict[str, Any]]:
        body, head = list(self.body.parameters()), list(self.head.parameters())
        groups: dict[str, list[dict[str, Any]]] = {
            "default": super().param_groups(),
            "late head": [{"params": body}, {"params": head, "start": 2, "lr_scale": 10.0, "weight_decay": 0.5}],
            "fixed head": [{"params": body}, {"params": head, "lr_fixed": True, "momentum": 0.0}],
            "missing": [{"params": body}],
            "twice": [{"params": body}, {"params": [*head, body[0]]}],
            "stranger": [{"params": [*body, *head, nn.Parameter(torch.zeros(1))]}],
            "misspelt": [{"params": [*body, *head], "lr_scael": 2.0}],
        }
        return groups[self.groups]


IMAGES = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def train(method: Toy, optimizer: torch.optim.Optimizer, steps: int) -> list[Tensor]:
    for _ in range(steps):
        optimizer.zero_grad()
        method(IMAGES).backward()
        optimizer.step()
    return [p.detach().clone() for p in method.parameters()]


def reference(name: str, method: Toy, rate: float, decay: float, plain: bool) -> torch.optim.Optimizer:
    """torch's own, unfused, on the groups that the documentation promises."""
    params = list(method.parameters())
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": decay if plain else 0.0},
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=0.8, nesterov=True, foreach=False)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate, betas=(0.7, 0.9), eps=1e-3, foreach=False)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_torch_optimizers_respect_every_key(name: Any, plain: bool) -> None:
    config = OptimizerConfig(
        name=name, lr=0.02, momentum=0.8, nesterov=name == "sgd", weight_decay=0.3, decay_bias_and_norm=plain,
        betas=(0.7, 0.9), eps=1e-3,
    )  # fmt: skip
    ours, theirs = Toy(), Toy()
    a = train(ours, build(config, ours, 512), 4)  # linear scaling: 0.04
    b = train(theirs, reference(name, theirs, 0.04, 0.3, plain), 4)
    for x, y in zip(a, b):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
    assert any((x - y).abs().max() > 1e-3 for x, y in zip(a, Toy().parameters()))


LARS_ROWS = {
    "standard": ((2.954309423, 4.020306923), (2.910953317, 4.039576303)),
    "tf": ((2.954309423, 4.020306923), (2.890392557, 4.048714419)),
    "clipped": ((2.94, 4.026666667), (2.853513395, 4.065105158)),
}


@pytest.mark.parametrize("dialect", LARS_ROWS)
def test_lars_golden_rows(dialect: Any) -> None:
    p = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    optimizer = LARS([p], lr=0.5, momentum=0.9, weight_decay=0.1, eta=0.02, dialect=dialect)
    for rate, row in zip((0.5, 0.25), LARS_ROWS[dialect]):
        optimizer.param_groups[0]["lr"] = rate
        p.grad = torch.tensor([[0.6, -0.8]], dtype=torch.float64)
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.tensor([row], dtype=torch.float64), atol=1e-8, rtol=0)


def test_larc_against_a_loop() -> None:
    """apex LARC, clip off, around SGD with momentum: written out."""
    rng = torch.Generator().manual_seed(3)
    start = torch.randn(4, 3, dtype=torch.float64, generator=rng)
    p, q, buffer = nn.Parameter(start.clone()), start.clone(), torch.zeros(4, 3, dtype=torch.float64)
    optimizer = LARS([p], lr=0.5, momentum=0.9, weight_decay=0.1, eta=0.02, dialect="larc")
    for _ in range(3):
        g = torch.randn(4, 3, dtype=torch.float64, generator=rng)
        p.grad = g.clone()
        optimizer.step()
        rate = 0.02 * q.norm() / (g.norm() + 0.1 * q.norm() + 1e-8)
        buffer = 0.9 * buffer + rate * (g + 0.1 * q)
        q = q - 0.5 * buffer
        torch.testing.assert_close(p.detach(), q, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dialect", ["standard", "tf", "clipped", "larc"])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_lars_zero_tensors_stay_finite_and_get_the_plain_gradient(dialect: Any, rate: float) -> None:
    weight, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([weight, still], lr=rate, weight_decay=0.1, dialect=dialect)
    weight.grad, still.grad = torch.full((2, 2), 3.0), torch.zeros(2, 2)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), -3.0 * rate))
    assert still.isfinite().all()


def test_lars_leaves_biases_and_norms_to_plain_momentum() -> None:
    method = Toy()
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    optimizer = build(OptimizerConfig(name="lars", lr=0.1, weight_decay=0.4), method, 256)
    train(method, optimizer, 1)
    for name, p in method.named_parameters():
        assert p.grad is not None
        u = p.grad
        if p.ndim > 1:
            u = u + 0.4 * before[name]
            u = u * 1e-3 * before[name].norm() / u.norm()
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * u, msg=name)
    everything = build(OptimizerConfig(name="lars", decay_bias_and_norm=True, weight_decay=0.4), Toy(), 256)
    assert [(g["adapt"], g["weight_decay"]) for g in everything.param_groups] == [(True, 0.4)]


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (20, 20)])
def test_newton_schulz_orthogonalises(shape: tuple[int, int]) -> None:
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    y = newton_schulz(x)
    values = torch.linalg.svdvals(y)
    assert values.max() < 1.25
    assert values.min() > (0.6 if shape[0] != shape[1] else 0.0)
    assert values.median() > 0.65
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    cosine = nn.functional.cosine_similarity(y.flatten(1), (u @ v).flatten(1))
    assert (cosine > 0.96).all()
    torch.testing.assert_close(newton_schulz(x[1:2]), y[1:2])  # a stack is the same as one by one


def test_muon_updates_matrices_and_the_rest() -> None:
    method = Toy()
    before = {n: p.detach().clone() for n, p in method.named_parameters()}
    config = OptimizerConfig(
        name="muon", lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1, muon_aux_lr=0.5, scaling="none"
    )
    rng = torch.Generator().manual_seed(2)  # gradients of full rank
    gradients = {name: torch.randn(p.shape, generator=rng) for name, p in method.named_parameters()}
    for name, p in method.named_parameters():
        p.grad = gradients[name].clone()
    build(config, method, 64).step()
    for name, p in method.named_parameters():
        g = gradients[name]
        if p.ndim == 1:
            torch.testing.assert_close(p.detach(), before[name] - 0.5 * 1.9 * g, msg=name)
            continue
        step = (before[name] * (1 - 0.02 * 0.1) - p.detach()).flatten(1) / 0.02
        rows, columns = step.shape
        values = torch.linalg.svdvals(step) / max(1, rows / columns) ** 0.5
        assert values.max() < 1.25, name
        u, _, v = torch.linalg.svd(g.flatten(1), full_matrices=False)
        assert nn.functional.cosine_similarity(step.flatten(), (u @ v).flatten(), dim=0) > 0.9, name


def test_muon_momentum_over_steps() -> None:
    """The buffer is mu * buffer + g for both kinds of group; without Nesterov it is the update itself."""
    token = nn.Parameter(torch.zeros(1, 1, 3))
    optimizer = Muon([{"params": [token], "matrix": False}], lr=1.0, momentum=0.5, nesterov=False)
    for _ in range(3):
        token.grad = torch.ones(1, 1, 3)
        optimizer.step()
    torch.testing.assert_close(token.detach(), torch.full((1, 1, 3), -(1 + 1.5 + 1.75)))


def test_muon_treats_tokens_as_the_rest() -> None:
    class Tokens(Method):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.weight = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(4, 8))

    optimizer = build(OptimizerConfig(name="muon", lr=0.02, scaling="none"), Tokens(), 1)
    assert [(g["matrix"], g["params"][0].shape) for g in optimizer.param_groups] == [(False, (1, 1, 8)), (True, (4, 8))]
    set_rates(optimizer, 0.02, 0.5)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.025, 0.01])


def test_rates_of_groups() -> None:
    optimizer = build(OptimizerConfig(lr=0.1, scaling="none"), Toy("late head"), 256)
    assert {(g["start"], g["lr_scale"], g["lr"]) for g in optimizer.param_groups} == {(0, 1.0, 0.1), (2, 10.0, 1.0)}
    assert {g["weight_decay"] for g in optimizer.param_groups if g["start"] == 2} == {0.5, 0.0}
    set_rates(optimizer, 0.1, 0.25)
    assert {g["lr"] for g in optimizer.param_groups} == {0.025, 0.25}
    optimizer = build(OptimizerConfig(lr=0.1, scaling="none"), Toy("fixed head"), 256)
    set_rates(optimizer, 0.2, 0.0)
    assert {(g["lr_fixed"], g["lr"], g["momentum"]) for g in optimizer.param_groups} == {
        (False, 0.0, 0.9),
        (True, 0.2, 0.0),
    }
    adam = build(OptimizerConfig(name="adamw"), Toy("fixed head"), 256)
    assert {g["betas"] for g in adam.param_groups} == {(0.9, 0.999), (0.0, 0.999)}


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars", "muon"])
def test_a_late_group_is_not_touched_before_its_start(name: Any) -> None:
    method = Toy("late head")
    optimizer = build(OptimizerConfig(name=name, lr=0.1, weight_decay=0.5), method, 256)
    before = copy.deepcopy(method.head.state_dict())
    for index in range(3):
        optimizer.zero_grad()
        method(IMAGES).backward()
        drop_unstarted(optimizer, index)
        assert all((p.grad is None) == (index < 2) for p in method.head.parameters())
        optimizer.step()
        same = all(torch.equal(before[k], v) for k, v in method.head.state_dict().items())
        assert same == (index < 2)
    assert all(p.grad is not None for p in method.body.parameters())


def test_sgd_survives_a_parameter_whose_gradient_comes_later() -> None:
    ours, theirs = Toy(), Toy()
    config = OptimizerConfig(lr=0.1, scaling="none", weight_decay=0.0)
    a, b = build(config, ours, 1), torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, foreach=False)
    for index in range(3):
        for method, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            method(IMAGES).backward()
            if index == 0:
                method.head.weight.grad = None
            optimizer.step()
    for x, y in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("groups", ["missing", "twice", "stranger", "misspelt"])
def test_wrong_groups_are_an_error_of_the_method(groups: str) -> None:
    with pytest.raises(RuntimeError, match="param_groups"):
        build(OptimizerConfig(), Toy(groups), 256)


def test_frozen_parameters_belong_to_no_group() -> None:
    method = Toy()
    method.head.weight.requires_grad_(False)
    optimizer = build(OptimizerConfig(), method, 256)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(method.parameters())) - 1


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars", "muon"])
def test_state_is_plain_numbers_and_resumes_exactly(name: Any) -> None:
    config = OptimizerConfig(name=name, lr=0.05, weight_decay=0.1)
    straight = Toy("late head")
    wanted = train(straight, build(config, straight, 256), 5)
    first, file = Toy("late head"), io.BytesIO()
    optimizer = build(config, first, 256)
    train(first, optimizer, 2)
    torch.save({"method": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = Toy("late head")
    optimizer = build(config, second, 256)
    second.load_state_dict(saved["method"])
    optimizer.load_state_dict(saved["optimizer"])
    assert {g["start"] for g in optimizer.param_groups} == {0, 2}
    assert all(torch.equal(x, y) for x, y in zip(train(second, optimizer, 3), wanted))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_memory_layout_does_not_change_the_result(name: Any) -> None:
    """Fused CPU kernels would pair the wrong entries of a channels_last weight and a contiguous gradient or buffer."""
    config = OptimizerConfig(name=name, lr=0.05, weight_decay=0.1)
    plain, other = Toy(), Toy()
    a = build(config, plain, 256)
    wanted = train(plain, a, 2)
    halfway = copy.deepcopy(a.state_dict())
    other.load_state_dict(plain.state_dict())
    other.body[0].to(memory_format=torch.channels_last)
    b = build(config, other, 256)
    b.load_state_dict(halfway)
    for method, optimizer in ((plain, a), (other, b)):
        optimizer.zero_grad()
        method(IMAGES).backward()
        weight = method.body[0].weight
        assert isinstance(weight, nn.Parameter)
        weight.grad = weight.grad.contiguous() if weight.grad is not None else None
        optimizer.step()
    for x, y, w in zip(plain.parameters(), other.parameters(), wanted):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
        assert not torch.equal(x, w)


def test_clipping() -> None:
    def gradients() -> list[Tensor]:
        params = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))]
        params[0].grad, params[1].grad = torch.tensor([3.0, -4.0]), torch.tensor([12.0])
        return list(params)

    params = gradients()
    assert clip(params, OptimizerConfig()).item() == 13
    assert params[0].grad is not None
    assert params[0].grad.tolist() == [3, -4]
    params = gradients()
    assert clip(params, OptimizerConfig(clip_norm=1.3)).item() == 13
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in params if p.grad is not None))
    assert norm == pytest.approx(1.3, rel=1e-5)
    assert params[0].grad is not None
    assert params[0].grad.tolist() == pytest.approx([0.3, -0.4], rel=1e-5)
    assert clip(params, OptimizerConfig(clip_norm=2.0)).item() == pytest.approx(1.3, rel=1e-5)
    assert params[0].grad.tolist() == pytest.approx([0.3, -0.4], rel=1e-5)  # short ones are left alone
    params = gradients()
    assert clip(params, OptimizerConfig(clip_value=3.5)).item() == 13
    assert [p.grad.tolist() for p in params if p.grad is not None] == [[3, -3.5], [3.5]]
    params = gradients()
    assert clip(params, OptimizerConfig(clip_norm=6.0, clip_per="tensor")).item() == 13
    found = [p.grad.tolist() for p in params if p.grad is not None]
    assert found[0] == [3, -4]  # of length 5, while the other is cut to 6
    assert found[1] == pytest.approx([6.0], rel=1e-5)


def test_decay_follows_its_schedule_and_each_group_its_share() -> None:
    method = Toy("late head")
    config = OptimizerConfig(name="adamw", weight_decay=0.04, weight_decay_end=0.4)
    optimizer = build(config, method, 256)
    start = [group["weight_decay"] for group in optimizer.param_groups]
    for at, expected in ((0, 1.0), (50, 5.5), (100, 10.0)):
        step = Step(at, 100, 10, torch.Generator())
        set_rates(optimizer, 1.0, 1.0, decay_factor(config, step))
        for group, first in zip(optimizer.param_groups, start):
            assert group["weight_decay"] == pytest.approx(first * expected)
    assert decay_factor(OptimizerConfig(), step) == 1


def test_tokens_of_a_transformer_do_not_decay() -> None:
    class Tokens(Method):
        def __init__(self) -> None:
            super().__init__()
            self.position, self.matrix = nn.Parameter(torch.ones(1, 5, 3)), nn.Parameter(torch.ones(2, 3))

    for both in (False, True):
        optimizer = build(OptimizerConfig(name="adamw", weight_decay=0.1, decay_bias_and_norm=both), Tokens(), 256)
        decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        assert sorted(decays.values()) == ([0.1, 0.1] if both else [0.0, 0.1])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"weight_decay": 0.0, "weight_decay_end": 0.4}, "to start from"),
        ({"weight_decay_end": -1.0}, "at least 0"),
        ({"clip_per": "row"}, "all or tensor"),
    ],
)
def test_wrong_decay_and_clipping_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(WrongUse, match=said):
        OptimizerConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "larz"}, "Perhaps you meant 'lars'"),
        ({"scaling": "root"}, "optimizer.scaling"),
        ({"lars_dialect": "apex"}, "optimizer.lars_dialect"),
        ({"lr": 0.0}, "above 0"),
        ({"lr": math.nan}, "above 0"),
        ({"weight_decay": -1.0}, "at least 0"),
        ({"momentum": 1.0}, "below 1"),
        ({"name": "adamw", "betas": (0.9, 1.5)}, "below 1"),
        ({"name": "adam", "nesterov": True}, "use sgd or muon"),
        ({"nesterov": True, "momentum": 0.0}, "needs momentum"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, "both set"),
    ],
)
def test_wrong_settings_are_refused(fields: dict, said: str) -> None:
    with pytest.raises(WrongUse, match=said):
        OptimizerConfig(**fields)


def test_a_stretched_schedule_holds_for_rate_and_decay_in_the_loop() -> None:
    run, data = tiny("dino", steps=4)
    stretched = replace(run.optimizer, name="adamw", weight_decay=0.1, weight_decay_end=0.2)
    run = replace(run, optimizer=stretched, schedule=ScheduleConfig(name="cosine", stretch=2.0))
    method, optimizer, pictures = make(run, data)
    seen = []
    for _ in steps(method, optimizer, pictures, run):
        group = max(optimizer.param_groups, key=lambda g: g["weight_decay"])
        seen.append((group["lr"] / peak_rate(run.optimizer, int(run.batch_size)), group["weight_decay"]))
    for index, (rate, decay) in enumerate(seen):
        half = (1 + math.cos(math.pi * index / 8)) / 2  # the whole would be 8 steps long
        assert rate == pytest.approx(half)
        assert decay == pytest.approx(0.2 - 0.1 * half)
