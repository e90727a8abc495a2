"""What each method does beyond the promises that all of them keep."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from selfsight.core import Step
from selfsight.errors import WrongUse
from selfsight.methods.byol import BYOL, BYOLConfig
from selfsight.methods.deepcluster import DeepCluster, DeepClusterConfig
from selfsight.methods.simclr import SimCLR, SimCLRConfig
from selfsight.methods.swav import SwAV, SwAVConfig
from tiny import losses, make, tiny


class Facts:
    """What a method may know of the data."""

    image_size, channels, classes, tiles = 8, 3, 4, 0

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def sweep(self, fn, *, rng=None, train=False):
        with torch.no_grad():
            return torch.cat([fn(x) for x in self.images.split(7)])


class Flat(nn.Module):
    """Pictures as their own features."""

    dim = 12

    def forward(self, x):
        return x.flatten(1)[:, :12]


def step(index=0, total=100, per_epoch=10):
    return Step(index, total, per_epoch, torch.Generator().manual_seed(index))


def pictures(*shape, seed=0):
    return torch.randn(*shape, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def test_simclr_equals_the_formula_by_loops():
    torch.manual_seed(0)
    method = SimCLR(SimCLRConfig(temperature=0.3, hidden=16, dim=5), Flat(), Facts(pictures(9))).double()
    x = pictures(2, 7).double()
    found = method({"global": x}, torch.arange(7), step())
    z = F.normalize(method.embed(x.flatten(0, 1)), dim=1).detach()
    total = 0.0
    for i in range(14):
        other = [math.exp(float(z[i] @ z[k]) / 0.3) for k in range(14) if k != i]
        total += -float(z[i] @ z[(i + 7) % 14]) / 0.3 + math.log(sum(other))
    assert float(found.loss) == pytest.approx(total / 14, abs=1e-10)
    assert method.constant_loss(7) == pytest.approx(math.log(13))


def test_simclr_heads():
    official = SimCLR(SimCLRConfig(), Flat(), Facts(pictures(9))).projector
    assert [type(m).__name__ for m in official] == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert official[0].bias is None
    assert official[3].bias is None
    assert official[4].bias is None  # scale without shift
    plain = SimCLR(SimCLRConfig(norm=False, dim=256), Flat(), Facts(pictures(9))).projector
    assert [type(m).__name__ for m in plain] == ["Linear", "ReLU", "Linear"]
    assert plain[2].bias is not None
    assert (
        len(
            [
                m
                for m in SimCLR(SimCLRConfig(layers=3), Flat(), Facts(pictures(9))).projector
                if isinstance(m, nn.Linear)
            ]
        )
        == 3
    )


def test_byol_loss_and_target():
    torch.manual_seed(0)
    encoder = Linear12()
    method = BYOL(BYOLConfig(hidden=8, dim=4, momentum=0.9), encoder, Facts(pictures(9))).double()
    target = method.target
    assert target is not None
    x = pictures(2, 6).double()
    found = float(method({"global": x}, torch.arange(6), step()).loss)
    total = 0.0
    for a, b in ((0, 1), (1, 0)):
        p = F.normalize(method.predictor(method.embed(x[a])), dim=1).detach()
        t = F.normalize(target(x[b]), dim=1)
        total += sum(float((p[i] - t[i]).square().sum()) for i in range(6)) / 6
    assert found == pytest.approx(total, abs=1e-10)
    assert 0 <= found <= 8
    # at the start the target is the online network
    for t, s in zip(target.parameters(), [*encoder.parameters(), *method.projector.parameters()]):
        assert torch.equal(t, s)
    assert not any(p.requires_grad for p in target.parameters())
    # after k steps of a constant student: m^k of the way is left, with the momentum of each step
    old = [t.clone() for t in target.parameters()]
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(1.0)
    left = 1.0
    for index in (0, 40, 80):
        method.after_step(step(index), {"correlation": torch.eye(4).double()[None]})
        left *= 1 - 0.1 * (1 + math.cos(math.pi * index / 100)) / 2
    new = next(iter(target.parameters()))
    torch.testing.assert_close(new, old[0] + (1 - left) * 1.0)


class Linear12(nn.Module):
    dim = 12

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 12)

    def forward(self, x):
        return self.linear(x.flatten(1)[:, :12])


def swav(**settings):
    torch.manual_seed(0)
    config = SwAVConfig(**{"hidden": 8, "dim": 4, "prototypes": 6, "freeze_steps": 0, **settings})
    return SwAV(config, Flat(), Facts(pictures(64)))


def test_swav_pairs_crops_of_the_same_picture():
    """Crop-major order: with a head that keeps the picture's identity, every crop predicts the code of its own picture."""
    method = swav(prototypes=4, epsilon=0.03, temperature=0.02)
    method.projector = nn.Identity()
    identity = torch.eye(12)[:4]
    method.prototypes = nn.Linear(12, 4, bias=False)
    method.prototypes.weight.data = identity.clone()
    ids = torch.arange(4)
    view = identity[ids].view(1, 4, 3, 2, 2)
    same = method({"global": view.expand(2, -1, -1, -1, -1), "local": view.expand(3, -1, -1, -1, -1)}, ids, step())
    moved = method(
        {"global": view.expand(2, -1, -1, -1, -1), "local": view.roll(1, 1).expand(3, -1, -1, -1, -1)}, ids, step()
    )
    assert float(same.loss) < 0.01
    assert float(moved.loss) > 1


def test_swav_local_crops_never_make_codes():
    method = swav()
    calls = []
    codes = method.codes

    def counted(scores, view, at):
        calls.append(len(scores))
        return codes(scores, view, at)

    method.codes = counted
    method({"global": pictures(2, 8), "local": pictures(4, 8)}, torch.arange(8), step())
    assert calls == [8, 8]


def test_swav_queue_counts_when_full_and_only_balances():
    method = swav(queue=16, queue_from_step=2).train()
    views = {"global": pictures(2, 8)}
    alone = swav()
    alone.load_state_dict(method.state_dict(), strict=False)
    for index in range(4):  # steps 2 and 3 push 8 rows each
        found = method(views, torch.arange(8), step(index))
        same = float(found.loss) == pytest.approx(float(alone(views, torch.arange(8), step(index)).loss), abs=1e-7)
        assert same  # before the queue is full it plays no part
        method.after_step(step(index), found.carry)
    assert [int(q.filled) for q in method.queues] == [16, 16]
    full = method(views, torch.arange(8), step(4))
    assert full.carry["z0"].shape == (8, 4)  # rows of the batch only
    method.queues[0].rows.copy_(F.normalize(torch.randn(16, 4, generator=torch.Generator().manual_seed(5)), dim=1))
    other = method(views, torch.arange(8), step(4))
    assert float(other.loss) != float(full.loss)  # now it balances the codes
    newest = method.queues[1].rows[:8].clone()
    method.after_step(step(4), {name: -value for name, value in full.carry.items()})
    assert torch.equal(method.queues[1].rows[:8], -full.carry["z1"])
    assert torch.equal(method.queues[1].rows[8:], newest)


def test_swav_codes_carry_no_gradient_and_constant_outputs_cost_log_k():
    method = swav()
    scores = torch.randn(8, 6, requires_grad=True)
    assert not method.codes(scores, 0, step()).requires_grad
    equal = swav()
    equal.projector = nn.Identity()
    equal.prototypes.weight.data = torch.ones(6, 12) / 12**0.5
    x = torch.ones(2, 8, 3, 2, 2)
    assert float(equal({"global": x}, torch.arange(8), step()).loss) == pytest.approx(math.log(6), abs=1e-5)
    assert equal.constant_loss(8) == pytest.approx(math.log(6))


def test_swav_prototypes_stay_unit():
    run, data = tiny("swav")
    made = make(run, data)
    losses(run, made, 0, 6)
    made[0].before_step(step(6), made[2])
    torch.testing.assert_close(made[0].prototypes.weight.norm(dim=1), torch.ones(30))


@pytest.mark.parametrize(
    "make_config",
    [
        lambda: SimCLRConfig(temperature=0),
        lambda: SimCLRConfig(layers=0),
        lambda: BYOLConfig(momentum=1.1),
        lambda: BYOLConfig(momentum=0.99, momentum_end=0.9),
        lambda: SwAVConfig(epsilon=0),
        lambda: SwAVConfig(prototypes=1),
        lambda: SwAVConfig(queue=-1),
        lambda: DeepClusterConfig(clusters=1),
        lambda: DeepClusterConfig(every=0),
    ],
)
def test_wrong_settings_are_refused(make_config):
    with pytest.raises(WrongUse, match=r"method\."):
        make_config()


def test_more_clusters_than_pictures_are_refused():
    with pytest.raises(WrongUse, match="at most 32 clusters"):
        DeepCluster(DeepClusterConfig(clusters=40), Flat(), Facts(pictures(64)))
