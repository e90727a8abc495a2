"""SwAV: who makes codes, who carries a gradient, and that every crop meets the code of its own picture."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.assign import sinkhorn
from selfsight.augment import ViewsConfig, build, multi_crop
from selfsight.losses import swapped_prediction
from selfsight.methods.swav import SwAV, SwAVConfig
from selfsight.nn import multi_crop as each_crop
from test_methods import Facts, Flat, pictures, step


def swav(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = SwAVConfig(**{"hidden": 8, "dim": 4, "prototypes": 6, "freeze_steps": 0, **settings})
    return SwAV(config, Flat(), Facts(pictures(64))).double()


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def filled(method: Any) -> Any:
    for i, queue in enumerate(method.queues):
        queue.rows.copy_(unit(*queue.rows.shape, seed=7 + i))
        queue.filled.fill_(len(queue.rows))
    return method


def test_the_golden_loss() -> None:
    scores = torch.tensor([[0.1, 0.0], [0.0, 0.1]], dtype=torch.float64)
    codes = sinkhorn(scores, 0.05, 3)
    assert float(swapped_prediction([scores, scores], [codes, codes], 0.1)) == pytest.approx(0.432465, abs=1e-6)


def test_codes_are_those_of_batch_and_old_queue_together() -> None:
    method = filled(swav(queue=20))
    scores = unit(8, 4) @ method.prototypes.weight.detach().T
    for view in range(2):
        past = method.queues[view].rows @ method.prototypes.weight.detach().T
        wanted = sinkhorn(torch.cat([scores, past]), 0.05, 3)[:8]
        torch.testing.assert_close(method.codes(scores, view, step(50)), wanted)
        assert (wanted - sinkhorn(scores, 0.05, 3)).abs().max() > 0.01


def test_only_rows_of_the_batch_carry_a_gradient_and_each_its_part() -> None:
    """Against loops: queue rows balance the codes, count in no mean, and get nothing."""
    method = filled(swav(queue=20))
    scores = (unit(3, 5, 4) @ method.prototypes.weight.detach().T).requires_grad_()
    z = unit(2, 5, 4)
    found = method.loss({"scores": scores, "z": z}, torch.arange(5), step(50))
    found.loss.backward()
    codes = [method.codes(scores[i].detach(), i, step(50)) for i in range(2)]
    gradient, total = torch.zeros_like(scores), 0.0
    for v in range(3):
        coded = [i for i in range(2) if i != v]
        for b in range(5):
            exp = [math.exp(s / 0.1) for s in scores[v, b].tolist()]
            for i in coded:
                for k in range(6):
                    p, q, weight = exp[k] / sum(exp), float(codes[i][b, k]), 1 / (2 * 2 * 5)
                    total -= weight * q * math.log(p)
                    gradient[v, b, k] += weight * (p - q) / 0.1  # d CE / d score, q constant
    assert found.loss.item() == pytest.approx(total, abs=1e-12)
    torch.testing.assert_close(scores.grad, gradient, atol=1e-12, rtol=0)
    assert (gradient.abs().sum(2) > 0).all()
    assert all(found.carry[f"z{i}"].shape == (5, 4) and not found.carry[f"z{i}"].requires_grad for i in range(2))


def test_codes_are_constants_of_the_loss() -> None:
    scores, codes = unit(3, 5, 6).requires_grad_(), unit(2, 5, 6, seed=1).softmax(2).requires_grad_()
    swapped_prediction(scores, codes, 0.1).backward()
    assert scores.grad is not None
    assert codes.grad is None


def test_crops_are_encoded_by_size_whole_ones_first() -> None:
    sizes: list[tuple[int, ...]] = []

    class Sees(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(tuple(x.shape))
            return x[:, 0, 0, :1]

    whole, small = torch.arange(6.0).view(2, 3, 1, 1, 1), 10 + torch.arange(9.0).view(3, 3, 1, 1, 1)
    views = {"local": small.expand(-1, -1, 1, 4, 4), "global": whole.expand(-1, -1, 1, 8, 8)}
    assert each_crop(Sees(), views).flatten().tolist() == [*range(6), *range(10, 19)]  # crop by crop
    assert sizes == [(6, 1, 8, 8), (9, 1, 4, 4)]
    assert each_crop(Sees(), {"global": views["global"]}).shape == (6, 1)


def test_hard_codes_and_how_long() -> None:
    scores = unit(8, 6)
    soft = swav().codes(scores, 0, step(0))
    for hard_steps, index, hard in ((3, 2, True), (3, 3, False), (-1, 99, True), (0, 0, False)):
        codes = swav(hard_steps=hard_steps).codes(scores, 0, step(index))
        wanted = F.one_hot(soft.argmax(1), 6).double() if hard else soft
        assert torch.equal(codes, wanted)


def test_swapping_the_views_changes_nothing() -> None:
    method = swav()
    x = pictures(2, 8).double()
    a, b = (float(method({"global": views}, torch.arange(8), step()).loss) for views in (x, x.flip(0)))
    assert a == pytest.approx(b, abs=1e-12)


def test_equal_pictures_get_uniform_codes_and_log_k_or_more() -> None:
    method = swav()
    found = method({"global": torch.ones(2, 8, 3, 2, 2).double()}, torch.arange(8), step())
    assert float(found.logs["code_entropy"]) == pytest.approx(1.0)
    z = method.projector(torch.ones(8, 12).double())[:1]
    log_p = (method.prototypes(F.normalize(z, dim=1)) / 0.1).log_softmax(1)
    assert float(found.loss) == pytest.approx(-float(log_p.mean()), abs=1e-9)
    assert float(found.loss) >= math.log(6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
@pytest.mark.parametrize("epsilon", [1e-4, 0.05, 10.0])
def test_loss_and_gradient_stay_finite(scale: float, epsilon: float) -> None:
    method = swav(epsilon=epsilon, queue=20).float()
    scores = (scale * unit(4, 3, 6)).float().requires_grad_()
    found = method.loss({"scores": scores, "z": unit(2, 3, 4).float()}, torch.arange(3), step(50))
    found.loss.backward()
    assert found.loss.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert all(value.isfinite() for value in found.logs.values())


class Colour(nn.Module):
    """Which picture it is: pictures of one gray level each, whatever is cropped."""

    dim = 12

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean((1, 2, 3)).mul(255 / 20).round().long()
        return F.one_hot(level, 12).double()


@pytest.mark.parametrize("size", [32, 64, 96, 160, 224])
def test_every_crop_meets_the_code_of_its_own_picture(size: int) -> None:
    """Through the real views, of every input size: crops of a picture stand in the row of that picture."""
    config = ViewsConfig(policy="plain", locals=3, normalise=False, strength=0.0, blur=0.0)
    views = build(config, size, 1, torch.zeros(1), torch.ones(1))
    pixels = (20 * torch.arange(12, dtype=torch.uint8)).view(12, 1, 1, 1).expand(-1, -1, size, size)
    rows = torch.tensor([5, 0, 11, 3, 7, 1, 10, 2, 8, 4, 9, 6])
    made = views(pixels[rows], views.draw(12, torch.Generator().manual_seed(0)))
    assert made["global"].shape[-1] == size
    assert made["local"].shape[-1] == multi_crop(size).size < size
    torch.manual_seed(0)
    method: Any = SwAV(
        SwAVConfig(prototypes=12, dim=12, freeze_steps=0, epsilon=0.03), Colour(), Facts(pictures(9))
    ).double()
    method.projector = nn.Identity()
    method.prototypes.weight.data = torch.eye(12).double()
    scores = method.encode(made, step())["scores"]
    assert torch.equal(scores, F.one_hot(rows, 12).double().expand(5, -1, -1))  # (2 whole + 3 small, B, K)
    right = float(method(made, rows, step()).loss)
    mixed = made | {"local": made["local"].roll(1, 1)}
    assert right < 0.1 * float(method(mixed, rows, step()).loss)
