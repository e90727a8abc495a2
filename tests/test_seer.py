"""SEER: SwAV's recipes for RegNetY and pictures as they come: many of few classes, no labels, a broken file among them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import selfsight
from selfsight import encoders, optim, pretraining
from selfsight.data import Part, open_data
from selfsight.evaluate.knn import knn_accuracy
from selfsight.nn import mlp
from selfsight.recipes import RECIPES, recipe
from selfsight.run import ProbeConfig
from selfsight.session import open_for, prepare
from selfsight.train import build
from tiny import CPU, losses, make, same, state

SIZES = ("32gf", "64gf", "128gf", "256gf", "10b")


def long_tailed(folder: Path, most: int, ratio: float, size: int = 32) -> Path:
    """A flat folder of unlabelled `shapes`: the commonest class is `ratio` times the rarest, exponentially."""
    folder.mkdir()
    pool = open_data(f"shapes:{size}:{12 * most}", holdout=0).train
    counts = [round(most * ratio ** (-c / 9)) for c in range(10)]
    assert pool.labels is not None
    rows = torch.cat([(pool.labels == c).nonzero()[:count, 0] for c, count in enumerate(counts)])
    assert len(rows) == sum(counts)
    for i, row in enumerate(torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))):
        picture = pool.gather(rows[row][None]).pixels[0].permute(1, 2, 0)
        Image.fromarray(picture.numpy()).save(folder / f"{i:05d}.png")
    return folder


def test_the_papers_settings() -> None:
    run = recipe("swav", "seer")
    method = run.method
    assert (method.layers, method.hidden, method.dim, method.norm) == (3, 8192, 256, "none")
    assert (method.prototypes, method.epsilon, method.iterations, method.temperature) == (16000, 0.03, 10, 0.1)
    assert (method.queue, method.freeze_steps) == (0, 313)
    views = run.views
    assert (run.image_size, views.views, views.locals, views.local_size) == (160, 2, 4, 96)
    assert (views.scale, views.local_scale) == ((0.14, 1.0), (0.05, 0.14))
    assert (run.optimizer.lars_dialect, run.optimizer.weight_decay) == ("larc", 1e-5)
    for size in SIZES:
        run = RECIPES[f"swav-seer-{size}"]()
        assert run.method == method
        assert (run.encoder, run.epochs) == (f"regnety-{size}", 1)
        assert (run.strategy, run.checkpoint_activations) == ("fsdp", True)
        assert optim.peak_rate(run.optimizer, int(run.batch_size)) == pytest.approx(9.3 if size == "10b" else 9.6)


def test_the_head_has_no_batch_norm() -> None:
    run = recipe("swav", "seer")
    with torch.device("meta"):
        widths = [3024, *[run.method.hidden] * 2, run.method.dim]
        expected = mlp(widths, norm="none")
    assert [type(m) for m in expected] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    small = replace(
        recipe("swav", "tiny"), method=replace(run.method, hidden=16, dim=8, prototypes=32), precision="fp32"
    )
    data = open_for(small, CPU)
    small, _ = prepare(small, data, CPU)
    head = build(small, data, CPU)[0].projector
    assert isinstance(head, nn.Sequential)
    assert [type(m) for m in head] == [type(m) for m in expected]


def test_one_pass_goes_on_exactly_in_the_middle(tmp_path: Path) -> None:
    """Files are decoded at each use, by a worker that runs ahead; every picture is seen once; one breaks on the way."""
    folder = long_tailed(tmp_path / "photos", 14, 5.0, size=24)  # 72 pictures, nine steps
    (folder / "00003.png").write_bytes((folder / "00003.png").read_bytes()[:60])  # its head is whole
    count = len(list(folder.iterdir()))
    run = replace(
        recipe("swav", "tiny"), data=str(folder), epochs=1, batch_size=8, holdout=0, cache="off", workers=1,
        precision="fp32", threads=1,
    )  # fmt: skip
    data = open_for(run, CPU)
    run, _ = prepare(run, data, CPU)
    assert len(data.train) == count
    assert run.steps * 8 == count
    whole, part = make(run, data), make(run, data)
    seen: list[int] = []
    whole[0].register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[1].tolist()))
    straight = losses(run, whole)
    assert sorted(seen) == list(range(count))
    middle = run.steps // 2
    first = losses(run, part, 0, middle)
    kept = state(part)
    fresh = make(run, data)
    fresh[0].load_state_dict(kept["method"])
    fresh[1].load_state_dict(kept["optimizer"])
    assert first + losses(run, fresh, middle) == straight
    assert same(state(whole), state(fresh))


def features(net: nn.Module, part: Part | None) -> tuple[Tensor, Tensor]:
    assert part is not None
    assert part.labels is not None
    pictures = part.gather(torch.arange(len(part))).pixels
    with torch.no_grad():
        return torch.cat([net(x.float() / 255) for x in pictures.split(256)]), part.labels


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_seer_learns_from_a_long_tail(tmp_path: Path) -> None:
    """k-NN on balanced labelled pictures, against the same network untrained."""
    folder = long_tailed(tmp_path / "photos", 600, 20.0)
    (folder / "99999.png").write_bytes(b"no picture")
    run = replace(
        recipe("swav", "seer-cpu"), data=str(folder), encoder="fastnet-tiny", epochs=8, threads=1, quiet=True,
        probe=ProbeConfig(every=-1), out=str(tmp_path / "run"),
    )  # fmt: skip
    assert pretraining.start(run).code == 0
    assert "skipped 1 unreadable file" in (tmp_path / "run" / "log.txt").read_text()
    balanced = open_data("shapes:32:4000", holdout=1000.0)
    trained = selfsight.load(tmp_path / "run").eval()
    torch.manual_seed(0)
    untrained = encoders.build(run.encoder, 3, 32, run.net)
    top1 = []
    for net in (type(trained)(untrained, trained.mean, trained.std, {}).eval(), trained):
        (bank, labels), (asked, wanted) = (features(net, part) for part in (balanced.train, balanced.holdout))
        top1.append(knn_accuracy(bank, labels, asked, wanted, classes=10)["top1"])
    assert top1[1] > top1[0] + 0.1, top1
