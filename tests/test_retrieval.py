"""Retrieval and purity against slow loops and scikit-learn; ties, chunks, classes of one row."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from selfsight.errors import WrongUse
from selfsight.evaluate import PROTOCOLS, WITHIN, purity, retrieval


def toy(count=60, dim=5, classes=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=g)
    return torch.randn(classes, dim, generator=g)[labels] + torch.randn(count, dim, generator=g), labels


def ranked(x, labels, cosine=True):
    """Row by row: whether each other row, most similar first and of equals the lower first, is of the same class."""
    rows = x.double().numpy()
    if cosine:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-300)
    table = []
    for i in range(len(rows)):
        others = sorted((j for j in range(len(rows)) if j != i), key=lambda j: (-round(float(rows[i] @ rows[j]), 6), j))
        table.append([int(labels[j] == labels[i]) for j in others])
    return table


def slow(x, labels, ks):
    """Mean AP, MAP@R, R-precision and recalls, by loops."""
    sums = np.zeros(3 + len(ks))
    asked = [same for same in ranked(x, labels) if sum(same)]
    for same in asked:
        wanted, hits = sum(same), 0
        for place, hit in enumerate(same, 1):
            hits += hit
            if hit:
                sums[0] += hits / place / wanted
                if place <= wanted:
                    sums[1] += hits / place / wanted
                    sums[2] += 1 / wanted
        for i, k in enumerate(ks, 3):
            sums[i] += any(same[:k])
    return sums / len(asked)


@pytest.mark.parametrize("chunk", [0, 7])
def test_retrieval_equals_slow_loops(chunk):
    x, labels = toy()
    labels[5] = 9  # alone in its class
    found = retrieval(x, labels, ks=(1, 3, 10, 1000), chunk=chunk)
    wanted = slow(x, labels, (1, 3, 10))
    assert [found["map"], found["map_at_r"], found["r_precision"]] == pytest.approx(wanted[:3], abs=1e-9)
    assert list(found["recall"]) == ["1", "3", "10"]
    assert list(found["recall"].values()) == pytest.approx(wanted[3:], abs=1e-9)
    assert (found["queries"], found["alone"], found["rows"]) == (59, 1, 60)


def test_average_precision_equals_scikit_learn():
    x, labels = toy(count=80, seed=1)
    unit = torch.nn.functional.normalize(x)
    cosines = (unit @ unit.T).numpy()
    others = ~np.eye(80, dtype=bool)
    same = (labels[:, None] == labels).numpy()
    each = [average_precision_score(same[i][others[i]], cosines[i][others[i]]) for i in range(80)]
    assert retrieval(x, labels)["map"] == pytest.approx(np.mean(each), abs=1e-6)


def test_equal_rows_are_found_in_their_order():
    """Rows are all equal: each finds the others in the order of their rows, and never itself."""
    labels = torch.tensor([0, 1, 1, 0])
    found = retrieval(torch.ones(4, 3), labels, ks=(1, 2))
    # row 0 sees 1 1 0, row 1 sees 0 1 0, row 2 sees 0 1 0, row 3 sees 0 1 1
    assert found["map"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2 + 1) / 4)
    assert found["recall"] == {"1": 0.25, "2": 0.75}
    axes = torch.cat([torch.eye(2), -torch.eye(2), torch.zeros(1, 2)])  # cosines -1, 0, 1 and nothing else
    few = axes[torch.randint(5, (40,), generator=torch.Generator().manual_seed(0))]
    kinds = torch.arange(40) % 3
    assert retrieval(few, kinds, ks=(1, 5))["map"] == pytest.approx(slow(few, kinds, (1, 5))[0], abs=1e-9)


def test_labels_are_names_only_and_new_classes_do():
    x, labels = toy()
    assert retrieval(x, labels) == retrieval(x * 3, labels * 50 + 7)
    for name in WITHIN:  # what belongs to train is not looked at
        given = PROTOCOLS[name](None, None, x, labels, None, seed=2)
        assert given == PROTOCOLS[name](x[:3], labels[:3], x, labels, 9, seed=2)


@pytest.mark.parametrize("k", [1, 20, 500])
def test_purity_equals_slow_loops(k):
    x, labels = toy(seed=2)
    found = purity(x, labels, k=k, chunk=13)
    kept = min(k, 59)
    for name, cosine in (("purity", False), ("purity_cosine", True)):
        shares = [sum(same[:kept]) / kept for same in ranked(x, labels, cosine)]
        assert found[name] == pytest.approx(np.mean(shares), abs=1e-9)
    assert found["k"] == kept
    assert "not an accuracy" in found["note"]


def test_purity_lies_below_a_vote():
    x, labels = toy(count=400, dim=4, seed=3)
    vote = PROTOCOLS["knn"](x, labels, x, labels, None)
    assert purity(x, labels)["purity_cosine"] < vote["top1"] - 0.05


def test_broken_rows_count_as_zero_and_mistakes_are_refused():
    x, labels = toy()
    broken, zero = x.clone(), x.clone()
    broken[3, 1], zero[3] = float("nan"), 0.0
    assert retrieval(broken, labels) == retrieval(zero, labels)
    assert purity(broken, labels) == purity(zero, labels)
    with pytest.raises(WrongUse, match="no class has two"):
        retrieval(x, torch.arange(60))
    with pytest.raises(WrongUse, match="at least 2"):
        retrieval(x[:1], labels[:1])
    with pytest.raises(WrongUse, match="at least 1"):
        purity(x, labels, k=0)
    with pytest.raises(WrongUse, match="with labels"):
        purity(x, labels[:5])
