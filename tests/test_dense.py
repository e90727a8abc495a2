# mypy: disable-error-code="call-arg,union-attr,arg-type"
"""DenseCL and PixPro: losses between positions of maps against loops, who matches whom, and what each network is asked."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight import losses
from selfsight.errors import WrongUse
from selfsight.methods.densecl import DenseCL, DenseCLConfig
from selfsight.methods.moco import MoCo, MoCoConfig
from selfsight.methods.pixpro import PixPro, PixProConfig, Propagation
from selfsight.optim import cosine_ramp
from selfsight.recipes import recipe
from selfsight.train import build as build_run
from test_joint_embedding import Facts, disturb, same, step
from test_losses_formulas import agree, cos, gradients, slow_moco, sum_of
from tiny import CPU, tiny

INDEX = torch.arange(6)
WHOLE = torch.tensor([0.0, 0, 1, 1])
SIDE = 3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def boxes(count: int, seed: int = 0) -> Tensor:
    """Random crops, a third of them flipped: (n, 4)."""
    u = torch.rand(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    size = 0.2 + 0.6 * u[:, :2]
    low = u[:, 2:] * (1 - size)
    box = torch.cat([low, low + size], 1)
    box[::3] = box[::3][:, [2, 1, 0, 3]]
    return box


# --- losses ---------------------------------------------------------------------------------------------------------


def slow_matches(features: Tensor, others: Tensor) -> Tensor:
    found = torch.zeros(features.shape[:2], dtype=torch.int64)
    for i, (a, b) in enumerate(zip(features, others)):
        for p, x in enumerate(a):
            scores = [float(cos(x, y).detach()) for y in b]
            found[i, p] = scores.index(max(scores))
    return found


def test_matches_equal_a_loop() -> None:
    features, others = randn(3, 9, 5), randn(3, 4, 5, seed=1)
    found = losses.best_matches(features, others)
    assert torch.equal(found, slow_matches(features, others))
    assert torch.equal(losses.best_matches(7 * features, others * torch.rand(3, 4, 1)), found)  # lengths do not matter
    assert torch.equal(losses.best_matches(features, features), torch.arange(9).expand(3, -1))  # identity
    assert losses.best_matches(torch.ones(1, 2, 3), torch.ones(1, 4, 3)).tolist() == [[0, 0]]


def slow_dense_moco(query: Tensor, keys: Tensor, match: Tensor, queue: Tensor, t: float) -> Tensor:
    positions = [slow_moco(query[:, p], torch.stack([k[m] for k, m in zip(keys, match[:, p])]), queue, t)
                 for p in range(query.shape[1])]  # fmt: skip
    return sum_of(positions) / len(positions)


def test_dense_moco_equals_a_loop() -> None:
    match = torch.tensor([[1, 0, 1, 2], [2, 2, 0, 1]])
    tensors = [randn(2, 4, 5), randn(2, 3, 5, seed=1), match, F.normalize(randn(6, 5, seed=2), dim=1)]
    agree(lambda *x: losses.dense_moco(*x, 0.2), lambda *x: slow_dense_moco(*x, 0.2), tensors)
    _, found = gradients(lambda *x: losses.dense_moco(*x, 0.2), tensors)
    assert found[1] is None or not found[1].any()  # keys are constants
    assert found[3] is None or not found[3].any()


def slow_near(place: Tensor, other: Tensor, side: int, distance: float) -> Tensor:
    found = torch.zeros(len(place), side * side, side * side, dtype=torch.bool)
    for i, (a, b) in enumerate(zip(place.tolist(), other.tolist())):
        bins = [((x2 - x1) / side, (y2 - y1) / side) for x1, y1, x2, y2 in (a, b)]
        largest = max(math.hypot(*bin) for bin in bins)
        for p in range(side * side):
            for q in range(side * side):
                (px, py), (qx, qy) = (
                    (box[0] + (at % side + 0.5) * bin[0], box[1] + (at // side + 0.5) * bin[1])
                    for box, at, bin in zip((a, b), (p, q), bins)
                )
                found[i, p, q] = math.hypot(px - qx, py - qy) / largest < distance
    return found


@pytest.mark.parametrize("distance", [0.3, 0.7, 1.5])
def test_near_positions_equal_a_loop(distance: float) -> None:
    place, other = boxes(12), boxes(12, seed=1)
    found = losses.near_positions(place, other, SIDE, distance)
    assert torch.equal(found, slow_near(place, other, SIDE, distance))
    assert torch.equal(losses.near_positions(other, place, SIDE, distance), found.mT)
    assert 0 < found.float().mean() < 1


def test_whole_pictures_pair_each_position_with_itself_alone() -> None:
    """The neighbour is 0.7071 diagonals away, farther than 0.7."""
    whole = WHOLE[None]
    for side in (3, 4, 7):
        found = losses.near_positions(whole, whole, side, 0.7)
        assert torch.equal(found[0], torch.eye(side**2).bool())
        assert losses.near_positions(whole, whole, side, 0.71).sum() > side**2


def test_a_flipped_copy_pairs_mirrored_positions() -> None:
    flipped = WHOLE[None, [2, 1, 0, 3]]
    for side in (3, 4):
        mirror = torch.arange(side**2).view(side, side).flip(1).flatten()
        assert torch.equal(losses.near_positions(WHOLE[None], flipped, side, 0.7)[0], torch.eye(side**2).bool()[mirror])
        both = losses.near_positions(flipped, flipped, side, 0.7)
        assert torch.equal(both[0], torch.eye(side**2).bool())


def test_the_larger_bin_counts() -> None:
    """A small crop in a corner: its nine bins all lie in the first bin of the whole picture."""
    corner = torch.tensor([[0.0, 0, 1 / 3, 1 / 3]])
    found = losses.near_positions(WHOLE[None], corner, SIDE, 0.7)[0]
    assert found[0].all()
    assert found.sum() < 20


def slow_pixpro(y1: Tensor, t2: Tensor, y2: Tensor, t1: Tensor, near: Tensor) -> Tensor:
    rows = []
    for i in range(len(y1)):
        for a, b, pairs in ((y1[i], t2[i], near[i]), (y2[i], t1[i], near[i].T)):
            terms = [cos(a[p], b[q].detach()) for p, q in pairs.nonzero().tolist()]
            rows.append(-2 * sum_of([torch.zeros(()).double(), *terms]) / (len(terms) + 1e-6))
    return sum_of(rows) / len(y1)


def test_pixpro_equals_a_loop() -> None:
    near = slow_near(boxes(4), boxes(4, seed=1), SIDE, 0.7)
    near[1] = False
    tensors = [*(randn(4, 9, 5, seed=seed) for seed in range(4)), near]
    agree(losses.pixpro, slow_pixpro, tensors)
    _, found = gradients(losses.pixpro, tensors)
    assert all(found[i] is None or not found[i].any() for i in (1, 3))  # the teacher's


def test_pixpro_at_its_ends() -> None:
    x, eye = randn(4, 9, 5), torch.eye(9).bool().expand(4, -1, -1)
    assert losses.pixpro(x, x, x, x, eye).item() == pytest.approx(-4, abs=1e-5)
    assert losses.pixpro(-x, x, -3 * x, x, eye).item() == pytest.approx(4, abs=1e-5)
    assert losses.pixpro(x, x, x, x, torch.zeros(4, 9, 9).bool()).item() == 0  # no overlap
    half = eye.clone()
    half[:2] = False
    assert losses.pixpro(x, x, x, x, half).item() == pytest.approx(-2, abs=1e-5)  # they stay in the mean


def test_half_precision_is_raised() -> None:
    x = [randn(2, 9, 5, seed=seed).float() for seed in range(4)]
    near = torch.eye(9).bool().expand(2, -1, -1)
    queue = F.normalize(randn(6, 5).float(), dim=1)
    match = losses.best_matches(x[0], x[1])
    with torch.autocast("cpu", torch.bfloat16):
        half = losses.pixpro(*(y.bfloat16() for y in x), near), losses.dense_moco(x[0], x[1], match, queue, 0.2)
    assert half[0].dtype == half[1].dtype == torch.float32
    assert half[0].item() == pytest.approx(losses.pixpro(*x, near).item(), abs=0.02)
    assert half[1].item() == losses.dense_moco(x[0], x[1], match, queue, 0.2).item()


# --- DenseCL --------------------------------------------------------------------------------------------------------


class MapNet(nn.Module):
    """One convolution to a map of 3 x 3, for pictures of 6 px."""

    dim = 12

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 12, 2, 2), nn.BatchNorm2d(12) if norm else nn.Identity()

    def feature_map(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.feature_map(x).mean((2, 3))


def pictures(seed: int = 0, count: int = 6) -> Tensor:
    return randn(2, count, 3, 6, 6, seed=seed)


def densecl(norm: bool = False, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = DenseCLConfig(**{"hidden": 8, "dim": 4, "queue": 12, **settings})
    return DenseCL(config, MapNet(norm), Facts()).double()


def flat(x: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, P, D)."""
    return x.flatten(2).mT


def test_a_step_of_densecl_by_hand() -> None:
    method = densecl(weight=0.3)
    disturb(method)
    x1, x2 = pictures()

    def slow() -> Tensor:
        query, keys = method.query, method.keys.module
        a, b = flat(query["encoder"].feature_map(x1)), flat(keys["encoder"].feature_map(x2)).detach()
        match = slow_matches(a, b)
        whole = slow_moco(
            query["projector"](query["encoder"](x1)), keys["projector"](keys["encoder"](x2)), method.queue.rows, 0.2
        )
        local = slow_dense_moco(query["dense"](a), keys["dense"](b), match, method.dense_queue.rows, 0.2)
        return 0.7 * whole + 0.3 * local

    out = same(method, {"global": torch.stack([x1, x2])}, slow, atol=1e-6)  # keys are kept in float32 at least
    assert out.carry.keys() == {"k", "dense"}
    method({"global": torch.stack([x1, x2])}, INDEX, step()).loss.backward()
    assert all(p.grad is None for p in method.keys.parameters())
    assert all(p.grad is not None for p in method.query.parameters())


def test_equal_views_match_each_position_with_itself() -> None:
    method = densecl()
    x = pictures()[:1].expand(2, -1, -1, -1, -1)
    found = method.encode({"global": x}, step())
    assert torch.equal(found["match"][0], torch.arange(9).expand(6, -1))
    positive = found["dense_k"][0].gather(1, found["match"][0][..., None].expand(-1, -1, 4))
    torch.testing.assert_close(F.cosine_similarity(found["dense"][0], positive, dim=2), torch.ones(6, 9).double())


def test_matches_are_those_of_the_backbone() -> None:
    """Not of the projected features: with another dense head they stay; with other features they do not."""
    method = densecl()
    views = {"global": pictures()}
    before = method.encode(views, step())
    disturb(method.query["dense"], 3.0)
    disturb(method.keys.module["dense"], 3.0)
    after = method.encode(views, step())
    assert torch.equal(before["match"], after["match"])
    by_heads = losses.best_matches(after["dense"][0], after["dense_k"][0])
    assert not torch.equal(by_heads, after["match"][0])
    disturb(method.keys.module["encoder"], 3.0)  # the keys' features are the key network's
    assert not torch.equal(method.encode(views, step())["match"], after["match"])


def test_without_the_dense_loss_it_is_moco_v2() -> None:
    method = densecl(weight=0.0)
    disturb(method)
    torch.manual_seed(1)
    moco = MoCo(MoCoConfig(hidden=8, dim=4, queue=12), MapNet(), Facts()).double()
    moco.encoder.load_state_dict(method.encoder.state_dict())
    moco.projector.load_state_dict(method.query["projector"].state_dict())
    moco.keys.module[0].load_state_dict(method.keys.module["encoder"].state_dict())  # type: ignore[index]
    moco.keys.module[1].load_state_dict(method.keys.module["projector"].state_dict())  # type: ignore[index]
    views = {"global": pictures()}
    for index in range(3):  # the queues fill alike, too
        a, b = method(views, INDEX, step(index)), moco(views, INDEX, step(index))
        assert a.loss.item() == b.loss.item()
        assert a.logs["top1"] == b.logs["top1"]
        for p, q in zip(method.encoder.parameters(), moco.encoder.parameters()):
            ours, theirs = (
                torch.autograd.grad(a.loss, p, retain_graph=True),
                torch.autograd.grad(b.loss, q, retain_graph=True),
            )
            assert torch.equal(*ours, *theirs)
        method.after_step(step(index), a.carry)
        moco.after_step(step(index), b.carry)
        assert torch.equal(method.queue.rows, moco.queues[0].rows)


def test_queues_hold_unit_rows_and_wrap() -> None:
    method = densecl(queue=18)
    disturb(method)
    kept = []
    for index in range(5):
        views = {"global": pictures(index)}
        with torch.no_grad():
            features = flat(method.keys.module["encoder"].feature_map(views["global"][1]))
            averages = method.keys.module["dense"](features).mean(1)  # of the dense outputs, then unit length
        kept.append(F.normalize(averages, dim=1))
        method.after_step(step(index), method(views, INDEX, step(index)).carry)
    torch.testing.assert_close(method.dense_queue.rows.double(), torch.cat(kept[:1:-1]), atol=1e-6, rtol=0)
    for queue in (method.queue, method.dense_queue):
        torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones_like(queue.rows[:, 0]))
        assert queue.full
    assert not torch.equal(method.queue.rows, method.dense_queue.rows)


def test_keys_come_from_the_key_network() -> None:
    """Not from the one that learns, as in a re-implementation; all three parts of it."""
    method = densecl()
    views = {"global": pictures()}
    before = method.encode(views, step())
    disturb(method.query)
    after = method.encode(views, step())
    assert torch.equal(before["k"], after["k"])
    assert torch.equal(before["dense_k"], after["dense_k"])
    assert not torch.equal(before["q"], after["q"])
    teacher = copy.deepcopy(method.keys.module)
    method.after_step(step(), {"k": torch.ones(6, 4).double(), "dense": torch.ones(6, 4).double()})
    for name, p in method.keys.module.named_parameters():
        old, new = teacher.get_parameter(name), method.query.get_parameter(name)
        torch.testing.assert_close(p, 0.999 * old + 0.001 * new, atol=1e-12, rtol=0)


@pytest.mark.parametrize("norm", [True, False])
def test_keys_in_other_groups_come_back_in_order(norm: bool) -> None:
    """Maps as well as global keys; with batch statistics, those of other groups."""
    found = []
    for kind in ("global", "split"):
        method = densecl(norm, batch_norm=kind, splits=2)
        found.append(method.encode({"global": pictures()}, step(1)))
    for name in ("k", "dense_k", "match"):
        equal = torch.allclose(found[0][name].double(), found[1][name].double(), atol=1e-9)
        assert equal != norm or name == "match", name


def test_what_densecl_refuses() -> None:
    method = densecl(queue=18)
    with pytest.raises(WrongUse, match="not a multiple of the 12"):
        method.check(12, 12)
    with pytest.raises(WrongUse, match="do not share evenly"):
        densecl(queue=18, batch_norm="split", splits=4).check(6, 6)
    with pytest.raises(WrongUse, match="choose split"):
        densecl(queue=18, batch_norm="shuffle").check(6, 6)
    for settings in ({"weight": 1.1}, {"temperature": 0.0}, {"queue": 0}, {"momentum": -0.1}):
        with pytest.raises(WrongUse, match="method"):
            DenseCLConfig(**settings)
    for kind in (DenseCL, PixPro):
        with pytest.raises(WrongUse, match="feature map"):
            kind(kind.Config(), nn.Flatten(), Facts())
    assert densecl().constant_loss(6) == pytest.approx(math.log(13))


def test_heads_are_the_papers() -> None:
    method = DenseCL(DenseCLConfig(queue=8), MapNet(), Facts())
    for head in ("projector", "dense"):
        assert [getattr(m, "out_features", "relu") for m in method.query[head]] == [2048, "relu", 128]  # type: ignore[attr-defined]
    run = recipe("densecl", "imagenet")
    assert run.method == DenseCLConfig(batch_norm="shuffle")
    assert (run.epochs, run.batch_size, run.optimizer.lr, run.optimizer.weight_decay) == (200, 256, 0.03, 1e-4)


# --- PixPro ---------------------------------------------------------------------------------------------------------


def pixpro(**settings: Any) -> Any:
    torch.manual_seed(0)
    config = PixProConfig(**{"hidden": 8, "dim": 4, **settings})
    method = PixPro(config, MapNet(), Facts()).double()
    return method


def seen(x: Tensor, place: Tensor | None = None) -> dict[str, Tensor]:
    """Views (2, B, ...) and their places (2, 4), the whole picture by default."""
    place = torch.stack([WHOLE, WHOLE]) if place is None else place
    return {"global": x, "place": place[:, None].expand(-1, x.shape[1], -1)}


def test_propagation_equals_a_loop() -> None:
    for sharpness in (2.0, 1.0, 0.5):
        torch.manual_seed(0)
        module, x = Propagation(5, sharpness).double(), randn(2, 9, 5)
        found = module(x)
        for i in range(2):
            values = [module.transform(v) for v in x[i]]
            for p in range(9):
                wanted = sum(
                    max(float(cos(x[i, p], x[i, q])), 0) ** sharpness * values[q] / values[q].norm() for q in range(9)
                )
                torch.testing.assert_close(found[i, p], wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("instance", [0.0, 0.7])
def test_a_step_of_pixpro_by_hand(instance: float) -> None:
    method = pixpro(instance=instance)
    disturb(method)
    views = {"global": pictures(), "place": torch.stack([boxes(6), boxes(6, seed=1)])}

    def slow() -> Tensor:
        online, target = method.online, method.target.module
        maps = [(flat(online["encoder"].feature_map(x)), flat(target["encoder"].feature_map(x)).detach())
                for x in views["global"]]  # fmt: skip
        head = lambda net, x: net(x.flatten(0, 1)).unflatten(0, (6, 9))
        (y1, t1), (y2, t2) = (
            (method.propagation(head(online["projector"], a)), head(target["projector"], b)) for a, b in maps
        )
        loss = slow_pixpro(y1, t2, y2, t1, slow_near(*views["place"], 3, 0.7))
        if instance:
            (p1, w1), (p2, w2) = (
                (head(method.predictor, head(online["instance"], a)).mean(1), head(target["instance"], b).mean(1))
                for a, b in maps
            )
            both = [cos(a, b.detach()) for a, b in [*zip(p1, w2), *zip(p2, w1)]]
            loss = loss - instance * 2 * sum_of(both) / 6
        return loss

    same(method, views, slow, atol=1e-8)


def test_equal_whole_views_at_their_best() -> None:
    """With y = x' the loss is -4: perfect propagation is what is left to learn."""
    method = pixpro()
    views = seen(pictures()[:1].expand(2, -1, -1, -1, -1))
    found = method.encode(views, step())
    found["y"] = 3 * found["t"]
    out = method.loss(found, INDEX, step())
    assert out.loss.item() == pytest.approx(-4, abs=1e-5)
    assert out.logs["pairs"].item() == 9
    assert out.logs["overlap"].item() == 1
    apart = torch.tensor([[0.0, 0, 0.3, 0.3], [0.6, 0.6, 1, 1]])
    away = method(seen(pictures(), apart), INDEX, step())
    assert away.loss.item() == 0
    assert away.logs["overlap"].item() == 0


def test_a_flipped_view_is_compared_with_its_mirror() -> None:
    """A network of single patches sees a mirrored picture of constant patches as the mirrored map: the loss knows."""
    method = pixpro()
    x = randn(6, 3, 3, 3).repeat_interleave(2, 2).repeat_interleave(2, 3)
    method.encoder.conv.weight.data.copy_(
        method.encoder.conv.weight.data.mean((2, 3), keepdim=True).expand(-1, -1, 2, 2)
    )
    flipped = torch.stack([WHOLE, WHOLE[[2, 1, 0, 3]]])
    found = method.encode(seen(torch.stack([x, x.flip(-1)]), flipped), step())
    found["y"] = found["t"]
    assert method.loss(found, INDEX, step()).loss.item() == pytest.approx(-4, abs=1e-5)
    found["place"] = seen(pictures())["place"]  # as if it were not flipped
    assert method.loss(found, INDEX, step()).loss.item() > -3.99


def test_the_teacher_follows_along_a_cosine() -> None:
    method = pixpro()
    assert method.target.module.keys() == {"encoder", "projector"}  # no propagation
    for index in (0, 40, 99):
        disturb(method.online)
        before = copy.deepcopy(method.target.module)
        method.after_step(step(index), {})
        momentum = 1 - 0.01 * (1 + math.cos(math.pi * index / 100)) / 2
        assert momentum == pytest.approx(cosine_ramp(0.99, 1.0, index / 100))
        for name, p in method.target.module.named_parameters():
            old, new = before.get_parameter(name), method.online.get_parameter(name)
            torch.testing.assert_close(p, momentum * old + (1 - momentum) * new, atol=1e-12, rtol=0)
    out = method(seen(pictures()), INDEX, step())
    out.loss.backward()
    assert all(p.grad is None for p in method.target.parameters())
    assert all(p.grad is not None for p in method.online.parameters())


def test_what_pixpro_refuses() -> None:
    for settings in (
        {"momentum": 0.99, "momentum_end": 0.9},
        {"distance": 0.0},
        {"sharpness": 0.0},
        {"instance": -1.0},
    ):
        with pytest.raises(WrongUse, match="method"):
            PixProConfig(**settings)
    run, data = tiny("pixpro")
    with pytest.raises(WrongUse, match="add --views"):
        build_run(replace(run, views=replace(run.views, places=False)), data, CPU)
    with pytest.raises(WrongUse, match="leave out --views"):
        build_run(replace(run, views=replace(run.views, rotate=0.5)), data, CPU)


def test_pixpro_is_the_papers() -> None:
    method = PixPro(PixProConfig(instance=1.0), MapNet(), Facts())
    layers = lambda head: [getattr(m, "out_features", type(m).__name__) for m in head]
    wanted = [4096, "BatchNorm1d", "ReLU", 256]
    assert layers(method.online["projector"]) == layers(method.online["instance"]) == layers(method.predictor) == wanted
    assert layers([method.propagation.transform]) == [256]
    run = recipe("pixpro", "imagenet")
    assert run.method == PixProConfig()
    assert run.views.policy == "byol"
    assert (run.optimizer.name, run.optimizer.lr, run.optimizer.weight_decay) == ("lars", 1.0, 1e-5)
    assert (run.schedule.name, run.schedule.warmup_epochs, run.epochs) == ("cosine", 5, 100)
