"""PIRL, InstDisc and the memory bank: formulas in loops, the bank's state, gradients through negatives."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from selfsight.core import Step
from selfsight.errors import WrongUse
from selfsight.losses import memory_accuracy, memory_nce, memory_softmax, noise_logits, pirl
from selfsight.methods.instdisc import InstDiscConfig
from selfsight.methods.pirl import PIRLConfig
from selfsight.nn import Memory
from selfsight.rng import Stream, generator
from selfsight.train import order
from tiny import losses, make, make_double, tiny

RNG = torch.Generator().manual_seed(0)
E, OWN, REST = (F.normalize(torch.randn(n, 5, dtype=torch.float64, generator=RNG), dim=1) for n in (4, 4, 7))
MASK = torch.rand(4, 7, generator=RNG) < 0.3


def step(index=0):
    return Step(index, 40, 10, torch.Generator().manual_seed(index))


def dot(a, b):
    return sum(x * y for x, y in zip(a.tolist(), b.tolist()))


def slow_softmax(e, mask, t=0.2):
    total = 0.0
    for i in range(len(e)):
        own = math.exp(dot(e[i], OWN[i]) / t)
        rest = sum(math.exp(dot(e[i], r) / t) for r, out in zip(REST, mask[i]) if not out)
        total -= math.log(own / (own + rest))
    return total / len(e)


def slow_nce(e, mask, z, count, t=0.2):
    """Eq. 4 to 7 of InstDisc, literally: P, h, and the two logarithms. z: Z."""
    total, k = 0.0, len(REST)
    for i in range(len(e)):
        p = math.exp(dot(e[i], OWN[i]) / t) / z
        total -= math.log(p / (p + k / count))
        for row, out in zip(REST, mask[i]):
            p = math.exp(dot(e[i], row) / t) / z
            total -= 0 if out else math.log(1 - p / (p + k / count))
    return total / len(e)


def test_losses_are_those_of_loops():
    assert float(memory_softmax(3 * E, OWN, REST, 0.2, MASK)) == pytest.approx(slow_softmax(E, MASK), rel=1e-12)
    assert float(memory_softmax(E, OWN, REST, 0.2)) == pytest.approx(slow_softmax(E, ~MASK & MASK), rel=1e-12)
    found = memory_nce(3 * E, OWN, REST, 0.2, MASK, normaliser=torch.tensor(1.7, dtype=torch.float64))
    assert float(found) == pytest.approx(slow_nce(E, MASK, 1.7 * 50, 50), rel=1e-12)
    other = E.flip(0)
    mixed = pirl(E, other, OWN, REST, 0.2, 0.3, MASK)
    assert float(mixed) == pytest.approx(0.3 * slow_softmax(other, MASK) + 0.7 * slow_softmax(E, MASK), rel=1e-12)
    scores = [[dot(E[i], OWN[i])] + [dot(E[i], r) for r, out in zip(REST, MASK[i]) if not out] for i in range(4)]
    right = sum(s[0] > max(s[1:]) for s in scores) / 4
    assert float(memory_accuracy(E, OWN, REST, MASK)) == right


def test_values_of_closed_form():
    basis = torch.eye(9, dtype=torch.float64)
    found = memory_softmax(basis[:1], basis[:1], basis[1:], 0.1)
    assert float(found) == pytest.approx(math.log(1 + 8 * math.exp(-10)), rel=1e-9)
    for k, value in ((7, math.log(8) + 7 * math.log(8 / 7)), (32000, 11.3735)):  # all P = 1 / N
        same = torch.ones(1, 1, dtype=torch.float64)
        score = torch.tensor(math.exp(1 / 0.5), dtype=torch.float64)
        assert float(memory_nce(same, same, same.expand(k, 1), 0.5, normaliser=score)) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("loss", ["infonce", "nce"])
def test_gradient_flows_through_negatives_and_not_into_the_bank(loss):
    """Row T06: without it nothing would push pictures apart."""
    e, own, rest = (x.clone().requires_grad_() for x in (E, OWN, REST))
    whole = {
        "infonce": lambda n: memory_softmax(e, own, n, 0.2),
        "nce": lambda n: memory_nce(e, own, n, 0.2, normaliser=torch.tensor(1.0)),
    }[loss]
    (gradient,) = torch.autograd.grad(whole(rest), e, retain_graph=True)
    assert torch.autograd.grad(whole(rest), (e, own, rest), allow_unused=True)[1:] == (None, None)
    # away from the row that attracts: what is left comes from the negatives
    moved = rest.detach().clone()
    moved[0] = F.normalize(moved[0] + e[0].detach(), dim=0)
    (other,) = torch.autograd.grad(whole(moved), e)
    assert (gradient - other).abs().max() > 1e-3
    h = 1e-6
    for i, d in ((0, 0), (2, 3)):
        shifted = [E.clone() for _ in range(2)]
        shifted[0][i, d] += h
        shifted[1][i, d] -= h
        up, down = (
            float(memory_softmax(s, OWN, REST, 0.2) if loss == "infonce" else memory_nce(
                s, OWN, REST, 0.2, normaliser=torch.tensor(1.0)))
            for s in shifted
        )  # fmt: skip
        assert float(gradient[i, d]) == pytest.approx((up - down) / (2 * h), abs=1e-6)


def test_the_bank_follows_and_leaves_other_rows_alone():
    bank = Memory(20, 8)
    before = bank.rows.clone()
    torch.testing.assert_close(before.norm(dim=1), torch.ones(20))
    index, rows = torch.tensor([3, 11, 5]), F.normalize(torch.randn(3, 8, generator=RNG), dim=1)
    bank.follow(index, rows, 0.5)
    torch.testing.assert_close(bank.rows[index], F.normalize(0.5 * before[index] + 0.5 * rows, dim=1))
    torch.testing.assert_close(bank.rows.norm(dim=1), torch.ones(20))
    others = [i for i in range(20) if i not in index.tolist()]
    assert torch.equal(bank.rows[others], before[others])
    bank.follow(index, rows, 1.0)
    still = bank.rows.clone()
    bank.follow(index, -rows, 1.0)
    torch.testing.assert_close(bank.rows, still)


def test_of_a_picture_that_comes_twice_the_last_row_counts():
    a, b = Memory(20, 8), Memory(20, 8)
    rows = F.normalize(torch.randn(5, 8, generator=RNG), dim=1)
    a.follow(torch.tensor([4, 9, 4, 2, 9]), rows, 0.5)
    b.follow(torch.tensor([4, 2, 9]), rows[2:], 0.5)
    assert torch.equal(a.rows, b.rows)


def test_negatives_are_shared_and_never_the_picture_itself():
    bank = Memory(50, 4)
    index = torch.tensor([0, 7, 7, 33])
    own, rest, same = bank.asked(index, 20, step(3))
    assert torch.equal(own, bank.rows[index])
    assert rest.shape == (20, 4)
    assert torch.equal(rest, bank.asked(index, 20, step(3))[1])  # the same at every call
    assert not torch.equal(rest, bank.asked(index, 20, step(4))[1])
    for b in range(4):
        for j in range(20):
            assert bool(same[b, j]) == torch.equal(rest[j], bank.rows[index[b]])
    _, everyone, same = bank.asked(index, 50, step(3))
    assert torch.equal(everyone, bank.rows)
    assert same.sum(1).tolist() == [1, 1, 1, 1]


def whole_step(name, **settings):
    run, data = tiny(name)
    run = replace(run, method=replace(run.method, **settings))
    method, _, pictures = made = make_double(run, data)
    rows = order(run.seed, 0, len(pictures))[:64]
    views = method.views(pictures.part.gather(rows), method.views.draw(64, generator(0, Stream.VIEWS, 0)))
    return made, views, rows


def test_pirl_is_a_loop_over_pictures():
    (method, _, _), views, rows = whole_step("pirl", layers=2, hidden=16)
    found = method(views, rows, step())
    image = F.normalize(method.head(method.encoder(views["global"][0])), dim=1)
    tiles = method.tile_head(method.encoder(views["tiles"].flatten(0, 1))).unflatten(0, (4, 64))
    rest = torch.randint(len(method.bank.rows), (256,), generator=step().fresh())
    total, t = 0.0, method.config.temperature
    for b in range(64):
        places = views["shuffle"][0, b].argsort()
        e = F.normalize(method.tiles_head(torch.cat([tiles[p, b] for p in places])), dim=0)
        for z in (e, image[b]):
            own = (z @ method.bank.rows[rows[b]] / t).exp()
            others = sum((z @ method.bank.rows[j] / t).exp() for j in rest if j != rows[b])
            total -= 0.5 * (own / (own + others)).log() / 64
    assert float(found.loss) == pytest.approx(float(total), rel=1e-6)
    torch.testing.assert_close(found.carry["row"], image.detach())  # the bank follows the view alone
    assert torch.equal(found.carry["index"], rows)
    orders = views["shuffle"][0].argsort(1)
    assert len(orders.unique(dim=0)) > 12  # a permutation of each picture's own


def test_shuffling_changes_the_tiles_only_through_the_joint_head():
    (method, _, _), views, _ = whole_step("pirl")
    method.eval()
    a = method.encode(views, step())
    b = method.encode({**views, "shuffle": 1 - views["shuffle"]}, step())
    assert torch.equal(a["image"], b["image"])
    assert (a["tiles"] - b["tiles"]).abs().max() > 1e-3
    nn.init.zeros_(method.tiles_head[0].weight)
    c, d = (method.encode({**views, "shuffle": u}, step()) for u in (views["shuffle"], 1 - views["shuffle"]))
    assert torch.equal(c["tiles"], d["tiles"])


@pytest.mark.parametrize("name", ["pirl", "instdisc"])
def test_the_bank_moves_after_the_loss_at_the_pictures_of_the_step_only(name):
    run, data = tiny(name)
    made = make(run, data)
    method = made[0]
    before = method.bank.rows.clone()
    losses(run, made, 0, 1)
    seen = order(run.seed, 0, len(made[2]))[:64]
    moved = (method.bank.rows != before).any(1)
    assert set(moved.nonzero()[:, 0].tolist()) == set(seen.tolist())
    torch.testing.assert_close(method.bank.rows.norm(dim=1), torch.ones(len(before)))


@pytest.mark.parametrize("name", ["pirl", "instdisc"])
def test_nce_fixes_its_normaliser_at_the_first_step(name):
    (method, _, _), views, rows = whole_step(name, loss="nce", negatives=100)
    out = method(views, rows, step(0))
    own, rest, _ = method.bank.asked(rows, 100, step(0))
    e = [z[0] for z in method.encode(views, step(0)).values()]
    scores = torch.cat([noise_logits(z, own, rest, method.config.temperature) for z in e]).exp()
    torch.testing.assert_close(out.carry["normaliser"], scores.detach().mean()[None])
    method.after_step(step(0), out.carry)
    torch.testing.assert_close(method.bank.normaliser, scores.detach().mean())
    later = method(views, rows, step(1))
    assert torch.equal(later.carry["normaliser"][0], method.bank.normaliser)
    method.after_step(step(1), {**later.carry, "normaliser": torch.ones(2)})
    torch.testing.assert_close(method.bank.normaliser, scores.detach().mean())
    assert method.constant_loss(64) is None


def test_constant_outputs_have_the_loss_that_health_knows():
    for name in ("pirl", "instdisc"):
        (method, _, _), views, rows = whole_step(name, negatives=10_000)
        method.bank.rows.copy_(torch.eye(32)[:1].expand_as(method.bank.rows))
        found = float(method(views, rows, step(1)).loss)
        assert found == pytest.approx(method.constant_loss(64), rel=1e-9)


@pytest.mark.parametrize("config", [PIRLConfig, InstDiscConfig])
def test_settings_that_make_no_sense_are_refused(config):
    with pytest.raises(WrongUse, match=r"method.temperature is 0, must be above 0"):
        config(temperature=0)
    with pytest.raises(WrongUse, match=r"method.momentum is 2, must be from 0 to 1"):
        config(momentum=2)
