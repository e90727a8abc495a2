# mypy: disable-error-code="arg-type,assignment,index,misc,union-attr,unused-ignore,attr-defined,operator"
"""Protocols that see pictures: heads on views, fine-tuning, robustness; against plain loops."""

import copy
import dataclasses
import json
import shlex

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import selfsight
from selfsight import WrongUse, augment, checkpoint, cli, encoders
from selfsight.augment.corruptions import CORRUPTIONS, corrupt
from selfsight.core import Step
from selfsight.data import Part
from selfsight.data.split import hold_out
from selfsight.data.store import Resident
from selfsight.evaluate import extract, finetune, knn_accuracy, linear_views, logistic, measuring, robustness
from selfsight.evaluate.classifier import Classifier
from selfsight.evaluate.features import Mirrored, chunks
from selfsight.evaluate.fewshot import draw
from selfsight.evaluate.linear import fit_logistic
from selfsight.evaluate.subject import Subject
from selfsight.optim import ScheduleConfig, factor
from selfsight.rng import Stream, generator
from selfsight.train import order
from tiny import DEVICE

pytestmark = pytest.mark.xdist_group("finetune")
CPU = torch.device("cpu")


def part(count, seed):
    """Pictures of four classes: a pattern of colours each, and noise."""
    patterns = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    g, labels = torch.Generator().manual_seed(seed), torch.arange(count) % 4
    x = F.interpolate(patterns, (16, 16), mode="bilinear")[labels]
    x = 0.5 * x + 0.25 + 0.15 * torch.randn(count, 3, 16, 16, generator=g)
    return Part(Resident.of((x.clamp(0, 1) * 255).byte()), labels=labels)


@pytest.fixture(scope="module")
def subject():
    train, test = part(80, 1), part(40, 2)
    torch.manual_seed(1)
    net = checkpoint.Encoder(encoders.build("fastnet-tiny", 3, 16), torch.full((3,), 0.5), torch.full((3,), 0.25), {})
    with torch.no_grad():  # running statistics that fit
        for _ in range(20):
            for x in chunks(train, 16, 3, CPU):
                net(x)
    names = ["a", "b", "c", "d"]
    return Subject(net.eval(), train, train.labels, test, test.labels, names, 16, 3, CPU)


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def views_of(subject, part, run_seed, step, rows, policy="crop-flip"):
    """What the loop shows at a step, by the parts it is made of."""
    config = augment.ViewsConfig(policy=policy, views=1)
    maker = augment.build(config, 16, 3, subject.encoder.mean.flatten(), subject.encoder.std.flatten())
    draws = maker.draw(len(rows), generator(run_seed, Stream.VIEWS, step))
    return maker(part.gather(rows), draws)["global"][0]


def by_hand(subject, part, net, head, body, head_lr, epochs, batch, seed, decay=0.0, smoothing=0.0):
    """A plain loop: one SGD for the body (None: frozen) and the head, cosine at each step; the last epoch's mean loss."""
    per_epoch, losses = len(part) // batch, []
    groups = [{"params": head.parameters(), "top": head_lr * batch / 256}]
    if body is not None:
        groups.append({"params": net.parameters(), "top": body * batch / 256})
    solver = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    for i in range(epochs * per_epoch):
        rows = order(seed, i // per_epoch, len(part))[i % per_epoch * batch :][:batch]
        x = views_of(subject, part, seed, i, rows)
        with torch.set_grad_enabled(body is not None):
            features = net(x)
        loss = F.cross_entropy(head(features), part.labels[rows], label_smoothing=smoothing)
        for group in solver.param_groups:
            at = Step(i, epochs * per_epoch, per_epoch, None)
            group["lr"] = group["top"] * factor(ScheduleConfig("cosine"), at)
        solver.zero_grad()
        loss.backward()
        solver.step()
        losses.append(float(loss.detach()))
    return sum(losses[-per_epoch:]) / per_epoch


def zero_head(subject):
    head = nn.Linear(subject.encoder.dim, subject.count)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def top1(net, head, subject):
    """Accuracy on the test part, by the parts it is made of."""
    features = extract(net, chunks(subject.test, 16, 3, CPU), CPU)
    return float((head(features).argmax(1) == subject.test_labels).double().mean())


# ---------------------------------------------------------------------------------------------- heads on views


def test_heads_on_views_equal_a_plain_loop_each_and_validation_chooses(subject):
    rates = (0.1, 10.0, 100.0)
    found = linear_views(subject, rates=rates, epochs=4, batch_size=16, validation=0.25, seed=3)
    kept, held = hold_out(len(subject.train), subject.labels, 0.25, 3)
    part = subject.train.subset(kept)
    validated = []
    for rate, row in zip(rates, found["rates"], strict=True):
        head = zero_head(subject)
        loss = by_hand(subject, part, subject.encoder.net, head, None, rate, 4, 16, 3)
        assert row["train_loss"] == pytest.approx(loss, rel=1e-3)
        assert row["rate"] == rate
        assert row["top1"] == pytest.approx(top1(subject.encoder, head, subject), abs=0.026)  # one of 40 on the border
        features = extract(subject.encoder, chunks(subject.train.subset(held), 16, 3, CPU), CPU)
        validated.append(float((head(features).argmax(1) == subject.labels[held]).double().mean()))
        assert row["validation_top1"] == pytest.approx(validated[-1], abs=0.06)
    best = max(range(3), key=lambda i: found["rates"][i]["validation_top1"])
    assert found["rate"] == rates[best]
    assert found["top1"] == found["rates"][best]["top1"]
    assert found["crop"] == 1.0
    assert "3 linear heads" in found["protocol"]
    assert "20 training pictures" in found["protocol"]
    json.dumps(found)
    other = dataclasses.replace(subject, test_labels=(subject.test_labels + 1) % subject.count)
    again = linear_views(other, rates=rates, epochs=4, batch_size=16, validation=0.25, seed=3)
    assert again["rate"] == found["rate"]  # the test part chooses nothing
    assert [row["top1"] for row in again["rates"]] != [row["top1"] for row in found["rates"]]


def test_features_may_be_normalised_before_the_head(subject):
    found = linear_views(subject, rates=(30.0,), epochs=3, batch_size=16, validation=0, norm="batch", seed=3)
    head = nn.Sequential(nn.BatchNorm1d(subject.encoder.dim, affine=False, eps=1e-6), zero_head(subject))
    loss = by_hand(subject, subject.train, subject.encoder.net, head, None, 30.0, 3, 16, 3)
    assert found["rates"][0]["train_loss"] == pytest.approx(loss, rel=1e-3)
    assert found["top1"] == pytest.approx(top1(subject.encoder, head.eval(), subject), abs=0.026)
    plain = linear_views(subject, rates=(30.0,), epochs=3, batch_size=16, validation=0, seed=3)
    assert plain["rates"][0]["train_loss"] != pytest.approx(found["rates"][0]["train_loss"], rel=1e-3)


def test_the_encoder_and_the_generators_stay_as_they_are(subject):
    before, flags = state(subject.encoder), [m.training for m in subject.encoder.modules()]
    needs = [p.requires_grad for p in subject.encoder.parameters()]
    rng = torch.random.get_rng_state()
    linear_views(subject, rates=(1.0,), epochs=1, batch_size=16, validation=0)
    finetune(subject, lr=1.0, epochs=1, batch_size=16)
    robustness(subject, corruptions=("fog",), severities=(1,))
    assert all(torch.equal(value, before[name]) for name, value in subject.encoder.state_dict().items())
    assert [m.training for m in subject.encoder.modules()] == flags
    assert [p.requires_grad for p in subject.encoder.parameters()] == needs
    assert all(p.grad is None for p in subject.encoder.parameters())
    assert torch.equal(torch.random.get_rng_state(), rng)


# ---------------------------------------------------------------------------------------------- fine-tuning


def test_a_frozen_body_at_rate_0_is_a_linear_head(subject):
    heads = linear_views(subject, rates=(3.0,), epochs=2, batch_size=16, validation=0, seed=1)
    tuned = finetune(subject, lr=0.0, head_lr=3.0, epochs=2, batch_size=16, batchnorm="frozen", seed=1)
    assert tuned["top1"] == heads["top1"]
    assert tuned["top5"] == heads["top5"]
    assert tuned["train_loss"] == pytest.approx(heads["rates"][0]["train_loss"], rel=1e-5)


@pytest.mark.parametrize("batchnorm", ["train", "statistics", "frozen"])
def test_fine_tuning_equals_a_plain_loop_and_keeps_its_word_on_batch_norm(subject, batchnorm, monkeypatch):
    from selfsight.evaluate import finetune as module

    kept = []
    real = Classifier.__init__

    def spy(self, *args, **kwargs):
        real(self, *args, **kwargs)
        kept.append(self)

    monkeypatch.setattr(Classifier, "__init__", spy)
    found = module(
        subject, lr=0.3, head_lr=2.0, epochs=2, batch_size=20, batchnorm=batchnorm, smoothing=0.1, seed=4
    )  # fmt: skip
    net, head = copy.deepcopy(subject.encoder.net), zero_head(subject)
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    net.train()
    for norm in norms:
        norm.train(batchnorm == "train")
        for p in norm.parameters():
            p.requires_grad_(batchnorm != "frozen")
    loss = by_hand(subject, subject.train, net, head, 0.3, 2.0, 2, 20, 4, smoothing=0.1)
    (model,) = kept
    for ours, theirs in zip(model.encoder.state_dict().values(), net.state_dict().values(), strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), atol=3e-3, rtol=3e-2)
    torch.testing.assert_close(model.heads[0].weight, head.weight, atol=3e-3, rtol=3e-2)
    assert found["train_loss"] == pytest.approx(loss, rel=0.01)
    moved = {
        name: not torch.equal(value, subject.encoder.net.state_dict()[name])
        for name, value in model.encoder.state_dict().items()
    }
    names = [name for name, m in model.encoder.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    statistics = [moved[f"{name}.running_mean"] for name in names]
    affine = [moved[f"{name}.bias"] for name in names]
    assert names
    assert all(statistics) if batchnorm == "train" else not any(statistics)
    assert not any(affine) if batchnorm == "frozen" else all(affine)
    assert any(moved[name] for name, p in model.encoder.named_parameters() if p.ndim > 1)


def test_few_labels_and_draws(subject):
    found = finetune(subject, labels=2, draws=2, epochs=2, batch_size=8, seed=5)
    assert found["rows"] == 2 * subject.count
    assert len(found["each"]) == 2
    assert found["top1"] == pytest.approx(sum(found["each"]) / 2)
    alone = finetune(subject, labels=2, epochs=2, batch_size=8, seed=6)
    assert alone["each"] == [found["each"][1]]
    assert alone["top1_std"] is None
    share = finetune(subject, labels=0.5, epochs=1, batch_size=256, validation=0.25, seed=5)
    assert share["rows"] == 30
    assert 0 <= share["validation_top1"] <= 1
    assert "1 steps of 30" in share["protocol"]
    assert len(draw(subject.labels, 2, 5, 0)) == 2 * subject.count


def test_a_head_may_begin_where_logistic_regression_puts_it(subject):
    found = finetune(subject, lr=0.0, head_lr=1e-9, epochs=1, batch_size=16, batchnorm="frozen", head="linear")
    sets = subject.sets
    wanted = logistic(sets.train, subject.labels, sets.test, subject.test_labels, subject.count)
    assert found["top1"] == pytest.approx(wanted["top1"], abs=0.026)
    fitted = fit_logistic(sets.train, subject.labels, subject.count)
    right = (fitted.scores(sets.test).argmax(1) == subject.test_labels).double().mean()
    assert float(right) == pytest.approx(wanted["top1"], abs=0.026)


def test_layers_of_a_transformer_get_smaller_rates():
    torch.manual_seed(0)
    net = encoders.build("vit-toy", 3, 16)
    groups = Classifier(net, net.dim, 3, (0.5,), 0.1, layer_decay=0.5).param_groups()
    assert [group["lr_scale"] for group in groups] == pytest.approx([0.0125, 0.025, 0.05, 0.1, 0.5])
    assert {id(p) for group in groups for p in group["params"]} >= {id(p) for p in net.parameters() if p.requires_grad}
    small = encoders.build("fastnet-tiny", 3, 16)
    with pytest.raises(WrongUse, match="layer of a transformer"):
        Classifier(small, small.dim, 3, (0.5,), 0.1, layer_decay=0.5)
    small.requires_grad_(False)  # a teacher's
    assert all(p.requires_grad for p in Classifier(small, small.dim, 3, (0.5,), 0.1).encoder.parameters())


def test_the_body_learns_more_than_a_head_alone(subject):
    tuned = finetune(subject, lr=1.0, head_lr=1.0, epochs=4, batch_size=16, policy="none")
    still = finetune(subject, lr=0.0, head_lr=1.0, epochs=4, batch_size=16, policy="none", batchnorm="frozen")
    assert tuned["train_loss"] < 0.8 * still["train_loss"]


def test_mistakes_are_refused(subject):
    for wrong in ({"rates": ()}, {"rates": (0.1, -1.0)}, {"validation": 0.0}):
        with pytest.raises(WrongUse, match="rates are above 0"):
            linear_views(subject, **wrong)
    for wrong in ({"epochs": 1, "warmup": 2}, {"batch_size": 1}, {"scale": (0.5,)}):
        with pytest.raises(WrongUse, match="warmup < epochs"):
            finetune(subject, **wrong)
    for wrong in ({"lr": -1}, {"head_lr": 0}, {"draws": 0}, {"smoothing": 1}, {"layer_decay": 0}):
        with pytest.raises(WrongUse, match="at least one draw"):
            finetune(subject, **wrong)
    with pytest.raises(WrongUse, match="share of the side"):
        finetune(subject, crop=1.5)
    with pytest.raises(WrongUse, match="'pixels' has none"):
        finetune(dataclasses.replace(subject, encoder=None))
    with pytest.raises(WrongUse, match="labelled pictures"):
        linear_views(dataclasses.replace(subject, train=None, labels=None))
    with pytest.raises(WrongUse, match="no augmentation policy"):
        finetune(subject, policy="crops")
    with pytest.raises(WrongUse, match="labelled pictures"):
        robustness(dataclasses.replace(subject, labels=None))


# ---------------------------------------------------------------------------------------------- robustness


@pytest.mark.parametrize("classifier", ["linear", "knn"])
def test_robustness_by_a_loop(subject, classifier):
    names, severities = ("gaussian-noise", "jpeg", "fog"), (1, 5)
    found = robustness(subject, classifier=classifier, corruptions=names, severities=severities, k=5, seed=2)
    sets = subject.sets
    fitted = fit_logistic(sets.train, subject.labels, subject.count, 2)

    def right(features):
        if classifier == "knn":
            return knn_accuracy(sets.train, subject.labels, features, subject.test_labels, k=5)["top1"]
        return float((fitted.scores(features).argmax(1) == subject.test_labels).double().mean())

    assert found["clean_top1"] == pytest.approx(right(sets.test))
    x = torch.cat([*chunks(subject.test, 16, 3, CPU)])
    each = []
    for name, row in zip(names, found["corruptions"], strict=True):
        rng = generator(2, Stream.PROBE, 11, [*CORRUPTIONS].index(name), 0)
        u = CORRUPTIONS[name].draw(len(x), 3, 16, rng)
        tops = [right(extract(subject.encoder, [corrupt(name, x, u, s)], CPU)) for s in severities]
        assert row["name"] == name
        assert [row["severity 1"], row["severity 5"]] == pytest.approx(tops)
        assert row["top1"] == pytest.approx(sum(tops) / 2)
        each += tops
    assert found["top1"] == pytest.approx(sum(each) / 6)
    assert found["drop"] == pytest.approx(1 - found["top1"] / found["clean_top1"])
    alone = robustness(subject, classifier=classifier, corruptions=("fog",), severities=(5,), k=5, seed=2)
    assert alone["corruptions"][0]["severity 5"] == found["corruptions"][2]["severity 5"]
    some = robustness(subject, corruptions=("fog",), severities=(1,), pictures=10)
    assert some["pictures"] == 10


@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs SELFSIGHT_TEST_DEVICE")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_device_gives_about_the_same(subject, precision):
    there = dataclasses.replace(subject, encoder=copy.deepcopy(subject.encoder).to(DEVICE), device=DEVICE)
    for classifier in ("linear", "knn"):
        numbers = [robustness(one, classifier=classifier, seed=1) for one in (subject, there)]
        assert numbers[1]["top1"] == pytest.approx(numbers[0]["top1"], abs=0.02)
    given = {"epochs": 3, "batch_size": 16, "precision": precision}
    tuned = [finetune(one, head="linear", labels=10, **given)["train_loss"] for one in (subject, there)]
    assert tuned[1] == pytest.approx(tuned[0], rel=0.1)
    heads = [linear_views(one, rates=(0.1, 1.0), **given)["rates"] for one in (subject, there)]
    for here, other in zip(*heads, strict=True):
        assert other["train_loss"] == pytest.approx(here["train_loss"], rel=0.05)


# ---------------------------------------------------------------------------------------------- flips, crops, the verb


def test_flips_are_averaged_and_crops_are_central(subject):
    x = torch.cat([*chunks(subject.test, 16, 3, CPU)])
    wanted = (extract(subject.encoder, [x], CPU) + extract(subject.encoder, [x.flip(-1)], CPU)) / 2
    torch.testing.assert_close(extract(Mirrored(subject.encoder), [x], CPU), wanted)
    flipped = dataclasses.replace(subject, flip=True)
    torch.testing.assert_close(flipped.sets.test, wanted)
    assert not torch.allclose(flipped.sets.test, subject.sets.test)
    arrays = [(one * 255).round().byte().permute(1, 2, 0).numpy() for one in x[:5]]
    embedded = selfsight.embed(subject.encoder, arrays, image_size=16, flip=True).features
    torch.testing.assert_close(torch.from_numpy(embedded), wanted[:5])
    cut = torch.cat([*chunks(subject.test, 12, 3, CPU, crop=0.75)])
    assert torch.equal(cut, x[..., 2:14, 2:14])
    whole = finetune(subject, epochs=1, batch_size=16, crop=1.0)
    assert whole["top1"] == finetune(subject, epochs=1, batch_size=16)["top1"]
    assert "of 21" in finetune(subject, epochs=1, batch_size=16, crop=0.75)["protocol"]


def test_settings_of_names_and_lists():
    found = measuring.check(["finetune", "robustness", "linear-views", "sgd", "linear-seed004", "knn"], {
        "finetune": {"batchnorm": "frozen", "labels": 10, "policy": "mae", "scale": [0.2, 1], "draws": 3},
        "robustness": {"corruptions": "fog", "severities": [1, 2]}, "linear-views": {"rates": [0.1, "1e-2"]},
        "sgd": {"optimizer": "adam"}, "linear-seed004": {"epochs": 100}, "knn": {"k": [1, 5, 20, 200]},
    })  # fmt: skip
    assert found == {
        "finetune": {"batchnorm": "frozen", "labels": 10.0, "policy": "mae", "scale": (0.2, 1), "draws": 3},
        "robustness": {"corruptions": ("fog",), "severities": (1, 2)}, "linear-views": {"rates": (0.1, 0.01)},
        "sgd": {"optimizer": "adam"}, "linear-seed004": {"epochs": 100}, "knn": {"k": (1, 5, 20, 200)},
    }  # fmt: skip
    for given, told in (
        ({"finetune": {"batchnorm": "freeze"}}, "finetune.batchnorm is 'freeze'. Perhaps you meant 'frozen'"),
        ({"finetune": {"policy": 3}}, "give a name"),
        ({"finetune": {"subject": 3}}, "no setting 'subject'"),
        ({"robustness": {"severities": [1.5]}}, "whole number"),
        ({"robustness": {"corruptions": [1]}}, "give names"),
        ({"sgd": {"optimizer": "lars"}}, "Known: adam, adamw, sgd"),
    ):
        with pytest.raises(WrongUse, match=told):
            measuring.check(["finetune", "robustness", "sgd"], given)


def test_the_verb_takes_them_with_the_others(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    settings = (
        "{finetune: {epochs: 1, labels: 2, batch_size: 8}, linear-views: {epochs: 1, rates: [0.1, 1]}, "
        "robustness: {corruptions: [fog, jpeg], severities: [3], pictures: 20}, knn: {k: [1, 5]}}"
    )
    line = (
        "evaluate random --encoder fastnet-tiny --train shapes:16:150 --image-size 16 --seed 2 --flip "
        f"--protocols knn,finetune,linear-views,robustness --settings '{settings}'"
    )
    assert cli.run(shlex.split(line + " --json")) == 0
    found = json.loads(capfd.readouterr().out)
    assert list(found) == ["knn", "finetune", "linear-views", "robustness"]
    for numbers in found.values():
        assert numbers["seed"] == 2
        assert numbers["flip"]
        assert numbers["image_size"] == 16
        assert numbers["features"] == "encoder"
        assert numbers["protocol"]
        assert 0 <= numbers["top1"] <= 1
    assert found["finetune"]["parameters"]["head_lr"] == 0.2
    assert found["finetune"]["parameters"]["labels"] == 2
    assert [row["k"] for row in found["knn"]["settings"]][:4] == [1, 5, 1, 5]
    assert cli.run(shlex.split(line)) == 0
    told = capfd.readouterr().out
    assert "fog" in told
    assert "severity 3" in told
    assert "rate 0.1" in told
    for more, why in {
        "--standardise": "finetune sees pictures",
        "--features projector": "has no projector",
    }.items():
        assert cli.run(shlex.split(line.replace("--flip", more))) == 2
        assert why in capfd.readouterr().err
    assert cli.run(shlex.split("evaluate two-moons --protocols finetune")) == 2
    assert "finetune sees pictures" in capfd.readouterr().err
    assert cli.run(shlex.split("embed r --data shapes:16:20 --out e.npz --flip")) == 2  # no such run
    pixels = selfsight.evaluate(
        "pixels", train="shapes:16:150", image_size=16, protocols=["robustness"],
        settings={"robustness": {"corruptions": ["contrast"], "severities": [5]}},
    )  # fmt: skip
    assert pixels["robustness"]["dim"] == 768
    assert pixels["robustness"]["top1"] <= pixels["robustness"]["clean_top1"]
