"""The siamese family: who predicts whom, the closed-form predictor and its correlation, rates and decays of the parts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfsight import optim
from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from selfsight.methods.directpred import DirectPredConfig
from selfsight.methods.siamese import Siamese, SiameseConfig
from test_joint_embedding import Facts, Net, build, disturb, pictures, same, step, views_of
from test_losses import views
from test_losses_formulas import cos, slow_byol, slow_simsiam, sum_of

FAMILY = ["byol", "simsiam", "directpred", "directcopy"]
each = pytest.mark.parametrize("name", FAMILY)
VIEWS = views_of("byol")
INDEX = torch.arange(8)


def targets(method: Any) -> list[Tensor]:
    return [(method.target or method.embed)(x) for x in VIEWS["global"]]


@each
@pytest.mark.parametrize("target", ["ema", "shared"])
def test_the_loss_pairs_predictions_with_the_other_view(name: str, target: str) -> None:
    method = build(name, target=target)
    disturb(method)
    if method.target is not None:
        assert (targets(method)[0] - method.embed(VIEWS["global"][0])).abs().max() > 0.1

    def slow() -> Tensor:
        p1, p2 = (method.predictor(method.embed(x)) for x in VIEWS["global"])
        t1, t2 = targets(method)
        return (slow_simsiam if name == "simsiam" else slow_byol)(p1, t2, p2, t1)

    same(method, VIEWS, slow)


@pytest.mark.parametrize("objective", ["byol", "simsiam"])
def test_scale_multiplies_the_loss(objective: str) -> None:
    one, three = (build("byol", objective=objective, scale=x) for x in (1.0, 3.0))
    found = [m(VIEWS, INDEX, step()).loss.item() for m in (one, three)]
    assert found[1] == pytest.approx(3 * found[0], abs=1e-12)


def test_joint_views_share_their_statistics() -> None:
    method = build("byol", joint_views=True)

    def slow() -> Tensor:
        z = method.embed(VIEWS["global"].flatten(0, 1))
        p1, p2 = method.predictor(z).chunk(2)
        t1, t2 = method.target(VIEWS["global"].flatten(0, 1)).chunk(2)
        return slow_byol(p1, t2, p2, t1)

    found = same(method, VIEWS, slow).loss.item()
    assert abs(found - build("byol")(VIEWS, INDEX, step()).loss.item()) > 1e-3


def test_a_shared_target_is_the_network_itself() -> None:
    encoder = Net()
    method = build("simsiam", encoder)
    assert method.target is None
    assert next(method.parameters()) is encoder.linear.weight
    parts = [*method.encoder.parameters(), *method.projector.parameters(), *method.predictor.parameters()]
    assert {id(p) for p in method.parameters()} == {id(p) for p in parts}
    assert not [key for key in method.state_dict() if "target" in key]
    with torch.no_grad():
        encoder.linear.weight.mul_(-1)  # there is no copy that could stay behind
    outputs = method.encode(VIEWS, step())
    torch.testing.assert_close(outputs["target"][0], method.embed(VIEWS["global"][0]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("objective", ["byol", "simsiam"])
def test_without_stop_gradient_both_sides_have_theirs(objective: str) -> None:
    """The value is the same; the gradient is that of the loss with nothing detached."""
    stopped, live = (build("simsiam", objective=objective, stop_gradient=x) for x in (True, False))
    p, t = (torch.stack(x).requires_grad_() for x in (views(2, 8, 4, 0), views(2, 8, 4, 1)))
    outputs = {"p": p, "z": t, "target": t}

    def slow() -> Tensor:
        total = sum_of(cos(a, b) for i in (0, 1) for a, b in zip(p[i], t[1 - i])) / 8
        return 4 - 2 * total if objective == "byol" else -total / 2

    values = [m.loss(outputs, INDEX, step()).loss for m in (stopped, live)]
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-12)
    assert values[1].item() == pytest.approx(slow().item(), abs=1e-12)
    for ours, theirs in zip(torch.autograd.grad(values[1], [p, t]), torch.autograd.grad(slow(), [p, t])):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
        assert ours.abs().max() > 1e-3
    assert torch.autograd.grad(values[0], [p, t], allow_unused=True)[1] is None


def train(method: Siamese, count: int, each_step: Callable[[int], None], rate: float = 0.1) -> None:
    """Plain SGD with decay on the method's groups."""
    optimizer = torch.optim.SGD([p for group in method.param_groups() for p in group["params"]], rate, weight_decay=0.1)
    for index in range(count):
        out = method({"global": pictures(2, 8, seed=index)}, INDEX, step(index))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        method.after_step(step(index), {key: x.detach() for key, x in out.carry.items()})
        each_step(index)


@pytest.mark.parametrize("predictor", ["linear", "mlp"])
def test_symmetric_predictors_stay_symmetric(predictor: str) -> None:
    method = build("byol", predictor=predictor, symmetric=True, norm="batch")
    linear = [m for m in method.predictor.modules() if isinstance(m, nn.Linear)] or [method.predictor]
    kept: list[Tensor] = []

    def look(index: int) -> None:
        if predictor == "mlp":
            assert torch.equal(linear[0].weight, linear[1].weight.T)
        w = method.matrix
        torch.testing.assert_close(w, w.T, atol=1e-12, rtol=0)
        if predictor == "mlp":
            assert torch.linalg.eigvalsh(w).min() > -1e-12
        kept.append(w.clone())

    look(-1)  # from the start
    train(method, 3, look)
    assert (kept[0] - kept[-1]).abs().max() > 1e-4  # and it learns
    free = build("byol", predictor=predictor).matrix
    assert (free - free.T).abs().max() > 1e-3


def test_symmetrising_takes_the_mean() -> None:
    method = build("byol", predictor="linear", symmetric=True)
    with torch.no_grad():
        method.predictor.weight.copy_(torch.arange(16.0).view(4, 4))
    wanted = (torch.arange(16.0).view(4, 4) + torch.arange(16.0).view(4, 4).T) / 2
    method.after_step(step(1), {"correlation": torch.eye(4)[None].double()})
    assert torch.equal(method.matrix, wanted.double())
    pair = build("byol", symmetric=True)
    first, last = (m for m in pair.predictor.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        first.weight.fill_(1.0)
        last.weight.fill_(3.0)
    pair.after_step(step(1), {"correlation": torch.eye(4)[None].double()})
    assert torch.equal(first.weight, torch.full((8, 4), 2.0).double())
    assert torch.equal(last.weight, torch.full((4, 8), 2.0).double())


def test_groups_carry_rates_and_decays() -> None:
    method = build(
        "simsiam", encoder_lr=0.5, projector_lr=2.0, predictor_lr=3.0, encoder_decay=0.01, predictor_decay=0.0
    )
    optimizer = optim.build(optim.OptimizerConfig(name="sgd", lr=1.0, scaling="none", weight_decay=0.2), method, 8)
    optim.set_rates(optimizer, 1.0, 0.25)  # the schedule stands at a quarter
    found = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            found[id(p)] = (group["lr"], group["weight_decay"])
    for part, rate, decay in (
        (method.encoder, 0.125, 0.01),
        (method.projector, 0.5, 0.2),
        (method.predictor, 3.0, 0.0),
    ):
        matrices = [p for p in part.parameters() if p.ndim > 1]
        assert matrices
        assert all(found[id(p)] == (rate, decay) for p in matrices)
    plain = build("byol").param_groups()
    assert [group["lr_scale"] for group in plain] == [1, 1, 1]
    assert not plain[2]["lr_fixed"]
    assert not any("weight_decay" in group for group in plain)


def test_heads_are_those_of_the_papers() -> None:
    shape = lambda net: [type(m).__name__ for m in net]
    kind: Any = METHODS["simsiam"]
    simsiam = kind(kind.Config(), Net(), Facts())
    block = ["Linear", "BatchNorm1d", "ReLU"]
    assert shape(simsiam.projector) == [*block, *block, "Linear", "BatchNorm1d"]
    assert simsiam.projector[-1].weight is None  # no scale and shift
    assert shape(simsiam.predictor) == [*block, "Linear"]
    assert simsiam.predictor[0].bias is None
    assert simsiam.predictor[-1].bias is not None
    assert simsiam.predictor[0].out_features == 512
    kind = METHODS["directpred"]
    direct = kind(kind.Config(), Net(), Facts())
    assert shape(direct.projector) == [*block, "Linear"]
    assert direct.projector[1].weight is None
    assert (direct.projector[0].out_features, direct.projector[-1].out_features) == (512, 128)
    kind = METHODS["byol"]
    byol = kind(kind.Config(), Net(), Facts())
    for head in (byol.projector, byol.predictor):
        assert shape(head) == [*block, "Linear"]
        assert head[-1].bias is None
        assert head[1].weight is not None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"predictor": "closed-form", "symmetric": True}, "symmetric already"),
        ({"train_between": True}, "closed-form"),
        ({"stop_gradient": False}, "target shared"),
        ({"rho": 1.5}, "method.rho"),
        ({"epsilon": -0.1}, "method.epsilon"),
        ({"power": 0}, "method.power"),
        ({"scale": 0}, "method.scale"),
        ({"every": 0}, "method.every"),
        ({"predictor_lr": 0}, "method.predictor_lr"),
        ({"encoder_decay": -1e-3}, "method.encoder_decay"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(WrongUse, match=said):
        SiameseConfig(**settings)


def test_settings_that_are_right() -> None:
    SiameseConfig(target="shared", stop_gradient=False)
    DirectPredConfig(train_between=True, every=5)
    with pytest.raises(WrongUse, match="symmetric"):
        DirectPredConfig(symmetric=True)
