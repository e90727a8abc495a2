"""Methods of joint embedding: collapse, teachers, state, the two halves of a step, refusals."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from test_joint_embedding import SMALL, build, disturb, pictures, step, views_of

each = pytest.mark.parametrize("name", SMALL)
B = 8


def collapsed(name: str, method: Any) -> dict[str, Tensor]:
    """Outputs that are the same for every picture and view, and state that has come to the same point."""
    point = torch.tensor([0.1, -0.7, 2.0, 0.4]).double()
    same = lambda views: point.expand(views, B, 4).clone()
    for queue in [*getattr(method, "queues", []), *([method.queue] if hasattr(method, "queue") else [])]:
        queue.rows.copy_((point / point.norm()).expand_as(queue.rows))
    if name == "tico":
        method.covariance.copy_(torch.outer(point, point) / point.dot(point))
        return {"z": same(1), "target": same(1)}
    labels = (torch.arange(B) % 3)[None]
    shapes: dict[str, dict[str, Tensor]] = {
        "moco": {"q": same(2), "k": same(2)},
        "mocov3": {"q": same(2), "k": same(2)},
        "relic": {"o": same(2), "t": same(2)},
        "nnclr": {"z": same(2), "p": same(2)},
        "lejepa": {"global": 0 * same(2), "local": 0 * same(3)},
        "empssl": {"z": same(3) / point.norm()},
        "supcon": {"z": same(2), "label": labels},
        "supervised": {"logits": 0.3 * torch.ones(1, B, 4).double(), "label": labels},
    }
    siamese = {"p": same(2), "z": same(2), "target": same(2)}
    default = siamese if name in ("byol", "simsiam", "directpred", "directcopy") else {"z": same(2)}
    return shapes.get(name, default)


COLLAPSE: dict[tuple[str, str], float] = {
    ("simclr", ""): math.log(15),
    ("simclr", "dcl"): math.log(14),
    ("simclr", "dclw"): math.log(14),
    ("moco", "sum"): 2 * math.log(17),
    ("moco", "mean"): math.log(17),
    ("mocov3", ""): 4 * 0.3 * math.log(8),
    ("byol", ""): 0,
    ("simsiam", ""): -1,
    ("directpred", ""): 0,
    ("directcopy", ""): 0,
    ("relic", ""): math.log(8),
    ("barlowtwins", ""): 4,
    ("vicreg", ""): 24.75,
    ("nnclr", ""): math.log(8),
    ("tico", ""): 8,
    ("lejepa", ""): 0.05 * 0.402047580 * 8,
    ("empssl", ""): -200 - math.log(1 + 4 / 0.2) / 2,
    ("supcon", ""): math.log(15),
    ("supervised", ""): math.log(4),
}


@pytest.mark.parametrize(("name", "option"), COLLAPSE)
def test_collapse_costs_what_the_method_says(name: str, option: str) -> None:
    settings: dict[str, Any] = {"simclr": {"objective": option or "nt-xent"}, "moco": {"direction": option}}.get(
        name, {}
    )
    if name == "moco":
        settings["queue"] = 16
    method = build(name, **settings)
    found = method.loss(collapsed(name, method), torch.arange(B), step()).loss.item()
    assert found == pytest.approx(COLLAPSE[name, option], abs=1e-6)  # MoCo rounds keys
    assert method.constant_loss(B) == pytest.approx(found, abs=1e-6)
    spread = {
        key: x + pictures(*x.shape[:2], seed=len(key)).flatten(2)[:, :, : x.shape[2]] if x.is_floating_point() else x
        for key, x in collapsed(name, method).items()
    }
    assert abs(method.loss(spread, torch.arange(B), step()).loss.item() - found) > 1e-3


def test_scales_of_the_constant_loss() -> None:
    assert build("byol", scale=3.0).constant_loss(8) == 0
    assert build("simsiam", scale=3.0).constant_loss(8) == -3
    assert build("barlowtwins", scale=0.1).constant_loss(8) == pytest.approx(0.4)
    assert build("vicreg", variance=10).constant_loss(8) == pytest.approx(9.9)
    assert build("tico", rho=20).constant_loss(8) == 20
    assert build("lejepa", weight=0.5, furthest=5, knots=9).constant_loss(4) == pytest.approx(2 * 0.408923082, abs=1e-4)
    assert build("moco").constant_loss(8) == pytest.approx(math.log(13))
    assert build("wmse").constant_loss(8) is None  # whitening keeps rows apart whatever they are


TEACHERS = {
    "moco": "keys",
    "mocov3": "keys",
    "byol": "target",
    "directpred": "target",
    "directcopy": "target",
    "relic": "target",
    "tico": "target",
}


def student(method: Any) -> list[Tensor]:
    return [*method.encoder.parameters(), *method.projector.parameters()]


def teacher(name: str, method: Any) -> list[Tensor]:
    return list(getattr(method, TEACHERS[name]).parameters())


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_starts_equal_and_follows_its_schedule(name: str) -> None:
    constant = name in ("moco", "directpred", "directcopy")  # the authors' momentum does not rise
    settings: dict[str, Any] = {"momentum": 0.9, "momentum_end": 0.9} if constant else {"momentum": 0.9}
    method = build(name, **settings)
    assert len(teacher(name, method)) == len(student(method))  # no copy of the predictor
    for t, s in zip(teacher(name, method), student(method)):
        assert torch.equal(t, s)
        assert t is not s
        assert not t.requires_grad
    views, wanted = views_of(name), [t.clone() for t in teacher(name, method)]
    for index in (0, 40, 99):
        with torch.no_grad():
            for p in student(method):
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(index), dtype=p.dtype))
        carry = {k: x.detach() for k, x in method(views, torch.arange(B), step(index)).carry.items()}
        for t, old in zip(teacher(name, method), wanted):
            assert torch.equal(t, old)  # not in the forward pass
        method.after_step(step(index), carry)
        m = 0.9 if constant else 1 - 0.1 * (1 + math.cos(math.pi * index / 100)) / 2
        wanted = [m * old + (1 - m) * p.detach() for old, p in zip(wanted, student(method))]
        for t, want in zip(teacher(name, method), wanted):
            torch.testing.assert_close(t, want, atol=1e-12, rtol=0)
        wanted = [t.clone() for t in teacher(name, method)]
    assert not any(torch.allclose(t, s, atol=1e-3) for t, s in zip(teacher(name, method), student(method)))


def test_momentum_rises_from_one_value_to_the_other() -> None:
    for name, end in (("moco", 0.8), ("byol", 0.8)):
        method = build(name, momentum=0.5, momentum_end=end)
        carry = {k: x.detach() for k, x in method(views_of(name), torch.arange(B), step()).carry.items()}
        for index, m in ((0, 0.5), (50, 0.65), (100, 0.8)):
            with torch.no_grad():
                student(method)[0].zero_()
                teacher(name, method)[0].fill_(1.0)
            method.after_step(step(index), carry)
            assert float(teacher(name, method)[0].mean()) == pytest.approx(m, abs=1e-12)


@each
def test_a_step_is_the_loss_of_what_is_encoded(name: str) -> None:
    """Twice the same; and, without batch statistics, of rows that are encoded in two parts."""
    method, views = build(name), views_of(name)
    disturb(method, 0.1)
    index = torch.arange(B)
    whole = method(views, index, step(3))
    outputs = method.encode(views, step(3))
    assert all(len(x.shape) >= 2 and x.shape[1] == B for x in outputs.values())  # (V, B, ...)
    assert torch.equal(method.loss(outputs, index, step(3)).loss, whole.loss)
    assert torch.equal(method(views, index, step(3)).loss, whole.loss)

    for module in [m for m in method.modules() if isinstance(m, nn.Sequential)]:
        for key, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d):
                module._modules[key] = nn.Identity()
    halves = [method.encode({k: x[:, rows] for k, x in views.items()}, step(3)) for rows in (index[:4], index[4:])]
    joined = {key: torch.cat([half[key] for half in halves], 1) for key in outputs}
    whole = method(views, index, step(3))
    assert method.loss(joined, index, step(3)).loss.item() == pytest.approx(whole.loss.item(), abs=1e-9)
    swapped = {
        key: torch.cat([half[key] for half in (halves if key == min(joined) else halves[::-1])], 1) for key in joined
    }
    if len(joined) > 1 and name != "lejepa":  # rows of different outputs belong together
        assert abs(method.loss(swapped, index, step(3)).loss.item() - whole.loss.item()) > 1e-6


def test_the_covariance_of_tico_moves_once_a_step() -> None:
    method, views = build("tico", beta=0.75), views_of("tico")
    assert "covariance" in method.state_dict()
    assert not method.covariance.any()
    first = method(views, torch.arange(B), step(0))
    method.eval()
    method(views, torch.arange(B), step(0))
    assert not method.covariance.any()  # not in the forward pass
    method.train()
    method.after_step(step(0), first.carry)
    assert method.covariance.trace().item() == pytest.approx(0.25, abs=1e-12)  # rows are unit
    method.after_step(step(1), method(views, torch.arange(B), step(1)).carry)
    assert method.covariance.trace().item() == pytest.approx(0.25 + 0.75 * 0.25, abs=1e-12)
    assert not method.covariance.requires_grad


def test_directions_of_lejepa_are_those_of_the_step() -> None:
    method, views = build("lejepa"), views_of("lejepa")
    index = torch.arange(B)
    now = step(3)
    one, two = method(views, index, now), method(views, index, now)  # forward is pure: the generator is not used up
    other = method(views, index, step(4))
    assert torch.equal(one.logs["sigreg"], two.logs["sigreg"])
    assert one.logs["sigreg"].item() != other.logs["sigreg"].item()
    torch.testing.assert_close(one.logs["invariance"], other.logs["invariance"])


def test_slices_of_wmse_are_those_of_the_step() -> None:
    method, views = build("wmse"), views_of("wmse")
    first, again, other = (method(views, torch.arange(B), step(i)).loss.item() for i in (3, 3, 4))
    assert first == again != other


def test_neighbours_are_looked_up_before_the_push() -> None:
    method, views = build("nnclr"), views_of("nnclr", count=6)
    index, before = torch.arange(6), method.queue.rows.clone()
    first = method(views, index, step(0))
    assert torch.equal(method.queue.rows, before)
    method.after_step(step(0), first.carry)
    assert torch.equal(method.queue.rows[:6], first.carry["z"].double())  # view 1's, the newest first
    assert torch.equal(method.queue.rows[6:], before[:6])
    second = method(views, index, step(1))
    assert second.loss.item() != pytest.approx(first.loss.item(), abs=1e-4)  # now each finds itself
    z = method.embed(views["global"][0]).detach()
    near = nn.functional.cosine_similarity(z[:, None], method.queue.rows[None], dim=2).argmax(1)
    assert near.tolist() == list(range(6))
    method.after_step(step(1), {"z": -first.carry["z"]})
    assert torch.equal(method.queue.rows, torch.cat([-first.carry["z"], first.carry["z"]]).double())


@pytest.mark.parametrize(
    ("name", "settings", "batch", "said"),
    [
        ("moco", {"queue": 20}, 8, "queue 20 is not a multiple of the 8"),
        ("moco", {"queue": 24, "direction": "sum"}, 8, "queue 24 is not a multiple of the 16"),
        ("moco", {"queue": 8}, 16, "try 16"),
        ("nnclr", {"queue": 20}, 8, "try 24"),
        ("wmse", {"slice_size": 16}, 8, "batch of 8 does not split into slices of 16"),
        ("wmse", {"slice_size": 16}, 24, "batch of 32"),
        ("moco", {"queue": 24, "batch_norm": "split", "splits": 3}, 8, "8 pictures are encoded at a time"),
        ("moco", {"queue": 24, "batch_norm": "shuffle"}, 8, "choose split"),
    ],
)
def test_batches_that_do_not_fit_are_refused(name: str, settings: dict, batch: int, said: str) -> None:
    with pytest.raises(WrongUse, match=said):
        build(name, **settings).check(batch, batch)


def test_batches_that_fit_are_not() -> None:
    build("moco", queue=24).check(8, 8)
    build("moco", queue=24, direction="mean").check(8, 8)
    build("moco", queue=32, direction="sum").check(8, 8)
    build("moco", queue=24, batch_norm="split", splits=2).check(8, 4)
    with pytest.raises(WrongUse, match="4 pictures are encoded at a time"):
        build("moco", queue=24, batch_norm="split", splits=8).check(8, 4)  # in parts they are fewer
    build("nnclr", queue=24).check(8, 8)
    build("wmse", slice_size=16).check(32, 32)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if n in SMALL and hasattr(m.Config, "temperature")])
@pytest.mark.parametrize("value", [0.0, -0.1])
def test_temperatures_are_above_zero(name: str, value: float) -> None:
    with pytest.raises(WrongUse, match=r"method\.temperature is"):
        METHODS[name].Config(temperature=value)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if n in SMALL and hasattr(m.Config, "momentum")])
def test_momenta_lie_between_zero_and_one(name: str) -> None:
    for value in (-0.1, 1.1, math.nan):
        with pytest.raises(WrongUse, match=r"method\.momentum"):
            METHODS[name].Config(momentum=value)
    if hasattr(METHODS[name].Config, "momentum_end"):
        with pytest.raises(WrongUse, match=r"method\.momentum_end is 1\.5"):
            METHODS[name].Config(momentum_end=1.5)
        with pytest.raises(WrongUse, match="never falls"):
            METHODS[name].Config(momentum=0.9, momentum_end=0.5)
        METHODS[name].Config(momentum=1.0, momentum_end=1.0)
    METHODS[name].Config(momentum=0.0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("simclr", {"sigma": 0}),
        ("moco", {"queue": 0}),
        ("moco", {"splits": 0}),
        ("relic", {"alpha": -1}),
        ("barlowtwins", {"weight": -1}),
        ("barlowtwins", {"scale": 0}),
        ("vicreg", {"covariance": -1}),
        ("wmse", {"slice_size": 100, "dim": 64}),
        ("wmse", {"iterations": 0}),
        ("tico", {"beta": 1.1}),
        ("tico", {"rho": -1}),
        ("lejepa", {"weight": 1.1}),
        ("lejepa", {"knots": 1}),
        ("lejepa", {"furthest": 0}),
        ("empssl", {"eps": 0}),
        ("supervised", {"smoothing": 1.1}),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict) -> None:
    with pytest.raises(WrongUse, match=rf"method\.{next(iter(settings))}"):
        METHODS[name].Config(**settings)


def test_supervised_needs_classes() -> None:
    from types import SimpleNamespace

    kind: Any = METHODS["supervised"]
    with pytest.raises(WrongUse, match="at least 2 classes, these data have 0"):
        kind(kind.Config(), build("supervised").encoder, SimpleNamespace(classes=0))
