"""MSN: its loss against the paper's formula in slow loops, which view is the target, what does not decay."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from selfsight.optim import OptimizerConfig
from test_distillation import at, balanced, cross, numbers, softmax
from tiny import make, make_double, tiny

Rows = list[list[float]]


def method_of(**changes: Any) -> Any:
    run, data = tiny("msn")
    return make(replace(run, method=replace(run.method, **changes)), data)[0]


def slow(anchors: list[Rows], target: Rows, t: float, sharpen: float, iterations: int, entropy: float) -> float:
    """Eq. 1: probabilities of the target to the power of 1 / T, normalised, Sinkhorn; mean CE + weight (log K - H)."""
    aims = []
    for row in target:
        powers = [p ** (1 / sharpen) for p in softmax([s / t for s in row])]
        aims.append([p / sum(powers) for p in powers])
    aims = balanced(aims, iterations)
    views, batch, k = len(anchors), len(target), len(target[0])
    total, mean = 0.0, [0.0] * k
    for anchor in anchors:
        for b in range(batch):
            p = softmax([s / t for s in anchor[b]])
            total += cross(aims[b], p) / (views * batch)
            mean = [m + x / (views * batch) for m, x in zip(mean, p)]
    gap = math.log(k) + sum(m * math.log(m) for m in mean)
    assert gap > 0.01
    return total + entropy * gap


@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize(("sharpen", "entropy"), [(0.25, 1.0), (0.4, 0.7), (1.0, 0.0)])
def test_the_loss_equals_loops(iterations: int, sharpen: float, entropy: float) -> None:
    config = {"iterations": iterations, "sharpen": sharpen, "entropy": entropy, "temperature": 0.12}
    method = method_of(**config)
    anchors, target = numbers(3, 4, 5, scale=0.3), numbers(1, 4, 5, seed=1, scale=0.3)
    found = method.loss({"anchor": anchors, "target": target}, torch.arange(4), at()).loss
    expected = slow(anchors.tolist(), target[0].tolist(), 0.12, sharpen, iterations, entropy)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_the_target_is_the_first_view_and_the_anchors_are_all_others() -> None:
    """The teacher, which has gone elsewhere, sees the first whole view; the student the second one and small crops."""
    run, data = tiny("msn")
    method, _, pictures = make_double(replace(run, method=replace(run.method, drop=0.0)), data)
    teacher, student = method.teacher.module, method.student
    with torch.no_grad():
        for i, p in enumerate(teacher.parameters()):
            p.add_(numbers(*p.shape, seed=i, scale=0.05))
    views = method.views(pictures.part.gather(torch.arange(6)), method.views.draw(6, torch.Generator().manual_seed(0)))
    first, second = views["global"]
    crops = [second, *views["local"]]
    assert len(crops) == 3
    out = method.encode(views, at())
    with torch.no_grad():
        target = cosines(teacher["projector"](teacher["encoder"](first)), method.prototypes)
        features = torch.cat([student["encoder"](x) for x in crops])
        anchors = cosines(student["projector"](features), method.prototypes)
    torch.testing.assert_close(out["target"], target[None])
    torch.testing.assert_close(out["anchor"], anchors.unflatten(0, (3, 6)))
    c = method.config
    expected = slow(
        anchors.unflatten(0, (3, 6)).tolist(), target.tolist(), c.temperature, c.sharpen, c.iterations, c.entropy
    )
    assert method(views, torch.arange(6), at()).loss.item() == pytest.approx(expected, rel=1e-9)


def cosines(z: Tensor, prototypes: Tensor) -> Tensor:
    return torch.stack([torch.stack([a @ c / (a.norm() * c.norm()) for c in prototypes]) for a in z])


def test_prototypes_do_not_decay() -> None:
    run, data = tiny("msn", optimizer=OptimizerConfig(name="adamw", lr=0.1, weight_decay=0.5, scaling="none"))
    method, optimizer, _ = make(run, data)
    before, other = method.prototypes.clone(), method.student["projector"][0].weight
    shrunk = other.detach() * (1 - 0.1 * 0.5)
    for p in method.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    assert torch.equal(method.prototypes, before)
    torch.testing.assert_close(other.detach(), shrunk)
