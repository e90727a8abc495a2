"""Monitors against slow formulas, verdicts on made-up runs of every kind."""

import math

import pytest
import torch

from selfsight.health import STATUSES, Limits, assignments, monitors, verdict


def gauss(n=600, d=64, rank=None, mean=0.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, rank or d, generator=g)
    return (x if rank is None else x @ torch.randn(rank, d, generator=g)) + mean


def numbers(features, embeddings=None):
    return {k: float(v) for k, v in monitors(features, features if embeddings is None else embeddings).items()}


def falling(count=60, start=6.0, end=4.0, every=10, noise=0.02):
    g = torch.Generator().manual_seed(0)
    wobble = (noise * torch.randn(count, generator=g)).tolist()
    return [(every * (i + 1), end + (start - end) * math.exp(-4 * i / count) + w) for i, w in enumerate(wobble)]


def test_monitors_equal_slow_formulas():
    x, z = gauss(40, 12, mean=0.4), gauss(40, 70, seed=1)
    found = numbers(x, z)
    for prefix, rows in (("features_", x.double()), ("", z.double())):
        unit = [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in rows.tolist()]
        n, d = len(unit), len(unit[0])
        stds = []
        for j in range(d):
            column = [row[j] for row in unit]
            m = sum(column) / n
            stds.append(math.sqrt(sum((v - m) ** 2 for v in column) / n))
        cosines = [sum(a * b for a, b in zip(unit[i], unit[j])) for i in range(n) for j in range(n) if i != j]
        values = torch.linalg.svdvals(rows - rows.mean(0)).tolist()
        share = [v / sum(values) for v in values]
        rank = math.exp(-sum(p * math.log(p) for p in share if p > 1e-9))
        assert found[prefix + "std"] == pytest.approx(sum(stds) / d * math.sqrt(d))
        assert found[prefix + "cosine"] == pytest.approx(sum(cosines) / len(cosines))
        assert found[prefix + "rank"] == pytest.approx(rank, rel=1e-4)
        assert found[prefix + "dim"] == min(n - 1, d)
    assert found["finite"] == 1


def test_monitors_at_the_extremes():
    even, flat, line = numbers(gauss(2000, 16)), numbers(torch.full((50, 16), 3.0)), numbers(gauss(500, 64, rank=3))
    assert even["std"] == pytest.approx(1, abs=0.03)
    assert 15.5 < even["rank"] <= 16
    assert abs(even["cosine"]) < 0.01
    assert flat["std"] < 1e-6
    assert flat["rank"] == pytest.approx(1)
    assert flat["cosine"] == pytest.approx(1)
    assert 2 < line["rank"] <= 3.01
    broken = gauss(50, 8)
    broken[7, 2] = math.nan
    assert numbers(broken)["finite"] == pytest.approx(0.98)
    assert math.isfinite(numbers(broken)["rank"])


def test_a_loop_that_waits_for_pictures_is_data_starved():
    healthy = numbers(gauss(mean=1.0), gauss(seed=1))
    found = verdict(healthy, falling(), progress=1.0, waiting=0.6)
    assert (found.status, found.bad) == ("data-starved", True)
    assert "60%" in found.why
    assert "--workers" in found.remedy
    assert verdict(healthy, falling(), progress=1.0, waiting=0.4).status == "healthy"
    # what is wrong with the learning comes first
    assert verdict(healthy, [*falling(), (610, math.nan)], progress=1.0, waiting=0.6).status == "diverging"


def test_directions_that_training_took_away_are_a_collapse():
    start, few, some = (numbers(gauss(rank=rank, seed=1), gauss(seed=2)) for rank in (14, 4, 7))
    found = verdict(few, falling(), progress=0.5, history=[start])
    assert found.status == "dimensional collapse"
    assert "before training" in found.why
    assert verdict(some, falling(), progress=0.5, history=[start]).status == "healthy"
    assert verdict(few, falling(), progress=0.5, history=[few]).status == "healthy"  # it began like this
    wide = numbers(gauss(rank=60, seed=1), gauss(seed=2))
    many = numbers(gauss(rank=12, seed=1), gauss(seed=2))  # as classes do, which is no collapse
    assert verdict(many, falling(), progress=0.5, history=[wide]).status == "healthy"


def test_healthy_runs_are_called_healthy():
    healthy = numbers(gauss(mean=1.0), gauss(seed=1))  # features with a large mean, as after a ReLU
    for constant in (None, math.log(511), 0.0, -1.0):
        assert verdict(healthy, falling(), progress=1.0, constant_loss=constant).status == "healthy"
    # BYOL and SimSiam come down to their minimum: that is learning while the spread is there
    down = falling(start=3.0, end=0.001, noise=1e-5)
    assert verdict(healthy, down, progress=1.0, constant_loss=0.0).status == "healthy"
    # a queue fills: the loss first rises
    rising = [(10 * i, min(9.0, 0.03 + 1.5 * i) - 0.01 * i) for i in range(60)]
    assert verdict(healthy, rising, progress=0.3).status == "healthy"
    # one bad batch at the end
    assert verdict(healthy, [*falling()[:-1], (600, 40.0)], progress=1.0).status == "healthy"
    assert verdict(healthy, [], progress=1.0).status == "healthy"
    assert verdict({}, falling(), progress=1.0).status == "healthy"
    assert verdict(healthy, falling(), progress=1.0).remedy == ""


def test_nothing_is_judged_too_early_but_nonsense():
    flat = numbers(torch.ones(50, 16))
    early = verdict(flat, falling(8), progress=0.01)
    assert early.status == "too early to tell"
    assert not early.bad
    assert verdict(flat, [(5, 6.0)], progress=0.1).status == "too early to tell"
    assert verdict(flat, [], progress=0.0).status == "too early to tell"
    # 100 steps of 1000, 5 % of a long run
    assert verdict(flat, [(99, 6.0)], progress=0.099).status == "too early to tell"
    assert verdict(flat, [(101, 6.0)], progress=0.101).status == "collapsed"
    assert verdict(flat, [(4900, 6.0)], progress=0.049).status == "too early to tell"
    assert verdict(flat, [(5100, 6.0)], progress=0.051).status == "collapsed"
    assert verdict({}, [(5, math.nan)], progress=0.01).status == "diverging"
    assert verdict({**flat, "finite": 0.5}, [(5, 1.0)], progress=0.01).status == "diverging"
    # a run of 20 steps is judged in its second half
    assert verdict(flat, [(20, 6.0)], progress=1.0).status == "collapsed"


@pytest.mark.parametrize("which", ["head", "encoder", "both"])
def test_collapse_is_seen(which):
    good, flat = gauss(), torch.ones(600, 64) + 1e-3 * gauss(seed=2)
    now = numbers(good if which == "head" else flat, good if which == "encoder" else flat)
    found = verdict(now, falling(), progress=0.5)
    assert found.status == "collapsed"
    assert found.bad
    assert ("head" in found.why) == (which != "encoder")
    assert "learning rate" in found.remedy
    # still collapsed, but recovering by half since the last look
    before = {name: value / 1.5 if name.endswith("std") else value for name, value in now.items()}
    assert verdict(now, falling(), progress=0.5, history=[before]).status == "healthy"
    assert verdict(now, falling(), progress=0.5, history=[now]).status == "collapsed"
    # a bounce of what was high once is no growth
    high = {**before, "std": 0.6, "features_std": 0.6}
    assert verdict(now, falling(), progress=0.5, history=[high, before]).status == "collapsed"


def test_dimensional_collapse_is_seen():
    low = numbers(gauss(2000, 256, rank=3), gauss(seed=1))
    assert verdict(low, falling(), progress=0.5).status == "dimensional collapse"
    assert "3.0 directions of 256" in verdict(low, falling(), progress=0.5).why
    fine = numbers(gauss(2000, 256, rank=30), gauss(seed=1))
    assert verdict(fine, falling(), progress=0.5).status == "healthy"
    assert verdict(low, falling(), progress=0.5, limits=Limits(rank_least=1, rank_most=1)).status == "healthy"
    narrow = numbers(gauss(), gauss(rank=1))
    assert "head" in verdict(narrow, falling(), progress=0.5).why


def test_the_spread_of_features_alone_is_judged_more_leniently():
    now = numbers(gauss(mean=12.0))
    assert 0.05 < now["std"] < 0.1
    assert verdict(now, falling(), progress=0.5).status == "healthy"
    assert verdict({**now, "features_std": 0.5}, falling(), progress=0.5).status == "collapsed"


def test_loss_of_constant_outputs_is_seen():
    constant = math.log(2 * 256 - 1)
    g = torch.Generator().manual_seed(0)
    stuck = [(10 * i, constant + 0.004 * float(torch.randn((), generator=g))) for i in range(1, 60)]
    healthy = numbers(gauss())
    found = verdict(healthy, stuck, progress=0.5, constant_loss=constant)
    assert found.status == "at the loss of constant outputs"
    assert "6.236" in found.why
    # SimSiam at -1 with outputs that hardly vary
    now = {**healthy, "std": 0.2}
    down = falling(start=-0.1, end=-1.0, noise=1e-4)
    down = [(s, max(-1.0, x - 0.02)) for s, x in down]
    assert verdict(now, down, progress=1.0, constant_loss=-1.0).status == "at the loss of constant outputs"
    assert verdict(now, falling(), progress=1.0, constant_loss=-1.0).status == "healthy"


def test_codes_of_assignments_are_read():
    healthy = numbers(gauss())
    for logs, status in (
        ({"mean_code_entropy": 0.98, "code_entropy": 0.3}, "healthy"),
        ({"mean_code_entropy": 0.01, "code_entropy": 0.01}, "collapsed"),
        ({"mean_code_entropy": 1.0, "code_entropy": 1.0}, "at the loss of constant outputs"),
    ):
        assert verdict(healthy, falling(), progress=1.0, logs=logs).status == status


def test_divergence_is_seen():
    healthy = numbers(gauss())
    up = [*falling(40), *((400 + 10 * i, 4.0 * 1.3**i) for i in range(20))]
    found = verdict(healthy, up, progress=0.8)
    assert found.status == "diverging"
    assert "former range" in found.why
    assert verdict(healthy, [*falling(), (610, math.inf)], progress=0.8).status == "diverging"


def test_a_network_that_does_not_move_is_seen():
    start = numbers(gauss())
    g = torch.Generator().manual_seed(0)
    flat = [(10 * i, 5.0 + 0.02 * float(torch.randn((), generator=g))) for i in range(1, 60)]
    assert verdict(start, flat, progress=0.9, history=[start]).status == "not learning"
    moved = numbers(gauss(mean=0.3, seed=1))
    assert verdict(moved, flat, progress=0.9, history=[start]).status == "healthy"  # the loss says little
    assert verdict(start, falling(), progress=0.9, history=[start]).status == "healthy"
    assert verdict(start, flat, progress=0.2, history=[start]).status == "healthy"


def test_every_status_is_known():
    assert set(STATUSES) >= {"healthy", "collapsed", "dimensional collapse", "diverging", "not learning"}


def test_codes_that_hardly_any_picture_uses_are_a_collapse():
    now, history = numbers(gauss(600, 64, mean=0.3)), [numbers(gauss(600, 64, mean=0.5))]
    spread = {"mean_code_entropy": 1.0, "code_entropy": 0.956}  # two points after Sinkhorn: the entropies see nothing
    seen = verdict(now, falling(), progress=0.9, history=history, logs={**spread, "used": 2 / 256})
    assert seen.status == "collapsed"
    assert "0.8% of the codes" in seen.why
    fine = verdict(now, falling(), progress=0.9, history=history, logs={**spread, "used": 0.4, "agreement": 0.25})
    assert fine.status == "healthy"
    assert "40% of the codes in use, winners agree on 25%" in fine.why


def test_used_codes_are_counted_against_those_that_could_be():
    codes = torch.eye(100, dtype=torch.float64)[torch.tensor([3, 3, 7, 9])]  # 3 winners, 4 rows could have had 4
    assert float(assignments(codes)["used"]) == pytest.approx(3 / 4)
    assert float(assignments(codes.T)["used"]) <= 1
