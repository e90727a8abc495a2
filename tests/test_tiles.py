"""Tiles: places, colours, independence of the batch, workers, preview, settings."""

from dataclasses import replace

import pytest
import torch

from selfsight.augment import TilesConfig, ViewsConfig, build, preview
from selfsight.augment.sheet import puzzle
from selfsight.augment.tiles import shuffled, standardised
from selfsight.cli import main
from selfsight.errors import WrongUse
from selfsight.run import DEFAULT, from_dict, read_yaml, to_yaml

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def make(policy="none", side=48, views=0, gray=None, **tiles):
    config = ViewsConfig(policy=policy, views=views, gray=gray, tiles=TilesConfig(**{"grid": 3, **tiles}))
    return build(config, side, 3, MEAN, STD)


def coordinates(count=64, side=48):
    """Pictures whose channels are row, column and row again."""
    line = torch.arange(side, dtype=torch.uint8)
    rows, columns = line[:, None].expand(side, side), line.expand(side, side)
    return torch.stack([rows, columns, rows]).expand(count, 3, side, side)


def origins(tiles):
    """(T, B, C, t, t) normalised coordinates -> (T, B, C) of the first pixel."""
    return ((tiles * STD[:, None, None] + MEAN[:, None, None]) * 255).round().long()[..., 0, 0]


def test_tiles_are_windows_of_the_picture_at_places_in_their_cells():
    views = make(cell=16, size=12)
    tiles = views(coordinates(), views.draw(64, rng()))["tiles"]
    assert tiles.shape == (9, 64, 3, 12, 12)
    pixels = ((tiles * STD[:, None, None] + MEAN[:, None, None]) * 255).round().long()
    at = pixels[..., 0, 0]
    line = torch.arange(12)
    assert (pixels[:, :, 0] == at[:, :, 0, None, None] + line[:, None]).all()  # a window: rows go down,
    assert (pixels[:, :, 1] == at[:, :, 1, None, None] + line).all()  # columns to the right
    for t in range(9):
        for axis, cell in ((0, t // 3), (1, t % 3)):
            assert set((at[t, :, axis] - 16 * cell).tolist()) == set(range(5))  # every offset in 0..cell - tile


def test_cells_may_overlap():
    views = make(side=32, grid=7, cell=8, stride=4, size=8)
    tiles = views(coordinates(2, 32), views.draw(2, rng()))["tiles"]
    want = torch.cartesian_prod(4 * torch.arange(7), 4 * torch.arange(7))
    assert torch.equal(origins(tiles)[:, 0, :2], want)


def test_channels_move_apart_and_stay_in_the_cell():
    views = make(cell=16, size=12, shift=1)
    at = origins(views(coordinates(512), views.draw(512, rng()))["tiles"])
    assert set((at[:, :, 0] - at[:, :, 2]).flatten().tolist()) == {-2, -1, 0, 1, 2}  # rows in two channels
    inside = at[:, :, 0] - 16 * (torch.arange(9) // 3)[:, None]
    assert set(inside.flatten().tolist()) == set(range(5))
    with pytest.raises(WrongUse, match="do not fit into cells of 16"):
        make(cell=16, size=13, shift=2)


def test_value_shift_adds_an_integer_to_each_channel():
    views = make(cell=16, size=16, value_shift=(-2, 1))
    gray = torch.full((50, 3, 48, 48), 100, dtype=torch.uint8)
    tiles = views(gray, views.draw(50, rng()))["tiles"]
    values = ((tiles * STD[:, None, None] + MEAN[:, None, None]) * 255).round().long()
    assert (values == values[..., :1, :1]).all()
    assert set(values.flatten().tolist()) == {98, 99, 100, 101}


def test_standardised_tiles_have_mean_0_and_deviation_1():
    views = make(policy="simclr-cifar", cell=16, size=12, standardise=True)
    pictures = torch.randint(0, 256, (8, 3, 48, 48), generator=rng(), dtype=torch.uint8)
    pictures[0] = 77
    tiles = views(pictures, views.draw(8, rng()))["tiles"]
    assert tiles.mean((3, 4)).abs().max() < 1e-5
    torch.testing.assert_close(tiles[:, 1:].std((3, 4), correction=0), torch.ones(9, 7, 3))
    assert tiles[:, 0].abs().max() < 0.1  # no contrast: not blown up
    assert (standardised(torch.full((2, 5, 5), 0.3)).abs() < 1e-6).all()


def test_padding_puts_tiles_into_the_middle_of_their_cell():
    bare, padded = (make(cell=16, size=12, pad=pad) for pad in (False, True))
    assert padded.shapes == {"tiles": (9, 16)}
    draws = bare.draw(4, rng())
    tiles, wide = (v(coordinates(4), draws)["tiles"] for v in (bare, padded))
    assert wide.shape[-2:] == (16, 16)
    assert torch.equal(wide[..., 2:14, 2:14], tiles)
    wide[..., 2:14, 2:14] = 0
    assert not wide.any()


@pytest.mark.parametrize("per_tile", [False, True])
def test_colours_are_drawn_once_or_for_each_tile(per_tile):
    views = make(gray=0.5, cell=16, size=12, per_tile=per_tile)
    tint = torch.tensor([200, 90, 30], dtype=torch.uint8)[:, None, None].expand(100, 3, 48, 48)
    tiles = views(tint, views.draw(100, rng()))["tiles"]
    pixels = tiles * STD[:, None, None] + MEAN[:, None, None]
    gray = (pixels[:, :, 0] - pixels[:, :, 1]).abs().amax((2, 3)) < 1e-3  # (T, B)
    assert 0.3 < gray.float().mean() < 0.7
    mixed = (gray != gray[:1]).any(0).float().mean()
    assert mixed > 0.9 if per_tile else mixed == 0


@pytest.mark.parametrize("per_tile", [False, True])
def test_a_flip_of_the_picture_moves_tiles_and_a_flip_of_a_tile_does_not(per_tile):
    views = make(policy="plain", cell=16, size=16, per_tile=per_tile, scale=(1.0, 1.0))
    group = views.tiles.each or views.tiles.group
    changed = replace(group, policies=(replace(group.policies[0], flip=1.0, jitter=0.0, blur=0.0, ratio=(1.0, 1.0)),))
    if per_tile:
        views.tiles.each = changed
    else:
        views.groups = (changed,)
        views.tiles.group = changed
    at = origins(views(coordinates(2), views.draw(2, rng()))["tiles"])[:, 0, 1]  # first column of each tile
    want = [15, 31, 47] * 3 if per_tile else [47, 31, 15] * 3
    assert at.tolist() == want


@pytest.mark.parametrize("exact", ["fast", "exact"])
@pytest.mark.parametrize("per_tile", [False, True])
def test_a_batch_is_its_pictures_one_by_one(per_tile, exact):
    tiles = TilesConfig(grid=2, cell=16, size=12, shift=1, per_tile=per_tile, scale=(0.4, 1.0), value_shift=(-2, 1))
    views = build(ViewsConfig(policy="simclr", colour=exact, views=1, tiles=tiles), 32, 3, MEAN, STD)
    pictures = torch.randint(0, 256, (6, 3, 40, 36), generator=rng(), dtype=torch.uint8)
    draws = views.draw(6, rng())
    whole = views(pictures, draws)
    for i in range(6):
        one = views(pictures[i : i + 1], {name: u[i : i + 1] for name, u in draws.items()})
        for name in ("global", "tiles", "shuffle"):
            torch.testing.assert_close(one[name], whole[name][:, i : i + 1], atol=2e-4, rtol=0)


def test_decoding_workers_cut_the_picture_of_the_tiles():
    views = make(policy="simclr-cifar", views=1, cell=16, size=12, per_tile=True)
    pictures = torch.randint(100, 150, (4, 3, 60, 70), generator=rng(), dtype=torch.uint8)
    draws = views.draw(4, rng())
    crops = [views.cut(p, {name: u[i] for name, u in draws.items()}) for i, p in enumerate(pictures)]
    ahead = {name: torch.stack([c[name] for c in crops], 1) for name in crops[0]}
    assert ahead["tiles"].shape == (1, 4, 3, 48, 48)
    there, here = views(ahead, draws), views(pictures, draws)
    for name in ("global", "tiles"):
        assert (there[name] - here[name]).abs().mean() < 0.05  # crops are rounded to 8 bit on the way


def test_other_views_do_not_change_with_tiles():
    plain = build(ViewsConfig(policy="simclr-cifar", views=2), 32, 3, MEAN, STD)
    tiled = make(policy="simclr-cifar", side=32, views=2)
    assert torch.equal(plain.draw(5, rng())["global"], tiled.draw(5, rng())["global"])
    assert tiled.shapes == {"global": (2, 32), "tiles": (9, 12)}  # cells of at least 16 px


def test_shuffled_tiles_come_back():
    views = make(cell=16, size=12)
    made = views(coordinates(7), views.draw(7, rng()))
    order = made["shuffle"][0].argsort(1)
    assert {tuple(sorted(row.tolist())) for row in order} == {tuple(range(9))}
    assert len(order.unique(dim=0)) > 1
    mixed = shuffled(made["tiles"], order)
    assert torch.equal(mixed[2, 3], made["tiles"][order[3, 2], 3])
    assert torch.equal(shuffled(mixed, order.argsort(1)), made["tiles"])


def test_the_preview_shows_puzzles():
    views = make(side=48, cell=16, size=16)
    pictures = torch.randint(0, 256, (2, 3, 48, 48), generator=rng(), dtype=torch.uint8)
    sheet = preview(views, pictures, rng(), gap=2)
    assert sheet.shape == (3, 2 * 52, 3 * 52)
    solved = sheet[:, :50, 52:102]
    assert torch.equal(solved[:, :16, :16], pictures[0, :, :16, :16])
    assert torch.equal(solved[:, 34:, 17:33], pictures[0, :, 32:, 16:32])
    assert (solved[:, 16] == 255).all()  # the gap
    unsolved = sheet[:, :50, 104:154]
    assert not torch.equal(unsolved, solved)
    assert torch.equal(unsolved.flatten().sort().values, solved.flatten().sort().values)
    assert puzzle(torch.zeros(4, 1, 1, 3, 3)).shape == (1, 1, 7, 7)


def test_settings_survive_yaml_and_the_command_line(capsys):
    run = replace(DEFAULT, views=replace(DEFAULT.views, tiles=TilesConfig(grid=3, value_shift=(-2, 1))))
    assert from_dict(read_yaml(to_yaml(run), "text")) == run
    with pytest.raises(SystemExit):
        main(["pretrain", "simclr", "--recipe", "tiny", "--views.tiles.grid", "3", "--out", "never"])
    assert "simclr reads no tiles: leave out --views.tiles.grid" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings,words",
    [
        ({"grid": -1}, "grid is -1, must not be negative"),
        ({"value_shift": (1, -2)}, "is not a range"),
        ({"scale": (0.0, 1.0)}, "is not a range of areas"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(WrongUse, match=words):
        TilesConfig(**settings)


def test_views_may_be_left_out_for_tiles_only():
    assert set(make().draw(2, rng())) == {"tiles", "tile", "shuffle"}
    with pytest.raises(WrongUse, match="views is 0; give at least 1"):
        build(ViewsConfig(policy="none", views=0), 32, 3, MEAN, STD)
