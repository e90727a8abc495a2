"""Ridge against explicit leave-one-out loops, logistic regression against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from selfsight.errors import WrongUse
from selfsight.evaluate import PROTOCOLS, logistic, ridge, sgd
from selfsight.rng import Stream, generator


def toy(count=200, test=400, dim=6, classes=3, noise=1.0, seed=0):
    """Gaussian classes; noise 0.3 separable, 1 and more not."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=g)
    labels = torch.arange(count + test) % classes
    x = (centres[labels] + noise * torch.randn(count + test, dim, generator=g)) * 10 ** torch.randn(
        dim, generator=g
    ) + 3
    return x[:count], labels[:count], x[count:], labels[count:]


def standard(train, test):
    mean, scale = train.double().mean(0), train.double().std(0, correction=0)
    return ((train.double() - mean) / scale).numpy(), ((test.double() - mean) / scale).numpy()


@pytest.mark.parametrize("dim", [6, 70])  # both ways to the Gram matrix
def test_ridge_chooses_by_what_explicit_leave_one_out_finds(dim):
    train, labels, test, test_labels = toy(count=40, dim=dim, classes=3, noise=1.5)
    x, z = standard(train, test)
    y = np.eye(3)[labels.numpy()]
    strengths, table = (1e-3, 0.1, 10.0), []
    for strength in strengths:
        left_out = []
        for i in range(40):
            rest = [j for j in range(40) if j != i]
            model = Ridge(alpha=40 * strength, solver="svd").fit(x[rest], y[rest])
            left_out.append(model.predict(x[i : i + 1])[0])
        error = ((np.array(left_out) - y) ** 2).sum(1).mean()
        right = (np.array(left_out).argmax(1) == labels.numpy()).mean()
        table.append((right, error))
        alone = ridge(train, labels, test, test_labels, strengths=(strength,))
        assert alone["validation_error"] == pytest.approx(error, rel=1e-6)
        assert alone["validation_top1"] == pytest.approx(right)
        full = Ridge(alpha=40 * strength, solver="svd").fit(x, y)
        assert alone["top1"] == pytest.approx((full.predict(z).argmax(1) == test_labels.numpy()).mean())
    best = max(range(3), key=lambda i: (table[i][0], -table[i][1]))
    assert ridge(train, labels, test, test_labels, strengths=strengths)["strength"] == strengths[best]


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("strength", [1e-1, 1e-3])
def test_logistic_equals_scikit_learn_at_one_strength(classes, strength):
    train, labels, test, test_labels = toy(count=300, dim=8, classes=classes, noise=1.2, seed=1)
    x, z = standard(train, test)
    # scikit-learn writes two classes with one weight vector w, ours with w/2 and -w/2: half the penalty
    c = 1 / (300 * strength) * (2 if classes == 2 else 1)
    model = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(x, labels.numpy())
    found = logistic(train, labels, test, test_labels, strength=strength)
    assert found["top1"] == pytest.approx(model.score(z, test_labels.numpy()), abs=0.003)
    assert found["train_top1"] == pytest.approx(model.score(x, labels.numpy()), abs=0.004)
    assert found["strength"] == strength
    assert found["validation_loss"] is None


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("protocol", ["linear", "ridge"])
def test_within_a_point_of_a_reference(noise, protocol):
    train, labels, test, test_labels = toy(count=1500, test=4000, dim=16, classes=4, noise=noise, seed=2)
    x, z = standard(train, test)
    reference = LogisticRegression(max_iter=2000).fit(x, labels.numpy()).score(z, test_labels.numpy())
    found = PROTOCOLS[protocol](train, labels, test, test_labels, None)
    assert abs(found["top1"] - reference) < 0.01
    assert reference > 0.25
    assert found["top1"] <= found["top5"] == 1.0


def test_the_test_part_chooses_nothing():
    train, labels, test, test_labels = toy(count=120, dim=30, noise=2.0)
    for protocol in (ridge, logistic):
        a = protocol(train, labels, test, test_labels)
        b = protocol(train, labels, test.flip(0) * 5, (test_labels + 1) % 3)
        assert (a["strength"], a["validation_top1"], a["train_top1"]) == (
            b["strength"],
            b["validation_top1"],
            b["train_top1"],
        )
        assert a == protocol(train, labels, test, test_labels)  # and nothing is drawn anew


@pytest.mark.parametrize("protocol", ["knn", "linear", "parzen", "ridge", "sgd", "svm"])
def test_any_number_of_classes_and_awkward_features(protocol):
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(160) % 40
    x = torch.nn.functional.one_hot(labels, 40).float() + 0.1 * torch.randn(160, 40, generator=g)
    x = torch.cat([x, torch.full((160, 1), 5.0), x[:, :1]], 1)  # a constant and a copy
    found = PROTOCOLS[protocol](x[:120], labels[:120], x[120:], labels[120:], 40)
    assert found["top1"] > 0.9 or protocol == "sgd"
    assert found["top1"] <= found["top5"] <= 1
    two = PROTOCOLS[protocol](x[:120], labels[:120] % 2, x[120:], labels[120:] % 2, 2)
    assert two["top5"] == 1.0
    assert isinstance(two["protocol"], str)


def test_few_rows_and_one_class_absent():
    x, labels = torch.randn(4, 20, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0, 1])
    for protocol in (ridge, logistic):
        assert protocol(x, labels, x, labels, classes=5)["top1"] == 1.0
        assert protocol(x[:1], labels[:1], x, labels, classes=2)["top1"] == 0.5


def test_sgd_trains_and_keeps_its_validation_part_out():
    train, labels, test, test_labels = toy(count=400, dim=6, noise=0.3)
    train, test = [torch.from_numpy(a).float() for a in standard(train, test)]
    found = sgd(train, labels, test, test_labels, batch_size=64, epochs=30, validation=0.25)
    assert min(found["top1"], found["validation_top1"], found["train_top1"]) > 0.95
    before = torch.random.get_rng_state()
    assert found == sgd(train, labels, test, test_labels, batch_size=64, epochs=30, validation=0.25)
    assert torch.equal(before, torch.random.get_rng_state())
    none = sgd(train, labels, test, test_labels, batch_size=64, epochs=30)
    assert none["validation_top1"] is None
    # 64 rows a step: rate 0.1 * 64 / 256
    assert "rate 0.025" in none["protocol"]


def plain_loop(name, train, labels, classes, epochs, batch, seed):
    """The published protocols by hand, in the order that ours draws: weights and bias of the dense layer."""
    g = generator(seed, Stream.INIT)
    bound = train.shape[1] ** -0.5
    weight = (torch.rand(classes, train.shape[1], generator=g) * 2 - 1) * bound
    bias = (torch.rand(classes, generator=g) * 2 - 1) * bound
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    solver: torch.optim.Optimizer = torch.optim.Adam([weight, bias], lr=5e-2)
    if name != "linear-seed004":
        solver = torch.optim.SGD([weight, bias], lr=0.1, momentum=0.9, weight_decay=1e-6)
    done, total = 0, epochs * math.ceil(len(train) / batch)
    for epoch in range(epochs):
        rows = torch.randperm(len(train), generator=generator(seed, Stream.PROBE, epoch))
        for start in range(0, len(train), batch):
            some = rows[start : start + batch]
            if name == "linear-seed004":  # at each step
                rate = (5e-2 - 5e-4) * (1 - done / total) ** 2 + 5e-4
            else:  # at each epoch
                rate = 0.1 * batch / 256 * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
            solver.param_groups[0]["lr"] = rate
            loss = torch.nn.functional.cross_entropy(train[some] @ weight.T + bias, labels[some])
            solver.zero_grad()
            loss.backward()
            solver.step()
            done += 1
    return weight.detach(), bias.detach()


@pytest.mark.parametrize("name,batch", [("linear-seed004", 128), ("linear-seed001", 256), ("linear-seed002", 450)])
def test_protocols_of_the_projects_equal_plain_loops(name, batch):
    train, labels, test, test_labels = toy(count=500, dim=6, noise=1.2)
    train, test = [torch.from_numpy(a).float() for a in standard(train, test)]
    preset = PROTOCOLS[name]
    found = preset(train, labels, test, test_labels, None, seed=4, **({"epochs": 7} if batch != 450 else {}))
    assert (found["validation_top1"] is not None) == (name == "linear-seed002")
    if name == "linear-seed002":  # 0.1 * 4096 / 256 on a whole batch; here there are 450 rows
        assert "90 epochs, batch 450, rate 0.175781 cosine to 0 per epoch, weight decay 0" in found["protocol"]
        same = sgd(train, labels, test, test_labels, validation=0.1, seed=4)
        assert found == same
        return
    weight, bias = plain_loop(name, train, labels, 3, 7, batch, 4)
    assert found["top1"] == float(((test @ weight.T + bias).argmax(1) == test_labels).double().mean())
    assert found["train_top1"] == float(((train @ weight.T + bias).argmax(1) == labels).double().mean())
    whole = preset(train, labels, test, test_labels, None, seed=4)["protocol"]
    wanted = {
        "linear-seed004": "Adam, 50 epochs, batch 128, rate 0.05 polynomial (2) to 0.0005 per step, weight decay 0",
        "linear-seed001": "SGD, momentum 0.9, 100 epochs, batch 256, rate 0.1 cosine to 0 per epoch, weight decay 1e-06",
    }
    assert wanted[name] in whole


@pytest.mark.parametrize("name", ["linear-seed001", "linear-seed002", "linear-seed004"])
@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_protocols_of_the_projects_are_within_a_point_of_a_reference(name, noise):
    """Acceptance row T12: separable and noisy toy features."""
    train, labels, test, test_labels = toy(count=1500, test=4000, dim=16, classes=4, noise=noise, seed=2)
    x, z = standard(train, test)
    reference = LogisticRegression(max_iter=2000).fit(x, labels.numpy()).score(z, test_labels.numpy())
    found = PROTOCOLS[name](
        torch.from_numpy(x).float(), labels, torch.from_numpy(z).float(), test_labels, None, validation=0.0, epochs=40
    )
    assert abs(found["top1"] - reference) < 0.01


def test_a_list_of_neighbours_is_one_pass_with_the_first_as_headline():
    train, labels, test, test_labels = toy(count=60)
    found = PROTOCOLS["knn"](train, labels, test, test_labels, None, k=(1, 5, 20))
    assert [(row["k"], row["weighting"]) for row in found["settings"][:6]] == [
        (k, way) for way in ("weighted", "majority") for k in (1, 5, 20)
    ]
    assert found["top1"] == PROTOCOLS["knn"](train, labels, test, test_labels, None, k=1)["top1"]
    for row in found["settings"][:3]:
        assert row["top1"] == PROTOCOLS["knn"](train, labels, test, test_labels, None, k=row["k"])["top1"]


def test_mistakes_are_refused():
    train, labels, test, test_labels = toy(count=20)
    for protocol in (ridge, logistic):
        with pytest.raises(WrongUse, match="classes = 2"):
            protocol(train, labels, test, test_labels, classes=2)
        with pytest.raises(WrongUse, match="negative"):
            protocol(train, labels - 1, test, test_labels)
        with pytest.raises(WrongUse, match="not all finite"):
            protocol(train / 0, labels, test, test_labels)
        with pytest.raises(WrongUse, match="one encoder"):
            protocol(train[:, :2], labels, test, test_labels)
    with pytest.raises(WrongUse, match="no training row"):
        sgd(train, labels, test, test_labels, validation=1.0)
    for wrong in ({"final_lr": 1.0}, {"epochs": 0}, {"base_lr": 0.0}):
        with pytest.raises(WrongUse, match="does not rise"):
            sgd(train, labels, test, test_labels, **wrong)
