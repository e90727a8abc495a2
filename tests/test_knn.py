"""k-NN against slow loops and scikit-learn; ties, bounds, chunks."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from selfsight.errors import WrongUse
from selfsight.evaluate.knn import BLOCK, STANDARD, Setting, knn, knn_accuracy, knn_table, neighbours, rank_of


def toy(bank=300, queries=40, dim=7, classes=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=g)
    labels = torch.randint(classes, (bank,), generator=g)
    asked = torch.randint(classes, (queries,), generator=g)
    return (
        centres[labels] + torch.randn(bank, dim, generator=g),
        labels,
        centres[asked] + torch.randn(queries, dim, generator=g),
        asked,
    )


def slow_neighbours(bank, query, k):
    """Loops in float64: cosine, then the lower row first."""
    rows = []
    for q in query.double().tolist():
        scored = []
        for i, b in enumerate(bank.double().tolist()):
            dot = sum(x * y for x, y in zip(q, b))
            scored.append((-dot / math.sqrt(sum(x * x for x in q) * sum(x * x for x in b)), i))
        rows.append([(-c, i) for c, i in sorted(scored)[:k]])
    return rows


@pytest.mark.parametrize("k", [1, 5, 60])
def test_votes_equal_slow_loops(k):
    bank, labels, query, _ = toy()
    votes = knn(bank, labels, query, k=k, temperature=0.1, classes=6)
    for row, near in zip(votes, slow_neighbours(bank, query, k)):
        wanted = [0.0] * 6
        for cosine, i in near:
            wanted[int(labels[i])] += math.exp(cosine / 0.1)
        total = sum(wanted)
        assert row.tolist() == pytest.approx([w / total for w in wanted], abs=1e-5)
    assert votes.shape == (40, 6)
    assert votes[:, 5].sum() == 0


def test_majority_equals_scikit_learn():
    bank, labels, query, _ = toy(bank=2000, queries=300, seed=1)
    for k in (1, 4, 20):  # even k: votes tie, both take the lower class
        model = KNeighborsClassifier(k, metric="cosine").fit(bank.numpy(), labels.numpy())
        mine = knn(bank, labels, query, k=k, weighting="majority").argmax(1)
        assert np.array_equal(mine.numpy(), model.predict(query.numpy()))


def test_one_pass_serves_every_setting():
    bank, labels, query, asked = toy(bank=900, queries=100)
    table = knn_table(bank, labels, query, asked)
    assert [(t["k"], t["weighting"]) for t in table] == [(s.k, s.weighting) for s in STANDARD]
    for setting, found in zip(STANDARD, table):
        assert found == knn_accuracy(bank, labels, query, asked, *setting)
        votes = knn(bank, labels, query, *setting)
        assert found["top1"] == pytest.approx((votes.argmax(1) == asked).double().mean().item())


@pytest.mark.parametrize("count", [50, BLOCK * 40 + 3])  # whole rows, and block by block
def test_equal_cosines_take_the_lower_rows_in_any_chunks(count):
    g = torch.Generator().manual_seed(0)
    bank = torch.randint(-1, 2, (count, 3), generator=g).float()  # at most 27 directions: ties everywhere
    query = torch.randint(-1, 2, (30, 3), generator=g).float()
    exact = torch.nn.functional.normalize(query) @ torch.nn.functional.normalize(bank).T
    wanted = exact.sort(dim=1, descending=True, stable=True).indices
    for chunk in (0, 7, 30):
        values, rows = neighbours(bank, query, 9, chunk)
        assert torch.equal(values, exact.gather(1, rows))
        assert torch.equal(rows, wanted[:, :9])


def test_blocks_find_what_a_whole_sort_finds():
    bank, _, query, _ = toy(bank=5000, queries=50, dim=16)
    values, rows = neighbours(bank, query, 20)
    exact = torch.nn.functional.normalize(query) @ torch.nn.functional.normalize(bank).T
    torch.testing.assert_close(values, exact.topk(20).values)
    torch.testing.assert_close(exact.gather(1, rows), exact.topk(20).values)
    assert all(len(set(row)) == 20 for row in rows.tolist())


def test_k_above_the_bank_takes_all_of_it():
    bank, labels, query, asked = toy(bank=12)
    found = knn_accuracy(bank, labels, query, asked, k=200)
    assert found["k"] == 12
    assert found["top1"] == knn_accuracy(bank, labels, query, asked, k=12)["top1"]


def test_tiny_temperatures_and_broken_rows_do_not_overflow():
    bank, labels, query, asked = toy()
    query[0, 0], bank[3, 1] = float("nan"), float("inf")
    votes = knn(bank, labels, query, temperature=1e-4)
    assert torch.isfinite(votes).all()
    torch.testing.assert_close(votes.sum(1), torch.ones(40, dtype=torch.float64))
    assert 0 <= knn_accuracy(bank, labels, query, asked)["top1"] <= 1


def test_places():
    scores = torch.tensor([[0.2, 0.5, 0.2, 0.1], [0.0, 1.0, 0.0, 0.0]])
    assert rank_of(scores, torch.tensor([0, 0])).tolist() == [1, 1]
    assert rank_of(scores, torch.tensor([2, 3])).tolist() == [2, 3]  # of equals the lower class wins
    assert rank_of(scores, torch.tensor([0, 0]), needs_vote=True).tolist()[1] >= 5  # no vote is no place


def test_top5_counts_the_five_most_voted():
    bank = torch.eye(8)
    labels = torch.arange(8)
    query = torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1]])
    hits = [knn_accuracy(bank, labels, query, torch.tensor([c]), k=8)["top5"] for c in range(8)]
    assert hits == [1, 1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 0}, "above 0"),
        ({"temperature": 0.0}, "above 0"),
        ({"weighting": "loud"}, "weighting"),
        ({"classes": 3}, "classes = 3"),
    ],
)
def test_mistakes_are_refused(change, words):
    bank, labels, query, asked = toy()
    with pytest.raises(WrongUse, match=words):
        knn_accuracy(bank, labels, query, asked, **change)
    with pytest.raises(WrongUse, match="negative"):
        knn(bank, labels - 1, query)
    with pytest.raises(WrongUse, match="one encoder"):
        knn(bank, labels, query[:, :3])
    assert Setting() == (20, 0.07, "weighted")
