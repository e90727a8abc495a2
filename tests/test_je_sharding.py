"""Anchors of one process, candidates of all: the processes' losses average to the whole, and so do the gradients.

Two processes by hand: each has its own leaves, `gather` is a cat whose gradient goes back to the owners, where the
processes' gradients are summed, and the mean over processes is what DDP makes of parameters' gradients.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from selfsight import losses
from test_losses import views
from test_losses_formulas import queue, slow_weights

Y = torch.tensor([0, 1, 2, 0, 1, 1])
QUEUE = queue(6, 4)[0]
COUNT = {"nt_xent": 2, "dcl": 2, "dclw": 2, "supcon": 2, "moco_v3": 4, "relic": 4, "nnclr": 4}
KEYS = {"moco_v3": (3, 1), "relic": (3, 1), "nnclr": (2, 3)}  # which inputs the candidates of view 1 and 2 are
WHOLE: dict[str, Callable[..., Tensor]] = {
    "nt_xent": partial(losses.nt_xent, temperature=0.3),
    "dcl": partial(losses.dcl, temperature=0.3),
    "dclw": partial(losses.dclw, temperature=0.3, sigma=0.5),
    "moco_v3": partial(losses.moco_v3, temperature=0.3),
    "relic": partial(losses.relic, temperature=0.3, alpha=0.7),
    "nnclr": partial(losses.nnclr, queue=QUEUE, temperature=0.3),
    "supcon": lambda *z: losses.supcon(z, Y, 0.3),
}


def shard(name: str, own: list[Tensor], everyone: list[Tensor], rows: Tensor) -> Tensor:
    """One process's loss."""
    if name == "supcon":
        return losses.supcon(own, Y[rows], 0.3, keys=torch.stack(everyone), key_labels=Y, rows=rows)
    one, two = KEYS.get(name, (0, 1))
    return WHOLE[name](*own, keys=(everyone[one], everyone[two]), rows=rows)


def shards(name: str, cuts: list[int], own_only: bool = False) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The processes' losses; by process, the gradients of all leaves, in the order of inputs and owners."""
    leaves = [[x.clone().requires_grad_() for x in z.split(cuts)] for z in views(COUNT[name], 6, 4)]
    values, grads, start = [], [], 0
    for rank, size in enumerate(cuts):
        everyone = [
            torch.cat([x if r == rank or not own_only else x.detach() for r, x in enumerate(z)]) for z in leaves
        ]
        value = shard(name, [z[rank] for z in leaves], everyone, torch.arange(start, start + size))
        flat = [x for z in leaves for x in z]
        found = torch.autograd.grad(value, flat, allow_unused=True)
        values.append(value.detach())
        grads.append([torch.zeros_like(x) if g is None else g for x, g in zip(flat, found)])
        start += size
    return values, grads


def whole(name: str) -> tuple[Tensor, list[Tensor]]:
    tensors = [x.requires_grad_() for x in views(COUNT[name], 6, 4)]
    value = WHOLE[name](*tensors)
    found = torch.autograd.grad(value, tensors, allow_unused=True)
    return value.detach(), [torch.zeros_like(x) if g is None else g for x, g in zip(tensors, found)]


@pytest.mark.parametrize("name", COUNT)
@pytest.mark.parametrize("cuts", [[3, 3], [2, 2, 2]], ids=["two", "three"])
def test_shards_make_the_whole(name: str, cuts: list[int]) -> None:
    value, wanted = whole(name)
    values, grads = shards(name, cuts)
    assert max(values) - min(values) > 1e-3  # the halves are not the whole already
    assert torch.stack(values).mean().item() == pytest.approx(value.item(), abs=1e-12)
    summed = [torch.stack(parts).sum(0) / len(cuts) for parts in zip(*grads)]
    for i, want in enumerate(wanted):
        got = torch.cat(summed[i * len(cuts) : (i + 1) * len(cuts)])
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["nt_xent", "dcl", "dclw", "nnclr", "supcon"])
def test_remote_candidates_need_their_gradient(name: str) -> None:
    """With only the own rows live among the candidates, the gradient is another one: why `gather` has a backward."""
    _, wanted = whole(name)
    _, grads = shards(name, [3, 3], own_only=True)
    summed = [torch.stack(parts).sum(0) / 2 for parts in zip(*grads)]
    gaps = [(torch.cat(summed[2 * i : 2 * i + 2]) - want).abs().max() for i, want in enumerate(wanted)]
    assert max(gaps) > 1e-3


@pytest.mark.parametrize("name", ["moco_v3", "relic"])
def test_constant_keys_need_none(name: str) -> None:
    """Every process's gradient stays with its own rows."""
    _, grads = shards(name, [3, 3])
    for rank, found in enumerate(grads):
        for at, grad in enumerate(found):
            mine = at % 2 == rank and at // 2 in (0, 2)  # own queries of both views
            assert grad.any() == mine


def test_weights_of_dclw_are_those_of_the_whole_batch() -> None:
    a, b = views(2, 6, 4)
    rows = torch.arange(3)
    gap = losses.dcl(a[:3], b[:3], 0.3, keys=(a, b), rows=rows) - losses.dclw(
        a[:3], b[:3], 0.3, 0.5, keys=(a, b), rows=rows
    )
    weights = torch.stack(slow_weights(a, b, 0.5))[:3]
    similar = torch.nn.functional.cosine_similarity(a[:3], b[:3])
    assert gap.item() == pytest.approx(float(((weights - 1) * similar / 0.3).mean()), abs=1e-12)


@pytest.mark.parametrize("name", COUNT)
def test_keys_and_rows_come_together(name: str) -> None:
    tensors = views(COUNT[name], 6, 4)
    losses_without = {"supcon": lambda: losses.supcon(tensors, Y, 0.3, rows=torch.arange(6))}
    with pytest.raises(ValueError, match="both"):
        losses_without.get(name, lambda: WHOLE[name](*tensors, rows=torch.arange(6)))()
