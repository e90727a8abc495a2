"""MoCo: what the queue holds and when, what keys may know, and batch statistics that do not give the answer away."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.batchnorm import SplitBatchNorm2d, frozen_statistics, split_batch_norm
from selfsight.errors import WrongUse
from test_joint_embedding import Facts, build, disturb, pictures, step, views_of
from test_losses_formulas import slow_moco

INDEX = torch.arange(6)


def views(seed: int = 0) -> dict[str, Tensor]:
    return {"global": pictures(2, 6, seed=seed)}


def unit_keys(method: Any, x: Tensor) -> Tensor:
    return F.normalize(method.keys(x), dim=1)


def close(a: Tensor, b: Tensor) -> None:
    """To the float32 that keys are kept in."""
    torch.testing.assert_close(a.double(), b.double(), atol=1e-6, rtol=0)


def move(method: Any, index: int, seed: int) -> tuple[Tensor, Tensor]:
    """One step on some pictures, which leaves the networks alone. Keys of view 1 and 2, before it."""
    given = views(seed)
    keys = tuple(unit_keys(method, x) for x in given["global"])
    found = method(given, INDEX, step(index))
    method.after_step(step(index), {k: x.detach() for k, x in found.carry.items()})
    return keys  # type: ignore[return-value]


def test_logits_are_against_the_queue_before_the_push() -> None:
    """Thrice the same pictures: at the first step their keys are no negatives, at the second they are."""
    method = build("moco")
    before = method.queues[0].rows.clone()
    x1, x2 = views()["global"]
    first = method(views(), INDEX, step(0))
    assert torch.equal(method.queues[0].rows, before)  # the forward pass pushes nothing
    wanted = slow_moco(method.embed(x1), method.keys(x2), before, 0.2).item()
    assert first.loss.item() == pytest.approx(wanted, abs=1e-6)
    method.after_step(step(0), first.carry)
    full = torch.cat([unit_keys(method, x2), before])[:12]
    close(method.queues[0].rows, full)
    second = method(views(), INDEX, step(1)).loss.item()
    assert second == pytest.approx(slow_moco(method.embed(x1), method.keys(x2), full, 0.2).item(), abs=1e-6)
    assert second > first.loss.item() + 0.1  # the own key is among the negatives


def test_the_queue_holds_the_last_batches_in_order() -> None:
    method = build("moco", queue=18)
    pushed = [move(method, index, index)[1] for index in range(5)]
    close(method.queues[0].rows, torch.cat([pushed[4], pushed[3], pushed[2]]))  # the newest first, rows in their order
    assert method.queues[0].full


def test_symmetric_sum_asks_one_queue_and_pushes_both_views() -> None:
    method = build("moco", direction="sum", queue=24)
    disturb(method)
    before = method.queues[0].rows.clone()
    x1, x2 = views()["global"]
    found = method(views(), INDEX, step(0))
    both = slow_moco(method.embed(x1), method.keys(x2), before, 0.2) + slow_moco(
        method.embed(x2), method.keys(x1), before, 0.2
    )
    assert found.loss.item() == pytest.approx(both.item(), abs=1e-6)  # the second direction knows no new key
    assert len(method.queues) == 1
    keys = move(method, 1, 0)
    close(method.queues[0].rows, torch.cat([keys[1], keys[0], before[:12]]))  # 2N of them


def test_symmetric_mean_swaps_the_roles_of_two_queues() -> None:
    method = build("moco", direction="mean", queue=12)
    disturb(method)
    before = [
        q.rows.copy_(F.normalize(pictures(12, seed=i).flatten(1)[:, :4], dim=1)).clone()
        for i, q in enumerate(method.queues)
    ]
    assert not torch.equal(*before)
    x1, x2 = views()["global"]
    found = method(views(), INDEX, step(0)).loss.item()
    wanted = slow_moco(method.embed(x1), method.keys(x2), before[1], 0.2) + slow_moco(
        method.embed(x2), method.keys(x1), before[0], 0.2
    )
    assert found == pytest.approx(wanted.item() / 2, abs=1e-6)
    other = copy.deepcopy(method)
    for queue, rows in zip(other.queues, before[::-1]):
        queue.rows.copy_(rows)
    swapped = other({"global": torch.stack([x2, x1])}, INDEX, step(0)).loss.item()
    assert swapped == pytest.approx(found, abs=1e-7)
    keys = move(method, 1, 0)
    for queue, new, old in zip(method.queues, keys, before):
        close(queue.rows, torch.cat([new, old[:6]]))  # each view's keys enter their own


@pytest.mark.parametrize("direction", ["one", "sum", "mean"])
def test_keys_and_queues_get_no_gradient(direction: str) -> None:
    method = build("moco", direction=direction)
    outputs = method.encode(views(), step())
    assert outputs["q"].requires_grad
    assert not outputs["k"].requires_grad
    live = {name: x.detach().requires_grad_() for name, x in outputs.items()}
    method.loss(live, INDEX, step()).loss.backward()
    assert live["k"].grad is None  # not through the keys, even where they could carry one
    assert live["q"].grad is not None
    assert live["q"].grad.abs().sum(2).min() > 1e-4
    found = method(views(), INDEX, step())
    found.loss.backward()
    assert all(p.grad is not None for p in [*method.encoder.parameters(), *method.projector.parameters()])
    assert all(p.grad is None for p in method.keys.parameters())
    assert not any(x.requires_grad for x in found.carry.values())


def test_accuracies_are_among_the_queue() -> None:
    """A key is found where the queue's rows are farther away; the other keys of the batch are no candidates."""
    method = build("moco")
    q = pictures(1, 6).flatten(2)[:, :, :4]
    method.queues[0].rows.copy_(F.normalize(-q[0].repeat(2, 1), dim=1))
    near = {"q": q, "k": q[:, :1].expand_as(q) + 20 * q}
    assert method.loss(near, INDEX, step()).logs["top1"].item() == 1
    method.queues[0].rows[:2] = F.normalize(q[0, :2], dim=1)
    assert method.loss(near, INDEX, step()).logs["top1"].item() < 1
    assert method.loss({"q": q, "k": -q}, INDEX, step()).logs["top5"].item() == 0


class Normed(nn.Module):
    """A network with batch normalisation."""

    dim = 12

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 1)
        self.norm = nn.BatchNorm2d(12) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3))


def plain_twin(method: Any, **settings: Any) -> Any:
    """The same parameters with ordinary settings."""
    twin = build("moco", Normed(isinstance(method.encoder.norm, nn.BatchNorm2d)), **settings)
    twin.load_state_dict(method.state_dict())
    return twin


@pytest.mark.parametrize("kind", ["split", "shuffle"])
def test_without_batch_norm_the_order_of_keys_does_not_matter(kind: str) -> None:
    """Un-shuffled, every key is in its query's row."""
    method = build("moco", Normed(norm=False), batch_norm=kind, splits=2)
    seen: list[Tensor] = []
    method.keys.module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    found = method.encode(views(), step(1))
    x2 = views()["global"][1]
    assert not torch.equal(seen[0], x2)  # they were in another order
    assert torch.equal(seen[0].sum(0), x2[torch.randperm(6, generator=step(1).fresh())].sum(0))
    torch.testing.assert_close(found["k"][0], method.keys(x2), atol=1e-12, rtol=0)
    twin = plain_twin(method)
    assert method(views(), INDEX, step(1)).loss.item() == pytest.approx(
        twin(views(), INDEX, step(1)).loss.item(), abs=1e-9
    )
    method.encode(views(), step(2))
    assert not torch.equal(seen[0], seen[-1])  # another order at another step


def statistics(norm: nn.Module) -> list[Tensor]:
    """Records the means of the groups that a norm sees: (splits, C) at each call."""
    seen: list[Tensor] = []

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        splits = getattr(module, "splits", 1)
        x = args[0].detach()
        seen.append(torch.stack([x[g::splits].mean((0, 2, 3)) for g in range(splits)]))

    norm.register_forward_pre_hook(look)
    return seen


def test_split_groups_of_keys_are_not_those_of_queries() -> None:
    """Both views the same picture and both networks equal: yet the batch statistics differ, in split only."""
    same = {"global": pictures(1, 6).expand(2, -1, -1, -1, -1)}
    for kind in ("split", "global"):
        method = build("moco", Normed(), batch_norm=kind, splits=3)
        queries, keys = statistics(method.encoder.norm), statistics(method.keys.module[0].norm)
        outputs = method.encode(same, step(1))
        assert len(queries) == len(keys) == 1
        assert queries[0].shape == ((3, 12) if kind == "split" else (1, 12))
        equal = torch.allclose(queries[0], keys[0], atol=1e-6)
        assert equal == (kind == "global")
        assert torch.allclose(outputs["q"], outputs["k"], atol=1e-6) == (kind == "global")
        torch.testing.assert_close(queries[0].mean(0), keys[0].mean(0), atol=1e-12, rtol=0)  # of the same pictures
        assert torch.equal(method.encode(same, step(1))["k"], outputs["k"])  # drawn anew at each step, not each call


def test_split_keys_by_hand() -> None:
    """Each picture is normalised with the group that the step's permutation put it in."""
    method = build("moco", Normed(), batch_norm="split", splits=2)
    assert type(method.encoder.norm) is SplitBatchNorm2d
    assert type(method.keys.module[0].norm) is SplitBatchNorm2d
    x2, order = views()["global"][1], torch.randperm(6, generator=step(1).fresh())
    wanted = torch.zeros(6, 4).double()
    for group in range(2):
        members = order[group::2]
        y = method.encoder.conv(x2[members])
        mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), correction=0, keepdim=True)
        wanted[members] = method.projector(((y - mean) / (var + 1e-5).sqrt()).mean((2, 3))).detach()
    torch.testing.assert_close(method.encode(views(), step(1))["k"][0], wanted, atol=1e-10, rtol=0)


def test_shuffle_keeps_each_process_apart() -> None:
    """Alone: one group, which no synchronisation replaces."""
    from selfsight.batchnorm import sync_batch_norm

    method = build("moco", Normed(), batch_norm="shuffle")
    sync_batch_norm(method)
    assert type(method.encoder.norm) is SplitBatchNorm2d
    assert method.encoder.norm.splits == 1
    method(views(), INDEX, step())


def slow_split(x: Tensor, norm: nn.BatchNorm2d, splits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, and running mean and variance, of a norm for each group; group of sample j: j mod splits."""
    y, means, variances = torch.zeros_like(x), [], []
    for group in range(splits):
        one = copy.deepcopy(norm)
        one.weight, one.bias = norm.weight, norm.bias
        y[group::splits] = one(x[group::splits])
        means.append(one.running_mean)
        variances.append(one.running_var)
    return y, torch.stack(means).mean(0), torch.stack(variances).mean(0)  # type: ignore[arg-type]


@pytest.mark.parametrize("splits", [1, 2, 4])
@pytest.mark.parametrize("affine", [True, False])
def test_split_batch_norm_by_groups(splits: int, affine: bool) -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3, momentum=0.3, eps=1e-3, affine=affine).double()
    if affine:
        nn.init.normal_(plain.weight)
        nn.init.normal_(plain.bias)
    ours: Any = split_batch_norm(copy.deepcopy(plain), splits)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    for seed in range(3):
        x = torch.randn(8, 3, 4, 5, generator=torch.Generator().manual_seed(seed)).double()
        x = (x + torch.arange(8.0).double()[:, None, None, None]).requires_grad_()  # groups have their own means
        wanted, mean, var = slow_split(x, plain, splits)
        found = ours(x.to(memory_format=torch.channels_last) if seed == 2 else x)
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
        torch.testing.assert_close(ours.running_mean, mean, atol=1e-12, rtol=0)
        torch.testing.assert_close(ours.running_var, var, atol=1e-12, rtol=0)
        assert int(ours.num_batches_tracked) == seed + 1
        weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(9)).double()
        live = [x, *plain.parameters()]
        got = torch.autograd.grad((found * weight).sum(), [x, *ours.parameters()])
        for a, b in zip(got, torch.autograd.grad((wanted * weight).sum(), live)):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
        plain.running_mean, plain.running_var = mean.detach(), var.detach()
    plain.eval()
    ours.eval()
    torch.testing.assert_close(ours(x[:7]), plain(x[:7]), atol=1e-12, rtol=0)  # any count, running statistics
    assert int(ours.num_batches_tracked) == 3


def test_split_batch_norm_details() -> None:
    norm: Any = nn.BatchNorm2d(3)
    inner, other = nn.BatchNorm2d(3), nn.BatchNorm1d(3)
    net, weight = nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Sequential(inner, other)), norm.weight
    same = split_batch_norm(net, 4)
    assert same is net
    assert [type(norm), type(inner), type(other)] == [SplitBatchNorm2d, SplitBatchNorm2d, nn.BatchNorm1d]  # in place
    assert norm.weight is weight
    with pytest.raises(WrongUse, match="6 views do not split into 4 equal groups"):
        norm(torch.randn(6, 3, 2, 2))
    x, before = torch.randn(8, 3, 2, 2), copy.deepcopy(norm.state_dict())
    outside = norm(x)
    norm.load_state_dict(before)
    with frozen_statistics(net):
        assert torch.equal(norm(x), outside)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    norm(x)
    assert not torch.equal(norm.running_mean, before["running_mean"])


def test_heads_are_those_of_the_papers() -> None:
    from selfsight.methods.moco import MoCo, MoCoConfig

    shape = lambda **x: [type(m).__name__ for m in MoCo(MoCoConfig(queue=8, **x), Normed(), Facts()).projector]  # type: ignore[arg-type]
    assert shape() == ["Linear", "ReLU", "Linear"]  # v2
    assert shape(layers=1) == ["Linear"]  # v1
    assert [len(build("moco", direction=d).queues) for d in ("one", "sum", "mean")] == [1, 1, 2]
    assert len(views_of("moco")["global"]) == 2
