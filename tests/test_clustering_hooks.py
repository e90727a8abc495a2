# mypy: disable-error-code="union-attr,func-returns-value"
"""The two hooks that clustering needs of the loop: what an epoch sees, and a pass over the data with augmentation."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from selfsight.batchnorm import frozen_statistics
from selfsight.data.feed import Decoded
from selfsight.data.part import Part
from selfsight.rng import Stream, generator
from selfsight.train import Pictures, order, steps
from tiny import CPU, losses, make, same, state, tiny


def spied(name: str = "simclr", **changes: Any) -> tuple[Any, Any, list[Any]]:
    """A tiny run whose method writes down what happens to it."""
    run, data = tiny(name, **changes)
    made = make(run, data)
    method, seen = made[0], []
    loss, before = method.loss, method.before_step

    def noting(outputs, index, step):
        seen.append(("rows", step.index, index.tolist()))
        return loss(outputs, index, step)

    def noted(step, data):
        seen.append(("before", step.index, None))
        before(step, data)

    method.loss, method.before_step = noting, noted
    return run, made, seen


def rows(seen: list[Any]) -> list[int]:
    return [row for what, _, batch in seen if what == "rows" for row in batch]


def chosen(method: Any, seen: list[Any], count: int) -> None:
    """Let the method see the first half of the data, twice."""

    def half(step):
        seen.append(("order", step.index, step.rng.initial_seed()))
        return torch.randperm(count // 2, generator=step.rng).repeat(2)

    method.reorders, method.order = True, half


def test_an_epoch_sees_the_rows_that_the_method_orders() -> None:
    run, made, seen = spied()
    count, per_epoch = len(made[2]), len(made[2]) // run.batch_size
    chosen(made[0], seen, count)
    losses(run, made, 0, 2 * per_epoch + 3)
    asked = [(index, seed) for what, index, seed in seen if what == "order"]
    assert asked == [(e * per_epoch, generator(run.seed, Stream.ORDER, e).initial_seed()) for e in range(3)]
    for at, (what, index, _) in enumerate(seen):
        if what == "order":  # after the hook that may change what it rests on
            assert seen[at - 1] == ("before", index, None)
            assert seen[at + 1][:2] == ("rows", index)
    wanted = []
    for epoch in range(3):
        wanted += torch.randperm(count // 2, generator=generator(run.seed, Stream.ORDER, epoch)).repeat(2).tolist()
    assert rows(seen) == wanted[: (2 * per_epoch + 3) * run.batch_size]


def test_no_order_is_the_random_one() -> None:
    run, made, seen = spied()
    made[0].reorders = True  # and `order` returns None
    losses(run, made, 0, 10)
    plain_run, plain, plain_seen = spied()
    losses(plain_run, plain, 0, 10)
    assert rows(seen) == rows(plain_seen)
    assert rows(seen)[:512] == order(run.seed, 0, 512).tolist()
    assert same(state(made), state(plain))


def test_a_resume_inside_the_epoch_sees_the_same_rows() -> None:
    run, made, seen = spied()
    chosen(made[0], seen, len(made[2]))
    losses(run, made, 0, 11)
    again_run, again, again_seen = spied()
    chosen(again[0], again_seen, len(again[2]))
    losses(again_run, again, 0, 5)
    losses(again_run, again, 5, 11)
    assert [index for what, index, _ in again_seen if what == "order"] == [0, 0, 8]  # asked of the epoch's first step
    assert rows(seen) == rows(again_seen)
    assert same(state(made), state(again))


@pytest.mark.parametrize("reorders", [False, True])
def test_decoding_runs_ahead_of_an_epoch_only_where_the_order_is_known(reorders: bool, tmp_path: Any) -> None:
    run, made, seen = spied(batch_size=16)
    method, optimizer, pictures = made
    for i in range(32):  # two steps an epoch: workers hold all that they may
        Image.fromarray(torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8).numpy()).save(tmp_path / f"{i:02}.png")
    store = Decoded(sorted(tmp_path.iterdir()), 3, 0, workers=1)
    files = Pictures(Part(store), 16, 3, CPU)
    files.views = pictures.views
    drawn: list[int] = []
    draw = pictures.views.draw
    pictures.views.draw = lambda count, rng: (drawn.append(1), draw(count, rng))[1]
    if reorders:
        chosen(method, seen, 32)
    loop = steps(method, optimizer, files, run, 0, 5)
    ahead = []
    for done in loop:
        ahead.append(len(drawn) - done.step.index - 1)
    assert ahead[0] >= 1  # also inside an epoch
    assert all(a <= (done + 1) % 2 for done, a in enumerate(ahead)) == reorders  # to its end, and no further
    assert len(rows(seen)) == 5 * 16


class Pixel(nn.Module):
    """The first entries of each picture, after batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(20)
        self.norm.running_mean.fill_(3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.flatten(1)[:, :20])


def test_a_sweep_with_a_generator_augments_every_picture_on_its_own() -> None:
    _, _, pictures = make(*tiny("simclr"))
    net = Pixel()
    plain = pictures.sweep(net)
    found = pictures.sweep(net, rng=generator(0, Stream.SHARED, 3))
    assert found.shape == plain.shape == (len(pictures), 20)
    assert torch.equal(found, pictures.sweep(net, rng=generator(0, Stream.SHARED, 3)))
    assert (found != pictures.sweep(net, rng=generator(0, Stream.SHARED, 4))).any(1).double().mean() > 0.9
    rng = generator(0, Stream.SHARED, 3)
    draws = [pictures.views.draw(256, rng) for _ in range(2)]
    row = 300  # the draws of a chunk are those of its rows, first view
    some = {name: torch.cat([d[name] for d in draws])[row : row + 1] for name in draws[0]}
    view = pictures.views(pictures.part.gather(torch.tensor([row])), some)["global"][0]
    torch.testing.assert_close(found[row : row + 1], net.eval()(view))


def test_a_sweep_in_train_mode_uses_batch_statistics_and_leaves_no_trace() -> None:
    _, _, pictures = make(*tiny("simclr"))
    net = Pixel().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = pictures.sweep(net, train=True)
    assert not net.training
    assert net.norm.track_running_stats
    assert same(before, net.state_dict())
    first = found[:256]
    torch.testing.assert_close(first.mean(0), torch.zeros(20), atol=1e-5, rtol=0)
    x = pictures.plain(torch.arange(256, 512)).flatten(1)[:, :20]
    torch.testing.assert_close(found[256:], F.batch_norm(x, None, None, training=True), atol=1e-5, rtol=1e-4)
    with frozen_statistics(net):
        few = pictures.sweep(net.train(), torch.arange(3), chunk=4, train=True)  # the fourth row is the first again
        wanted = net(pictures.plain(torch.tensor([0, 1, 2, 0])).flatten(1).view(4, 3, 16, 16))
    torch.testing.assert_close(few, wanted[:3], atol=1e-5, rtol=1e-4)
