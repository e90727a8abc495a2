"""MAE and SimMIM: losses against slow loops, what is hidden stays hidden, who sees which place."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from selfsight import cli, encoders, losses, optim
from selfsight.analysis import save_drawn
from selfsight.augment import POLICIES
from selfsight.augment.masks import Masks
from selfsight.core import Step
from selfsight.encoders import EncoderConfig
from selfsight.encoders.patches import pasted, patchify, sincos, split, take, unpatchify
from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from selfsight.nn import Predictor
from selfsight.recipes import POLICIES_OF, recipe
from test_distillation import at, numbers
from tiny import make, make_double, tiny

BOTH = pytest.mark.parametrize("name", ["mae", "simmim"])


def method_and_views(name: str, count: int = 6, **changes: Any) -> tuple[Any, dict[str, Tensor]]:
    run, data = tiny(name)
    method, _, pictures = make_double(replace(run, method=replace(run.method, **changes)), data)
    draws = method.views.draw(count, torch.Generator().manual_seed(0))
    return method, method.views(pictures.part.gather(torch.arange(count)), draws)


def same_except(x: Tensor, patch: int, places: Tensor) -> Tensor:
    """The pictures with other pixels at these places."""
    return pasted(x, places, torch.rand(*places.shape, patch * patch * x.shape[1]), patch)


# ---------------------------------------------------------------------------------------------- pixels and places


def test_patches_are_rows_of_pixels_by_row_column_channel() -> None:
    x = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8)
    patches = patchify(x, 4)
    assert patches.shape == (2, 4, 48)
    for b, (row, column), i, j, c in ((0, (0, 0), 0, 0, 0), (1, (1, 0), 2, 3, 1), (0, (0, 1), 3, 1, 2)):
        assert patches[b, 2 * row + column, (4 * i + j) * 3 + c] == x[b, c, 4 * row + i, 4 * column + j]
    for patch in (1, 2, 4, 8):
        assert torch.equal(unpatchify(patchify(x, patch), patch), x)


def test_other_pixels_come_to_their_places() -> None:
    x, places = torch.randn(2, 3, 8, 8), torch.tensor([[3, 1], [0, 2]])
    made = torch.randn(2, 2, 48)
    found = patchify(pasted(x, places, made, 4), 4)
    assert torch.equal(take(found, places), made)
    rest = torch.tensor([[0, 2], [1, 3]])
    assert torch.equal(take(found, rest), take(patchify(x, 4), rest))


def test_fixed_positions_by_loops() -> None:
    """Half of the features for the column, half for the row; the class token's are zero."""
    side, dim = 3, 12
    found = sincos(side, dim)
    assert found.shape == (10, 12)
    assert not found[0].any()
    for row in range(side):
        for column in range(side):
            expected = []
            for place in (column, row):
                angles = [place / 10000 ** (i / 3) for i in range(3)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            assert found[1 + side * row + column].tolist() == pytest.approx(expected, abs=1e-6)


def test_fixed_positions_of_an_encoder_are_not_trained() -> None:
    net: Any = encoders.build("vit-toy", 3, 32, EncoderConfig(positions="sincos"))
    assert torch.equal(net.pos_embed[0], sincos(8, 32))
    assert not net.pos_embed.requires_grad
    assert net.pos_embed.shape == encoders.build("vit-toy", 3, 32).pos_embed.shape
    assert all(p is not net.pos_embed for layer in net.layers() for p in layer)
    assert net(torch.randn(2, 3, 24, 24)).shape == (2, 32)
    bound = (6 / (48 + 32)) ** 0.5  # Xavier's, of a layer from 48 numbers to 32
    assert 0.95 * bound < float(net.patch_embed.proj.weight.detach().abs().max()) <= bound
    with pytest.raises(WrongUse, match=r"net\.positions is no setting of resnet18"):
        encoders.build("resnet18", 3, 32, EncoderConfig(positions="sincos"))


def test_the_predictor_is_the_published_decoder() -> None:
    """Mask tokens appended to all places, the order restored, positions added: the same numbers at hidden places."""
    torch.manual_seed(0)
    net = Predictor(6, 5, width=8, depth=2, heads=2).double()
    tokens, noise = torch.randn(3, 1 + 4, 6).double(), torch.rand(3, 16)
    order = noise.argsort(1)
    restore = order.argsort(1)
    assert torch.equal(order.gather(1, restore), torch.arange(16).expand(3, -1))
    keep, hidden = order[:, :4], order[:, 4:].sort(1).values
    x = net.enter(tokens)
    full = torch.cat([x[:, 1:], net.token.expand(3, 12, -1)], 1)
    full = full.gather(1, restore[..., None].expand(-1, -1, 8))
    full = torch.cat([x[:, :1], full], 1) + sincos(4, 8).double()
    expected = net.leave(net.norm(net.blocks(full)))[:, 1:]
    seen = torch.cat([torch.zeros(3, 1, dtype=torch.int64), 1 + keep], 1)
    found = net(tokens, seen, 1 + hidden, 4)
    assert found.shape == (3, 12, 5)
    torch.testing.assert_close(found, take(expected, hidden))
    nothing = torch.zeros(3, 0, dtype=torch.int64)  # a ratio of 0: the order of the input, and nothing to say
    assert net(torch.randn(3, 17, 6).double(), torch.arange(17).expand(3, -1), nothing, 4).shape == (3, 0, 5)
    with pytest.raises(WrongUse, match="multiple of 4"):
        Predictor(6, 5, width=10, depth=1, heads=2)


# ---------------------------------------------------------------------------------------------- masks


def test_random_masks_hide_a_fixed_count() -> None:
    for side, ratio, kept in ((14, 0.75, 49), (8, 0.75, 16), (5, 0.75, 6), (8, 0.6, 25)):
        masks = Masks("random", side, (ratio, ratio), 1.0)
        found = masks.draw(50, 1, torch.Generator().manual_seed(0))[:, 0]
        assert kept == int(side**2 * (1 - ratio) + 1e-9)  # as MAE counts
        assert bool((found.sum(1) == side**2 - kept).all())
        assert masks.most == side**2 - kept
        visible, hidden = split(found, masks.most)
        assert not found.gather(1, visible).any()
        assert found.gather(1, hidden).all()
        assert torch.equal(torch.cat([visible, hidden], 1).sort(1).values, torch.arange(side**2).expand(50, -1))
    share = found.double().mean(0)
    assert float(share.min()) > 0.3
    assert len({tuple(row.tolist()) for row in found}) > 40  # each picture has its own


@pytest.mark.parametrize(("side", "unit", "units"), [(12, 2, 22), (14, 2, 30), (8, 2, 10), (12, 3, 10)])
def test_units_are_hidden_whole(side: int, unit: int, units: int) -> None:
    """SimMIM at 192 px: 22 of 36 squares of 32 px."""
    masks = Masks("random", side, (0.6, 0.6), 1.0, unit)
    found = masks.draw(20, 2, torch.Generator().manual_seed(0)).view(40, side, side)
    squares = found.unflatten(1, (-1, unit)).unflatten(3, (-1, unit))  # (40, n, unit, n, unit)
    assert torch.equal(squares.amax((2, 4)), squares.float().amin((2, 4)).bool())
    assert bool((squares[:, :, 0, :, 0].sum((1, 2)) == units).all())
    assert units == math.ceil(0.6 * (side // unit) ** 2)
    assert masks.most == units * unit**2


def test_wrong_masks_are_refused() -> None:
    def built(name: str, **views: Any) -> None:
        run, data = tiny(name)
        make(replace(run, views=replace(run.views, **views)), data)

    for changes in ({"mask_ratio": (0.5, 0.7)}, {"mask_share": 0.5}, {"mask_ratio": (1.0, 1.0)}):
        with pytest.raises(WrongUse, match=r"mae hides equally many patches.*--views\.mask-share 1"):
            built("mae", **changes)
    with pytest.raises(WrongUse, match=r"mae hides patches: set --views\.mask random"):
        built("mae", mask="block")
    with pytest.raises(WrongUse, match=r"ibot hides patches: set --views\.mask block or random"):
        built("ibot", mask="multiblock")
    with pytest.raises(WrongUse, match="simclr hides no patches: leave out"):
        built("simclr", mask="random")
    with pytest.raises(WrongUse, match="4 patches in a row, which units of 3 do not fill"):
        built("simmim", mask_unit=3)
    with pytest.raises(WrongUse, match="units of 0 do not fill"):
        built("simmim", mask_unit=0)


@BOTH
def test_encoders_that_cannot_hide_are_refused(name: str) -> None:
    run, data = tiny(name)
    with pytest.raises(WrongUse, match=r"convolutions of --net\.conv-stem would carry"):
        make(replace(run, net=EncoderConfig(conv_stem=True)), data)
    with pytest.raises(WrongUse, match=r"filters of --net\.sobel would carry"):
        make(replace(run, net=EncoderConfig(sobel="concat")), data)
    with pytest.raises(WrongUse, match="hides patches, and this encoder has none"):
        make(replace(run, encoder="fastnet-tiny", net=EncoderConfig()), data)


# ---------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("normalise", [True, False])
def test_mae_equals_loops(normalise: bool) -> None:
    prediction, patches = numbers(1, 3, 4, 12), numbers(1, 3, 4, 12, seed=1)
    total = 0.0
    for guess, row in zip(prediction.flatten(0, 2).tolist(), patches.flatten(0, 2).tolist()):
        mean = sum(row) / 12
        variance = sum((x - mean) ** 2 for x in row) / 11
        aim = [(x - mean) / math.sqrt(variance + 1e-6) for x in row] if normalise else row
        total += sum((g - a) ** 2 for g, a in zip(guess, aim)) / 12
    assert losses.mae(prediction, patches, normalise).item() == pytest.approx(total / 12, rel=1e-9)


@pytest.mark.parametrize(("patch", "golden"), [(16, 0.998698), (4, 0.979167)])
def test_predicting_zero_costs_n_minus_one_over_n(patch: int, golden: float) -> None:
    n = 3 * patch**2
    x = torch.randn(2, 5, 7, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert losses.mae(torch.zeros_like(x), x).item() == pytest.approx(golden, abs=3e-6)
    assert (n - 1) / n == pytest.approx(golden, abs=1e-6)
    flat = torch.full((1, 1, 1, n), 0.3)
    assert losses.mae(torch.zeros_like(flat), flat).item() < 1e-5  # a patch of one colour
    method, _ = method_and_views("mae")
    assert method.constant_loss(64) == pytest.approx(47 / 48)
    assert method_and_views("mae", normalise=False)[0].constant_loss(64) is None


def test_simmim_equals_the_published_sums() -> None:
    """sum |x - x'| mask / mask pixels / channels, over whole pictures."""
    x, made = numbers(2, 3, 8, 8), numbers(2, 3, 8, 8, seed=1)
    hidden = torch.tensor([[0, 3], [1, 2]])
    mask = torch.zeros(2, 4, dtype=torch.float64).scatter_(1, hidden, 1).view(2, 1, 2, 2)
    mask = mask.repeat_interleave(4, 2).repeat_interleave(4, 3)
    expected = ((x - made).abs() * mask).sum() / (mask.sum() + 1e-5) / 3
    found = losses.simmim(take(patchify(made, 4), hidden)[None], take(patchify(x, 4), hidden)[None])
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert losses.simmim(*[take(patchify(x, 4), hidden)[None]] * 2) == 0


@BOTH
def test_targets_are_constants_in_full_precision(name: str) -> None:
    loss = getattr(losses, name)
    guess, row = torch.randn(1, 2, 3, 12, requires_grad=True), torch.randn(1, 2, 3, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(guess.bfloat16(), row)
    assert value.dtype == torch.float32
    value.backward()
    assert row.grad is None
    assert guess.grad is not None


# ---------------------------------------------------------------------------------------------- methods


@BOTH
def test_the_loss_is_that_of_hidden_patches_alone(name: str) -> None:
    """In slow steps from the encoder's tokens; and other pixels at visible targets change nothing."""
    method, views = method_and_views(name)
    x, mask = views["global"][0].double(), views["mask"][0]
    out = method.encode(views, at())
    loss = method.loss(out, torch.arange(6), at()).loss
    total = 0.0
    for b in range(6):
        hidden = mask[b].nonzero()[:, 0]
        visible = (~mask[b]).nonzero()[:, 0]
        assert len(hidden) == 12
        if name == "mae":
            tokens = method.encoder.tokens(x[b : b + 1], keep=visible[None])
            seen = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + visible])
            made = method.decoder(tokens, seen[None], 1 + hidden[None], 4)[0]
        else:
            tokens = method.encoder.tokens(x[b : b + 1], mask[b : b + 1], method.mask_token)
            made = method.head(tokens[0, 1:][hidden])
        aim = patchify(x[b : b + 1], 4)[0][hidden]
        if name == "mae":
            aim = (aim - aim.mean(1, keepdim=True)) / (aim.var(1, keepdim=True) + 1e-6).sqrt()
        difference = made - aim
        total += (difference.square() if name == "mae" else difference.abs()).mean().item() / 6
    assert loss.item() == pytest.approx(total, rel=1e-6)


@BOTH
def test_hidden_pixels_do_not_reach_the_prediction(name: str) -> None:
    method, views = method_and_views(name)
    visible, hidden = split(views["mask"][0], method.views.masks.most)
    before = method.encode(views, at())
    x = views["global"][0]
    views["global"] = same_except(x, 4, hidden)[None]
    after = method.encode(views, at())
    assert torch.equal(after["prediction"], before["prediction"])
    assert not torch.equal(after["pixels"], before["pixels"])
    if name == "mae":
        tokens = method.encoder.tokens(x, keep=visible)
        assert torch.equal(method.encoder.tokens(views["global"][0], keep=visible), tokens)
        assert tokens.shape[1] == 1 + 4  # less work: only what is visible goes through the encoder
    views["global"] = same_except(x, 4, visible[:, :1])[None]
    after = method.encode(views, at())
    assert not torch.equal(after["prediction"], before["prediction"])
    assert torch.equal(after["pixels"], before["pixels"])


@BOTH
def test_predictions_belong_to_their_places(name: str) -> None:
    """The gradient of the loss by the target, patch by patch, is where the mask is."""
    method, views = method_and_views(name)
    hidden = split(views["mask"][0], method.views.masks.most)[1]
    out = method.encode(views, at())
    torch.testing.assert_close(out["pixels"][0], take(patchify(views["global"][0], 4), hidden))
    assert torch.equal(views["mask"][0].nonzero()[:, 1].view(6, -1), hidden)


def test_a_mask_token_stands_before_the_positions() -> None:
    """Two hidden patches of one picture differ by their positions alone; without them they are equal."""
    method, views = method_and_views("simmim")
    net = method.encoder.net
    with torch.no_grad():
        apart = method.encode(views, at())["prediction"][0]
        net.pos_embed.zero_()
        alike = method.encode(views, at())["prediction"][0]
    assert float((apart - apart[:, :1]).abs().max()) > 1e-4
    torch.testing.assert_close(alike, alike[:, :1].expand_as(alike))


@BOTH
def test_reconstructions_keep_what_is_visible(name: str) -> None:
    method, views = method_and_views(name)
    x, mask = views["global"][0], views["mask"][0]
    drawn = method.pictures(views)
    assert list(drawn) == ["picture", "visible", "reconstruction"]
    assert torch.equal(drawn["picture"], x)
    grid = mask.view(6, 1, 4, 4).double()
    shown = F.interpolate(grid, scale_factor=4).bool().expand_as(x)
    assert not drawn["visible"][shown].any()
    for kind in ("visible", "reconstruction"):
        assert torch.equal(drawn[kind][~shown], x[~shown])
    made, hidden = patchify(drawn["reconstruction"], 4), split(mask, method.views.masks.most)[1]
    made = take(made, hidden)
    expected = method.encode(views, at())["prediction"][0]
    if name == "mae":
        true = take(patchify(x, 4), hidden)
        expected = expected * true.std(-1, keepdim=True) + true.mean(-1, keepdim=True)
    torch.testing.assert_close(made, expected.float())


def test_any_encoder_with_tokens_and_any_number_of_channels() -> None:
    class Set:
        channels, image_size, classes = 1, 16, 0

    kind: Any = METHODS["mae"]
    method = kind(kind.Config(width=16, depth=1, heads=2), encoders.build("vit-toy", 1, 16), Set())
    assert method.decoder.leave.out_features == 16


@BOTH
def test_the_figure_shows_pictures_what_was_visible_and_reconstructions(name: str, tmp_path: Path) -> None:
    run, data = tiny(name)
    method, _, pictures = make(run, data)
    save_drawn(pictures, method.train(), 3, tmp_path / "drawn.png", count=4)
    assert method.training
    zoom, cell = 6, 6 * 16 + 4
    image = np.array(Image.open(tmp_path / "drawn.png")).astype(int)
    assert image.shape == (18 + 4 * cell - 4, 3 * cell - 4, 3)
    for row in range(4):
        top = 18 + row * cell
        whole, seen, made = (image[top : top + 96, i * cell : i * cell + 96][::zoom, ::zoom] for i in range(3))
        mean = (method.views.mean * 255).round().int().numpy()
        gray = (np.abs(seen - mean) <= 1).all(2).reshape(4, 4, 4, 4).all((1, 3))
        assert gray.sum() == method.views.masks.most  # hidden patches have the mean colour
        shown = ~gray.repeat(4, 0).repeat(4, 1)
        for other in (seen, made):
            assert (other[shown] == whole[shown]).all()
        assert np.abs(made - whole)[~shown].max() > 3
    save_drawn(pictures, method, 3, tmp_path / "again.png", count=4)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "drawn.png").read_bytes()


@pytest.mark.parametrize(("name", "expected"), [("mae", True), ("ijepa", False)])
def test_the_report_shows_what_a_method_draws(name: str, expected: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = f"pretrain {name} --recipe tiny --steps 1 --probe.every -1 --threads 1 --quiet --out {run}"
    assert cli.run(command.split()) == 0
    assert (run / "figures/drawn.png").is_file() == expected
    assert ('<img class="drawn"' in (run / "report.html").read_text()) == expected


def test_recipes_on_imagenet_are_the_papers() -> None:
    """Specification, sections 12, 13 and 16."""
    mae, simmim, ijepa = (recipe(name, "imagenet") for name in ("mae", "simmim", "ijepa"))
    assert {run.encoder for run in (mae, simmim, ijepa)} == {"vit-base"}
    assert [(run.batch_size, run.epochs) for run in (mae, simmim, ijepa)] == [(4096, 800), (2048, 800), (2048, 600)]
    peaks = [optim.peak_rate(run.optimizer, int(run.batch_size)) for run in (mae, simmim, ijepa)]
    assert peaks == pytest.approx([1.5e-4 * 16, 1e-4 * 4, 1e-3])
    assert [run.optimizer.betas for run in (mae, simmim, ijepa)] == [(0.9, 0.95), (0.9, 0.999), (0.9, 0.999)]
    assert [run.optimizer.weight_decay for run in (mae, simmim, ijepa)] == [0.05, 0.05, 0.04]
    assert (simmim.optimizer.clip_norm, ijepa.optimizer.weight_decay_end) == (5.0, 0.4)
    assert [run.schedule.warmup_epochs for run in (mae, simmim, ijepa)] == [40, 10, 40]
    per_epoch = 1_281_167 // 2048
    for index, rate in ((0, 2e-4), (40 * per_epoch, 1e-3), (600 * per_epoch, 1e-6)):
        step = Step(index, 600 * per_epoch, per_epoch, torch.Generator())
        assert 1e-3 * optim.factor(ijepa.schedule, step) == pytest.approx(rate)
    step = Step(700 * per_epoch, 800 * per_epoch, per_epoch, torch.Generator())
    assert optim.factor(simmim.schedule, step) == pytest.approx(0.1)
    for run in (mae, simmim, ijepa):
        for short in ("tiny", "shapes", "cifar10-cpu", "cifar10-200", "cifar10-1000", "imagenet", "any"):
            views = recipe(run.method_name, short).views
            small = run is simmim and short in ("shapes", "cifar10-cpu")  # single patches, as many as of MAE
            like = mae if small else run
            assert (views.mask, views.mask_ratio, views.mask_unit) == (
                like.views.mask, like.views.mask_ratio, like.views.mask_unit
            )  # fmt: skip
            assert not POLICIES[POLICIES_OF[run.method_name][0]][0].colour_operations()
            assert views.policy in ("auto", run.method_name)
