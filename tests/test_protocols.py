# mypy: disable-error-code="arg-type,assignment,index,misc,union-attr,unused-ignore"
"""Few labels, SVM, layers behind the encoder, stored features, settings: against scikit-learn and by hand."""

import json
import shlex

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

import selfsight
from selfsight import WrongUse, checkpoint, cli
from selfsight.evaluate import PROTOCOLS, few_shot, layers, measuring, ridge, stored, svm
from selfsight.evaluate.fewshot import draw
from selfsight.evaluate.linear import folds
from selfsight.methods import METHODS
from tiny import make, tiny

pytestmark = pytest.mark.xdist_group("protocols")


def toy(count=200, test=100, dim=6, classes=4, noise=0.8, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count + test) % classes
    x = torch.randn(classes, dim, generator=g)[labels] + noise * torch.randn(count + test, dim, generator=g)
    return x[:count], labels[:count], x[count:], labels[count:]


# ---------------------------------------------------------------------------------------------- few labels


def test_draws_are_stratified_nested_and_seeded():
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)[
        torch.randperm(100, generator=torch.Generator().manual_seed(0))
    ]
    one, three = draw(labels, 1, 0, 0), draw(labels, 3, 0, 0)
    assert torch.bincount(labels[three]).tolist() == [3, 3, 3]
    assert set(one.tolist()) < set(three.tolist())
    assert torch.bincount(labels[draw(labels, 0.1, 0, 0)]).tolist() == [7, 2, 1]
    assert torch.bincount(labels[draw(labels, 0.02, 0, 0)], minlength=3)[2] == 0  # a class of too few is missing
    assert torch.equal(three, draw(labels, 3, 0, 0))
    assert len({tuple(draw(labels, 3, seed, which).tolist()) for seed in (0, 1) for which in (0, 1)}) == 4


def test_few_labels_equal_scikit_learn_on_the_same_draws():
    train, labels, test, asked = toy()
    found = few_shot(train, labels, test, asked, amounts=(3, 0.1), draws=3, seed=5)
    assert [row["labels"] for row in found["amounts"]] == ["3 a class", "10 %"]
    assert [row["rows"] for row in found["amounts"]] == [12, 20]
    for amount, row in zip((3, 0.1), found["amounts"]):
        each = []
        for which in range(3):
            rows = draw(labels, amount, 5, which)
            mean, std = train[rows].double().mean(0), train[rows].double().std(0, correction=0)
            model = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000)
            model.fit(((train[rows] - mean) / std).numpy(), labels[rows].numpy())
            each.append(model.score(((test - mean) / std).numpy(), asked.numpy()))
        assert row["each"] == pytest.approx(each, abs=0.0101)  # one of 100 rows may lie on the border
        assert row["top1"] == pytest.approx(np.mean(row["each"]))
        assert row["top1_std"] == pytest.approx(np.std(row["each"], ddof=1))
    assert found["amounts"][0]["top1"] > 0.4
    assert found == few_shot(train, labels, test, asked, amounts=(3, 0.1), draws=3, seed=5)
    assert found != few_shot(train, labels, test, asked, amounts=(3, 0.1), draws=3, seed=6)


def test_the_amounts_follow_the_smallest_class():
    train, labels, test, asked = toy(count=44)
    found = few_shot(train, labels, test, asked, draws=1)
    assert [row["labels"] for row in found["amounts"]] == ["1 a class", "2 a class", "5 a class", "10 a class", "10 %"]
    assert found["amounts"][0]["top1_std"] is None
    with pytest.raises(WrongUse, match="has 11 pictures, not 12"):
        few_shot(train, labels, test, asked, amounts=(12,))
    with pytest.raises(WrongUse, match="asks for 0 of 44"):
        few_shot(train, labels, test, asked, amounts=(0.001,))
    for wrong in (0, -1, 1.5):
        with pytest.raises(WrongUse, match="no sense"):
            few_shot(train, labels, test, asked, amounts=(wrong,))
    for wrong in ({"draws": 0}, {"c": 0.0}):
        with pytest.raises(WrongUse, match="at least one draw"):
            few_shot(train, labels, test, asked, **wrong)


def test_a_class_that_no_draw_has_is_never_right():
    train, labels, test, asked = toy(classes=3, noise=0.05)
    keep = torch.where(labels != 2)[0]
    keep = torch.cat([keep, torch.where(labels == 2)[0][:1]])  # one row of class 2
    found = few_shot(train[keep], labels[keep], test, asked, 4, amounts=(0.05,), draws=2)
    assert found["amounts"][0]["top1"] == pytest.approx(float((asked != 2).double().mean()), abs=0.02)


# ---------------------------------------------------------------------------------------------- SVM


@pytest.mark.parametrize("classes", [2, 4])
def test_svm_equals_liblinear_at_the_cost_that_folds_choose(classes):
    train, labels, test, asked = toy(classes=classes, noise=1.5)
    unit = lambda x: torch.nn.functional.normalize(x).numpy()
    score = lambda cost, fit, x, y: (
        LinearSVC(C=cost, random_state=0, max_iter=9999).fit(unit(train[fit]), labels[fit]).score(x, y)
    )
    table = {}
    for cost in (0.01, 1.0, 100.0):
        right = sum(
            score(cost, fit, unit(train[held]), labels[held]) * len(held) for fit, held in folds(200, 0, labels.device)
        )
        table[cost] = right / 200
    wanted = 0.01
    for cost in (1.0, 100.0):  # up to the first that gains nothing
        if table[cost] <= table[wanted]:
            break
        wanted = cost
    found = svm(train, labels, test, asked, costs=(0.01, 1.0, 100.0))
    assert found["cost"] == wanted
    assert found["validation_top1"] == pytest.approx(table[wanted])
    assert found["top1"] == pytest.approx(score(wanted, slice(None), unit(test), asked), abs=0.0101)
    assert found["converged"]
    assert svm(train, labels, test, asked, costs=(1.0,))["validation_top1"] is None


def test_svm_looks_at_train_alone_to_choose_and_bears_few_rows():
    train, labels, test, asked = toy(noise=1.5)
    a, b = svm(train, labels, test, asked), svm(train, labels, test.flip(0) * 3, (asked + 1) % 4)
    assert all(a[name] == b[name] for name in ("cost", "validation_top1", "train_top1"))
    one = svm(train[:1], labels[:1], test, asked, 5)  # a single class: it is the answer to all
    assert one["top1"] == pytest.approx(float((asked == labels[0]).double().mean()))
    few = svm(train[:3], labels[:3], test, asked, 5)  # class 3 is missing
    assert few["top1"] <= float((asked < 3).double().mean())
    with pytest.raises(WrongUse, match="above 0"):
        svm(train, labels, test, asked, costs=())
    with pytest.raises(WrongUse, match="not all finite"):
        svm(train / 0, labels, test, asked)
    with pytest.raises(WrongUse, match="classes = 2"):
        svm(train, labels, test, asked, 2)
    with pytest.raises(WrongUse, match="one encoder"):
        svm(train[:, :2], labels, test, asked)


# ---------------------------------------------------------------------------------------------- settings, needs


def test_settings_are_checked_by_name_and_kind():
    found = measuring.check(["sgd", "svm", "fewshot", "knn"], {
        "sgd": {"epochs": 3, "weight_decay": "1e-6"}, "svm": {"costs": [1, 10]}, "fewshot": {"amounts": 2}, "knn": {"k": 5},
    })  # fmt: skip
    assert found == {
        "sgd": {"epochs": 3, "weight_decay": 1e-6}, "svm": {"costs": (1, 10)}, "fewshot": {"amounts": (2,)}, "knn": {"k": (5,)},
    }  # fmt: skip
    for given, told in (
        ({"sgd": {"epoch": 3}}, "Perhaps you meant 'epochs'"),
        ({"sgd": {"epochs": 2.5}}, "whole number"),
        ({"sgd": {"epochs": "many"}}, "give a number"),
        ({"sgd": {"seed": 1}}, "no setting 'seed'"),
        ({"sgd": 5}, "not 5"),
        ({"ridge": {}}, "not asked for"),
    ):
        with pytest.raises(WrongUse, match=told):
            measuring.check(["sgd"], given)
    with pytest.raises(WrongUse, match="Perhaps you meant 'cluster'"):
        measuring.check(["clusters"], {})


def test_what_each_protocol_needs():
    train, labels, test, asked = toy()
    whole = stored.Sets(train, labels, test, asked, None)
    names = [*PROTOCOLS]
    found = measuring.measure(whole, {name: {} for name in names if name != "linear"}, 3, {"dim": 6})
    json.dumps(found)
    assert all(numbers["seed"] == 3 and numbers["dim"] == 6 and numbers["protocol"] for numbers in found.values())
    alone = whole._replace(train=None, labels=None)
    assert measuring.measure(alone, {"retrieval": {}}, 3, {"dim": 6})["retrieval"] == found["retrieval"]
    assert (
        measuring.measure(alone._replace(test_labels=None), {"geometry": {}}, 3, {"dim": 6})["geometry"]
        == found["geometry"]
    )
    with pytest.raises(WrongUse, match="no labelled training features"):
        measuring.measure(alone, {"knn": {}}, 0, {})
    with pytest.raises(WrongUse, match="have no labels"):
        measuring.measure(alone._replace(test_labels=None), {"cluster": {}}, 0, {})


def test_standardising_is_fitted_on_train():
    train, labels, test, asked = toy()
    train[:, 2], test[:, 2] = 5.0, 6.0
    done = stored.standardised(stored.Sets(train, labels, test, asked, None, test[:, None]))
    assert done.train.mean(0).tolist() == pytest.approx([0] * 6, abs=1e-5)
    assert done.train.std(0, correction=0).tolist() == pytest.approx([1, 1, 0, 1, 1, 1], abs=1e-5)
    by_hand = (test[:, 0] - train[:, 0].mean()) / train[:, 0].std(correction=0)
    assert torch.allclose(done.test[:, 0], by_hand, atol=1e-5)
    assert not done.test[:, 2].any()  # it says nothing about train
    assert torch.equal(done.views[:, 0], done.test)
    with pytest.raises(WrongUse, match="training features"):
        stored.standardised(stored.Sets(None, None, test, asked, None))


# ---------------------------------------------------------------------------------------------- files of features


def test_files_of_features(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    train, labels, test, asked = toy()
    both = {
        "train_features": train.numpy(),
        "train_labels": labels.numpy(),
        "test_features": test.numpy().astype(np.float16),
    }
    np.savez("both.npz", **both, test_labels=asked.numpy().astype(np.uint8))
    assert cli.run(shlex.split("evaluate both.npz --protocols ridge,cluster --json")) == 0
    found = json.loads(capfd.readouterr().out)
    rough = test.half().float()
    assert found["ridge"]["top1"] == ridge(train, labels, rough, asked)["top1"]
    assert found["ridge"]["features"] == "stored"
    assert found["ridge"]["train"] == "both.npz (200)"
    scaled = selfsight.evaluate("both.npz", protocols=["knn"], standardise=True)["knn"]
    done = stored.standardised(stored.Sets(train, labels, rough, asked, None))
    assert scaled["top1"] == PROTOCOLS["knn"](done.train, labels, done.test, asked)["top1"]
    assert scaled["standardised"]
    # two files, whose classes are numbered differently
    names = np.array(["a", "b", "c", "d"])
    np.savez("one.npz", features=train.numpy(), labels=labels.numpy(), classes=names)
    np.savez("two.npz", features=rough.numpy(), labels=3 - asked.numpy(), classes=names[::-1])
    assert selfsight.evaluate("one.npz", test="two.npz", protocols=["ridge"])["ridge"]["top1"] == found["ridge"]["top1"]
    np.savez("plain.npz", features=rough.numpy())
    assert selfsight.evaluate("plain.npz", test="plain.npz", protocols=["geometry"])["geometry"]["rows"] == 100
    np.savez("pickled.npz", train_features=np.array([{}], object))
    np.savez("three.npz", features=rough.numpy()[:, :3], labels=asked.numpy())
    np.savez("strange.npz", features=rough.numpy(), labels=asked.numpy(), classes=np.array(["a", "b", "c", "x"]))
    np.savez("minus.npz", features=rough.numpy(), labels=asked.numpy() - 1)
    (tmp_path / "junk.npz").write_text("junk")
    for line, told in {
        "nothing.npz": "no file of features",
        "junk.npz": "not a readable .npz",
        "pickled.npz": "not a readable .npz",
        "one.npz": "no array 'train_features'",
        "one.npz --test three.npz": "take both from one encoder",
        "one.npz --test strange.npz": "has not (x)",
        "one.npz --test minus.npz": "whole numbers from 0 on",
        "one.npz --test plain.npz": "have no labels",
        "plain.npz --test one.npz": "no labelled training features",
        "both.npz --features projector": "leave out",
        "both.npz --train one.npz": "leave out",
        "both.npz --out both.npz": "exists",
        "both.npz --out f.csv": ".npz",
        "both.npz --settings 3": "--settings",
    }.items():
        assert cli.run(shlex.split(f"evaluate {line} --protocols knn")) == 2
        assert told in capfd.readouterr().err, line


# ---------------------------------------------------------------------------------------------- other layers


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_is_rebuilt_from_its_record_alone(name, tmp_path):
    """Without its data: the encoder and the layers behind it give what they gave in the run."""
    run, data = tiny(name)
    method, _, _ = make(run, data)
    method.to(memory_format=torch.contiguous_format).eval()  # another layout rounds differently
    from selfsight import run as runs
    from selfsight.folder import provenance
    from selfsight.session import Session

    torch.manual_seed(3)
    for p in method.parameters():  # other weights than a fresh method's
        p.data.add_(0.01 * torch.randn_like(p))
    header = Session.header(type("S", (), {"custom": False, "run": run, "data": data, "method": method, "done": 0})())
    text = runs.to_yaml(run, provenance(data, torch.device("cpu"), []))
    extra = {"seconds": 0.0, "best": None, "baselines": "null", "encoder": json.dumps(header)}
    checkpoint.save(tmp_path / "a.pt", checkpoint.Checkpoint(0, method.state_dict(), {}, text, extra))
    x = torch.rand(3, data.channels, run.image_size, run.image_size)
    normal = (x - torch.tensor(header["mean"]).view(1, -1, 1, 1)) / torch.tensor(header["std"]).view(1, -1, 1, 1)
    with torch.no_grad():
        wanted = method.encoder(normal)
        torch.testing.assert_close(selfsight.load(tmp_path / "a.pt")(x), wanted)
        for head, module in method.after_encoder().items():
            wanted = module(wanted)
            net = layers.load(tmp_path / "a.pt", head)
            torch.testing.assert_close(net(x), wanted)
            assert net.dim == wanted.shape[1]
            first = layers.load(tmp_path / "a.pt", f"{head}-1")
            assert first(x).shape == (3, first.dim)
            if head == "projector":
                torch.testing.assert_close(method.embed(normal), wanted)
    for wrong in ("nothing", "projector-0", "projector-99", "encoder-1"):
        with pytest.raises(WrongUse, match=r"known: encoder|linear layers"):
            layers.load(tmp_path / "a.pt", wrong)


def test_the_first_layers_of_a_head():
    from torch import nn

    relu, norm = nn.ReLU(), nn.BatchNorm1d(3)
    head = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(2, 3), norm, relu, nn.Linear(3, 4), nn.BatchNorm1d(4)))
    first = layers.first_layers(head, 1, "projector")
    assert list(first) == [head[0], head[1][0], norm, relu]
    assert list(layers.first_layers(head, 2, "projector")) == [head[0], *head[1]]
    with pytest.raises(WrongUse, match="2 linear layers, not 3"):
        layers.first_layers(head, 3, "projector")


def test_one_flag_for_all_and_files_that_come_back(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    line = "pretrain byol --recipe tiny --steps 3 --out r --quiet --probe.every -1 --precision fp32 --threads 1"
    assert cli.run(shlex.split(line)) == 0
    capfd.readouterr()
    names = ["ridge", "purity", "geometry"]
    found = selfsight.evaluate("r", protocols=names, features="predictor", out="f.npz", seed=4)
    assert {numbers["features"] for numbers in found.values()} == {"predictor"}
    assert found["geometry"]["views"] == [128, 10]
    assert found["geometry"]["lidar"] > 1
    again = selfsight.evaluate("f.npz", protocols=names, seed=4)
    for name in ("ridge", "purity"):
        assert again[name] == found[name]
    with np.load("f.npz", allow_pickle=False) as arrays:
        assert arrays["train_features"].shape == (512, found["ridge"]["dim"])
        assert json.loads(str(arrays["header"]))["features"] == "predictor"
    assert cli.run(shlex.split("embed r --data shapes:16:20 --features projector-1 --out e.npz --json")) == 0
    assert json.loads(capfd.readouterr().out)["dim"] == 64
    assert (
        cli.run(shlex.split("evaluate r --protocols fewshot,retrieval --settings 'fewshot: {amounts: [2], draws: 2}'"))
        == 0
    )
    told = capfd.readouterr().out
    assert "2 a class" in told
    assert "map_at_r" in told
    with pytest.raises(WrongUse, match="encoder alone"):
        selfsight.evaluate("r/encoder.safetensors", train="shapes:16:640", features="projector")
    with pytest.raises(WrongUse, match="has no projector"):
        selfsight.evaluate("pixels", features="projector")
    with pytest.raises(WrongUse, match="other layers"):
        selfsight.embed(selfsight.load("r"), "shapes:16:20", features="projector")
