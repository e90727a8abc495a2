"""Jigsaw: permutations and labels, the context-free trunk, distractors, the file format, puzzles in the report."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from selfsight import pretraining
from selfsight.augment import TilesConfig
from selfsight.augment.permutations import distances, permutations
from selfsight.augment.sheet import RIGHT, WRONG, solution
from selfsight.augment.tiles import shuffled
from selfsight.core import Step
from selfsight.errors import WrongUse
from selfsight.methods.jigsaw import Jigsaw, JigsawConfig, read
from selfsight.report import report
from tiny import make, tiny


class Facts:
    image_size, channels, classes, tiles = 48, 3, 4, 9

    def __len__(self):
        return 100


class Mean(nn.Module):
    """Each tile's mean colour, so that what a tile is can be read from its features."""

    dim = 3

    def forward(self, x):
        return x.mean((2, 3))


def step(index=0):
    return Step(index, 100, 10, torch.Generator().manual_seed(index))


def build(**settings):
    torch.manual_seed(0)
    settings = {"permutations": 72, "hidden": 8, "joint": 0, **settings}
    facts: Any = Facts()
    return Jigsaw(JigsawConfig(**settings), Mean(), facts).eval()


def views(count=6, seed=0):
    """Tiles whose pixels say their number and picture."""
    rng = torch.Generator().manual_seed(seed)
    number, picture = torch.arange(9.0)[:, None], torch.arange(float(count))
    colour = torch.stack([number.expand(9, count), picture.expand(9, count), torch.ones(9, count)], 2)
    return {
        "tiles": colour[..., None, None].expand(-1, -1, -1, 4, 4),
        "shuffle": torch.rand(1, count, 9, generator=rng),
    }


class Reads(nn.Module):
    """Passes on what the head gets."""

    def forward(self, x):
        return x


def test_logits_are_those_of_a_loop_over_puzzles():
    method, given = build(), views()
    out = method.encode(given, step())
    for b in range(6):
        label = int(given["shuffle"][0, b, 0] * 72)
        assert int(out["label"][0, b]) == label
        tiles = [
            given["tiles"][int(t), b] for t in method.table[label]
        ]  # tile t of the input = original perm[label][t]
        features = [method.tile_head(tile.mean((1, 2))[None]) for tile in tiles]
        torch.testing.assert_close(out["logits"][0, b], method.head(torch.cat(features, 1))[0])
    loss = method.loss(out, torch.arange(6), step())
    slow = [-math.log(row.softmax(0)[k].item()) for row, k in zip(out["logits"][0], out["label"][0])]
    assert float(loss.loss) == pytest.approx(sum(slow) / 6, rel=1e-5)
    right = [float(row.argmax() == k) for row, k in zip(out["logits"][0], out["label"][0])]
    assert float(loss.logs["accuracy"]) == pytest.approx(sum(right) / 6)


def test_the_number_of_classes_is_that_of_the_permutations_and_logits_are_no_softmax():
    method = build(permutations=100)
    logits = method.encode(views(), step())["logits"][0]
    assert logits.shape == (6, 100)
    assert not torch.allclose(logits.sum(1), torch.ones(6), atol=0.1)
    with torch.no_grad():
        method.head[-1].weight.zero_()
        method.head[-1].bias.zero_()
    assert float(method(views(), torch.arange(6), step()).loss) == pytest.approx(math.log(100), rel=1e-6)
    assert method.constant_loss(64) == math.log(100)


def test_all_classes_are_drawn_alike():
    label, rest = build().label({"shuffle": torch.rand(1, 7200, 9, generator=torch.Generator().manual_seed(0))})
    counts = label.bincount(minlength=72)
    assert len(counts) == 72
    assert counts.min() > 60 and counts.max() < 145  # noqa: PT018
    assert ((rest >= 0) & (rest < 1)).all()
    assert abs(float(torch.corrcoef(torch.stack([label.float(), rest[:, 0]]))[0, 1])) < 0.05


def test_shuffling_tiles_before_the_trunk_is_shuffling_what_it_makes():
    method, given = build(), views()
    order = method.table[method.label(given)[0]]
    mixed = shuffled(given["tiles"], order)
    z = method.tile_head(method.encoder(mixed.flatten(0, 1))).unflatten(0, (9, 6))
    torch.testing.assert_close(method.encode(given, step())["logits"][0], method.head(z.transpose(0, 1).flatten(1)))
    assert torch.equal(shuffled(mixed, order.argsort(1)), given["tiles"])  # argsort puts tiles back


def test_distractors_come_from_the_neighbour_in_the_batch():
    method, given = build(distractors=2), views(512)
    method.tile_head = method.head = Reads()
    method.table = torch.arange(9).expand(72, 9)
    z = method.encode(given, step())["logits"][0].unflatten(1, (9, 3))  # (B, T, number, picture, 1)
    picture = torch.arange(512)
    lent = z[..., 1] != picture[:, None]
    assert set(lent.sum(1).tolist()) == {0, 1, 2}
    assert torch.equal(z[..., 1][lent], (picture ^ 1)[:, None].expand(-1, 9)[lent].float())
    number = torch.arange(9).expand(512, 9)
    assert torch.equal(z[..., 0][~lent], number[~lent].float())
    assert len(set(z[..., 0][lent].tolist())) == 9  # from anywhere in the other picture
    assert (lent.sum(0) > 20).all()  # to anywhere in this one
    whole = {name: x[:, 4:8] for name, x in given.items()}
    torch.testing.assert_close(method.encode(whole, step())["logits"][0].unflatten(1, (9, 3)), z[4:8])
    with pytest.raises(WrongUse, match="choose an even number"):
        method.check(64, 3)
    with pytest.raises(WrongUse, match="more than the 9 tiles"):
        build(distractors=10)


@pytest.mark.parametrize("first", [0, 1])
def test_permutations_are_read_from_a_file(first, tmp_path):
    table = permutations(9, 100, "greedy-mean")
    path = tmp_path / "permutations_100.npy"
    np.save(path, table.numpy().astype("uint8") + first)
    method = build(file=str(path))
    assert torch.equal(method.table, table)
    assert method.head[-1].out_features == 100
    study = method.study(None, None)
    assert study["distances"].tolist() == pytest.approx(distances(table))


def test_files_that_hold_no_permutations_are_refused(tmp_path):
    with pytest.raises(WrongUse, match="no file"):
        read(str(tmp_path / "none.npy"))
    (tmp_path / "text.npy").write_text("no")
    with pytest.raises(WrongUse, match=r"is no \.npy array"):
        read(str(tmp_path / "text.npy"))
    np.save(tmp_path / "twice.npy", np.array([[0, 1, 1, 3]]))
    with pytest.raises(WrongUse, match="holds no permutations"):
        read(str(tmp_path / "twice.npy"))
    np.save(tmp_path / "four.npy", permutations(4, 24).numpy())
    with pytest.raises(WrongUse, match="permutations of 4 tiles, pictures have 9"):
        build(file=str(tmp_path / "four.npy"))


@pytest.mark.parametrize("settings,words", [({"permutations": 1}, "at least 2"), ({"dropout": 1.0}, "below 1")])
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(WrongUse, match=words):
        JigsawConfig(**settings)


def test_views_that_do_not_fit_are_refused():
    run, data = tiny("jigsaw")
    with pytest.raises(WrongUse, match=r"jigsaw reads 0 whole views, not 2: set --views\.views 0"):
        make(replace(run, views=replace(run.views, views=2)), data)
    with pytest.raises(WrongUse, match=r"jigsaw reads tiles: set --views\.tiles\.grid 3"):
        make(replace(run, views=replace(run.views, views=0, tiles=TilesConfig())), data)


def test_solutions_are_framed_right_and_wrong():
    tiles = torch.rand(4, 2, 3, 5, 5)
    order = torch.tensor([[2, 0, 3, 1], [1, 0, 2, 3]])
    answer = torch.tensor([[2, 0, 3, 1], [0, 1, 2, 3]])
    sheet = solution(shuffled(tiles, order), order, answer)
    assert sheet.shape == (2, 3, 15, 15)  # frames of 1 px, a gap of 1
    right, wrong = torch.tensor(RIGHT), torch.tensor(WRONG)
    for place, (y, x) in enumerate([(0, 0), (0, 8), (8, 0), (8, 8)]):
        torch.testing.assert_close(sheet[0, :, y + 1 : y + 6, x + 1 : x + 6], tiles[place, 0])
        torch.testing.assert_close(sheet[0, :, y, x], right)
        torch.testing.assert_close(sheet[1, :, y, x], wrong if place < 2 else right)


def test_a_run_shows_its_puzzles(tmp_path):
    run = replace(tiny("jigsaw")[0], epochs=1.0, steps=0, out=str(tmp_path / "run"), quiet=True)
    assert pretraining.start(run).code == 0
    assert (tmp_path / "run/figures/drawn.png").is_file()
    study = np.load(sorted((tmp_path / "run/study").glob("*.npz"))[-1])
    assert study["permutations"].shape == (12, 4)
    page = report([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "a green frame" in page
    assert "12 permutations, at least 3 and on average 3.273 tiles apart" in page
