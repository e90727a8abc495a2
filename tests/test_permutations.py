"""Sets of permutations: distances by brute force, balance, groups, reproducibility, time."""

import time
from itertools import combinations

import pytest
import torch

from selfsight.augment.permutations import distances
from selfsight.augment.tiles import permutations
from selfsight.errors import WrongUse


def brute(table):
    """Smallest and mean Hamming distance, pair by pair."""
    found = [sum(x != y for x, y in zip(a, b)) for a, b in combinations(table.tolist(), 2)]
    return min(found), sum(found) / len(found)


def valid(table):
    rows = [tuple(row) for row in table.tolist()]
    return len(set(rows)) == len(rows) and all(sorted(row) == list(range(table.shape[1])) for row in rows)


@pytest.mark.parametrize(
    "tiles,count,least",
    [(9, 9, 9), (9, 72, 8), (9, 100, 7), (9, 200, 7), (9, 500, 7), (9, 504, 7), (9, 1512, 6), (4, 12, 3), (4, 24, 2),
     (16, 240, 15), (16, 960, 12)],
)  # fmt: skip
def test_algebraic_sets_have_their_distance(tiles, count, least):
    began = time.perf_counter()
    table = permutations(tiles, count)
    assert time.perf_counter() - began < 5  # under 1 s on a quiet core
    assert table.shape == (count, tiles)
    assert table.dtype == torch.int64
    assert valid(table)
    assert distances(table)[0] == least


def test_distances_are_those_of_all_pairs():
    table = permutations(9, 100)
    least, mean = brute(table)
    found = distances(table)
    assert found[0] == least == 7
    assert found[1] == pytest.approx(mean)


@pytest.mark.parametrize("count", [72, 99, 504, 1512])
def test_sets_of_whole_cosets_are_balanced(count):
    """Every tile in every place equally often, hence the mean distance 9 - (P - 9) / (P - 1)."""
    table = permutations(9, count)
    for place in table.T:
        assert (place.bincount() == count // 9).all()
    assert all(sorted(column.tolist()) == list(range(9)) for run in table.split(9) for column in run.T)
    assert distances(table)[1] == pytest.approx(9 - (count - 9) / (count - 1))


@pytest.mark.parametrize("count", [72, 504, 1512])
def test_sets_are_groups(count):
    table = permutations(9, count)
    rows = {tuple(row) for row in table.tolist()}
    for a in table[:: count // 9]:
        assert {tuple(row) for row in a[table].tolist()} == rows  # composed with one of them: the same set


@pytest.mark.parametrize("count,least", [(10, 8), (64, 7), (100, 6)])
def test_greedy_min_keeps_permutations_far_apart(count, least):
    table = permutations(9, count, "greedy-min")
    assert valid(table)
    assert brute(table)[0] == least


def test_the_published_choice_has_a_large_mean_and_a_small_minimum():
    least, mean = distances(permutations(9, 100, "greedy-mean"))
    assert least == 2
    assert mean == pytest.approx(8.08, abs=0.005)


def slow_greedy(candidates, count):
    """Algorithm 1 with the minimum first, in loops."""
    chosen = [candidates[0]]
    while len(chosen) < count:
        keys = []
        for c in candidates:
            gaps = [sum(x != y for x, y in zip(c, d)) for d in chosen]
            keys.append((min(gaps), sum(gaps)) if min(gaps) else (0, 0))
        chosen.append(candidates[max(range(len(candidates)), key=lambda i: (keys[i], -i))])
    return chosen


def test_greedy_equals_loops():
    from selfsight.augment.permutations import _every

    every = _every(5)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(3))
    assert permutations(5, 12, "greedy-min", seed=3).tolist() == slow_greedy(every[order].tolist(), 12)


@pytest.mark.parametrize("kind", ["greedy-min", "greedy-mean"])
def test_greedy_sets_follow_their_seed_and_never_repeat(kind):
    a, b, c = (permutations(4, 24, kind, seed=s) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert valid(a)
    assert valid(permutations(6, 720, kind))


def test_a_thousand_of_all_permutations_of_nine():
    began = time.perf_counter()
    table = permutations(9, 1000, "greedy-min")
    assert time.perf_counter() - began < 60  # 3 s on a quiet core, 20 are promised
    assert distances(table)[0] == 5
    assert distances(table)[1] == pytest.approx(8.008, abs=0.001)


def test_larger_grids_choose_among_samples():
    table = permutations(16, 30, "greedy-min")
    assert valid(table)
    assert distances(table)[0] >= 13


@pytest.mark.parametrize(
    "arguments,words",
    [((9, 1513), "1512 algebraic permutations, not 1513"), ((25, 100), "only of 4, 9 or 16"), ((9, 1), "no puzzle"),
     ((4, 25, "greedy-min"), "24 permutations to choose from")],
)  # fmt: skip
def test_sets_that_do_not_exist_are_refused(arguments, words):
    with pytest.raises(WrongUse, match=words):
        permutations(*arguments)
