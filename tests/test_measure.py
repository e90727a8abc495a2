"""What a run measures leaves no trace in what it trains."""

import json

import pytest
import torch

from selfsight import measure, pretraining
from selfsight.core import Step
from selfsight.methods import METHODS
from selfsight.recipes import recipe
from selfsight.rng import Stream, generator
from selfsight.run import ProbeConfig
from selfsight.session import Session, due
from tiny import CPU, losses, same, state, tiny


def session(name="simclr", **changes):
    run, data = tiny(name, **changes)
    return Session(run, data, CPU)


def test_probing_leaves_mode_rng_and_state_untouched():
    s = session()
    losses(s.run, (s.method, s.optimizer, s.train), 0, 3)
    frozen = next(m for m in s.method.modules() if isinstance(m, torch.nn.BatchNorm2d))
    frozen.eval()  # flags are put back one by one, not all at once
    modes = [m.training for m in s.method.modules()]
    before, rng = state((s.method, s.optimizer)), torch.get_rng_state()
    first = s.ask()
    measure.monitors(s.method, s.held, s.run.probe, 0)
    second = s.ask()
    assert first == second
    assert modes == [m.training for m in s.method.modules()]
    assert torch.equal(rng, torch.get_rng_state())
    assert same(before, state((s.method, s.optimizer)))


def test_training_with_probes_is_training_without():
    with_probe, without = session(), session()
    a = []
    for start in range(0, 6, 2):
        a += losses(with_probe.run, (with_probe.method, with_probe.optimizer, with_probe.train), start, start + 2)
        with_probe.ask()
    b = losses(without.run, (without.method, without.optimizer, without.train), 0, 6)
    assert a == b


def at(s, index=2):
    return Step(index, s.run.steps, s.per_epoch, generator(s.run.seed, Stream.SHARED, index))


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_of_held_out_pictures_is_that_of_training_and_changes_nothing(name):
    s = session(name)
    losses(s.run, (s.method, s.optimizer, s.train), 0, 3)
    modes, before = [m.training for m in s.method.modules()], state((s.method, s.optimizer))
    found = measure.held_out(s.method, s.held, s.run, at(s))
    if s.method.indexed:  # labels or memory of training pictures: there is no such loss
        assert found == {}
        return
    assert found == measure.held_out(s.method, s.held, s.run, at(s))
    assert modes == [m.training for m in s.method.modules()]
    assert same(before, state((s.method, s.optimizer)))
    # by hand: 64 of the 128 pictures, one draw of the views, the method's own forward
    rows = measure.sample(128, 64, s.run.seed, 7)
    views = s.method.views(s.held.part.gather(rows), s.method.views.draw(64, generator(s.run.seed, Stream.PROBE, 8)))
    if s.method.labelled:
        views["label"] = s.held.part.labels[rows][None]
    torch.manual_seed(0)
    with torch.no_grad():
        out = s.method(views, rows, at(s))
    assert found.keys() == {"loss", *out.logs}
    assert found["loss"] == pytest.approx(float(out.loss), rel=1e-5)


def test_held_out_pictures_must_fill_a_batch_and_come_in_parts_if_asked():
    whole = session()
    parts = session(micro_batch=16)
    a, b = (measure.held_out(s.method, s.held, s.run, at(s)) for s in (whole, parts))
    assert 0 <= a["top1"] <= a["top5"] <= 1
    assert a["top5"] > 0
    assert b["loss"] == pytest.approx(a["loss"], rel=0.05)  # batch statistics are those of 16 pictures
    small = session(holdout=32)
    assert measure.held_out(small.method, small.held, small.run, at(small)) == {}


def test_hold_out_and_test_pictures_are_never_trained_on():
    s = session()
    parts = [set(p.index.tolist()) for p in (s.data.train, s.data.holdout)]
    assert parts[0].isdisjoint(parts[1])
    assert s.ask()["knn"]["part"] == "holdout"  # while training; the test part is asked at the end only
    assert s.ask(everything=True, test=True)["knn"]["part"] == "test"


def test_a_sample_is_the_same_every_time():
    assert torch.equal(measure.sample(1000, 50, 3, 1), measure.sample(1000, 50, 3, 1))
    assert not torch.equal(measure.sample(1000, 50, 3, 1), measure.sample(1000, 50, 3, 2))
    assert torch.equal(measure.sample(10, 50, 3, 1), torch.arange(10))
    assert torch.equal(measure.sample(10, 0, 3, 1), torch.arange(10))


@pytest.mark.parametrize(
    ("every", "want"), [(-1, set()), (0, {10, 20, 30, 40}), (2, {20, 40}), (0.5, {*range(5, 41, 5)}), (3, {30, 40})]
)
def test_when_probes_are_due(every, want):
    assert due(every, 40, 10) == want


def test_a_run_without_probe_completes(tmp_path):
    """T15: nothing that is switched off may be needed at the end."""
    from dataclasses import replace

    run = replace(
        recipe("simclr", "tiny"), probe=ProbeConfig(every=-1), steps=3, threads=1, quiet=True, out=str(tmp_path / "r")
    )
    result = pretraining.start(run)
    assert result.code == 0
    results = json.loads((tmp_path / "r" / "results.json").read_text())
    assert results["finished"]
    assert (tmp_path / "r" / "encoder.safetensors").is_file()
    assert (tmp_path / "r" / "report.html").is_file()


def test_streams_do_not_meet():
    seeds = {generator(0, stream, key).initial_seed() for stream in Stream for key in range(50)}
    assert len(seeds) == 50 * len(Stream)
