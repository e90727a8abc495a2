"""CPC: its patch encoder, that contexts see nothing below, its loss against slow loops, the directions, no leak."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfsight import encoders
from selfsight.core import Step
from selfsight.encoders import EncoderConfig
from selfsight.errors import WrongUse
from selfsight.losses import cpc
from selfsight.methods.cpc import CPC, CPCConfig, Direction
from selfsight.recipes import recipe, resolve
from selfsight.recipes.common import patches
from tiny import make, make_double, tiny


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at() -> Step:
    return Step(0, 100, 10, torch.Generator().manual_seed(7))


def built(name: str = "cpc-toy", side: int = 32, channels: int = 3, **config: Any) -> Any:
    torch.manual_seed(0)
    return encoders.build(name, channels, side, EncoderConfig(**config)).eval()


# ---------------------------------------------------------------------------------------------- encoder


@pytest.mark.parametrize(("side", "cell"), [(16, 8), (32, 8), (64, 16), (96, 24), (128, 32), (256, 64)])
def test_patches_are_a_quarter_of_the_picture(side: int, cell: int) -> None:
    net = built(side=side)
    assert (net.cell, net.least) == (cell, cell)
    with torch.no_grad():
        assert net(torch.randn(3, 3, cell, cell)).shape == (3, net.dim)


@pytest.mark.parametrize("side", [8, 30, 32, 33, 46])
def test_a_picture_is_the_mean_over_patches_that_overlap_by_half(side: int) -> None:
    net, x = built().double(), numbers(2, 3, side, side)
    steps = math.ceil((side - 8) / 4)
    start = [round(i * (side - 8) / max(1, steps)) for i in range(steps + 1)]
    if side == 32:
        assert start == [0, 4, 8, 12, 16, 20, 24]
    z = torch.stack([net(x[:, :, i : i + 8, j : j + 8]) for i in start for j in start])
    torch.testing.assert_close(net(x), z.mean(0))


@pytest.mark.parametrize("name", encoders.cpc.SHAPES)
def test_no_batch_normalisation_and_the_depth_that_it_says(name: str) -> None:
    with torch.device("meta"):
        net = built(name, 64)
    shape = encoders.cpc.SHAPES[name]
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
    assert len(encoders.blocks_of(net)) == sum(shape.blocks)
    assert net.dim == shape.dim


def test_a_patch_does_not_see_other_patches() -> None:
    net = built().double().train()
    x = numbers(6, 3, 8, 8).requires_grad_()
    (g,) = torch.autograd.grad(net(x)[2].sum(), x)
    assert g[2].abs().sum() > 0
    assert g[[0, 1, 3, 4, 5]].abs().sum() == 0


# ---------------------------------------------------------------------------------------------- context


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_the_context_sees_nothing_below(blocks: int) -> None:
    """By gradient: row i sees rows i - blocks to i, and columns up to `blocks` away."""
    torch.manual_seed(0)
    net = Direction(CPCConfig(blocks=blocks, width=16, dim=8), range(2, 6), 12).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    z = numbers(2, 12, 7, 7).requires_grad_()
    context = net.context[:-1](z)  # before the last ReLU, which could hide a dependence
    for i in range(7):
        for j in (0, 3, 6):
            (g,) = torch.autograd.grad(context[0, :, i, j].sum(), z, retain_graph=True)
            seen = g[0].abs().sum(0) > 0  # (7, 7)
            assert not seen[i + 1 :].any()
            assert not seen[: max(0, i - blocks)].any()
            assert seen[i, j]
            assert seen[max(0, i - blocks), j]
            columns = torch.arange(7)
            assert not seen[:, (columns - j).abs() > blocks].any()
            assert g[1].abs().sum() == 0


def test_predictions_come_from_rows_above_their_targets() -> None:
    torch.manual_seed(0)
    net = Direction(CPCConfig(blocks=2, width=8, dim=4), range(2, 4), 6).double()
    z = numbers(1, 6, 5, 4).requires_grad_()
    target, two, three = net(z)
    assert target.shape == (1, 5, 4, 4)
    assert two.shape == (1, 3, 4, 4)
    assert three.shape == (1, 2, 4, 4)
    for k, told in ((2, two), (3, three)):
        for i in range(5 - k):
            (g,) = torch.autograd.grad(told[0, i].square().sum(), z, retain_graph=True)
            assert g[0, :, i + 1 :].abs().sum() == 0
    assert net.predict[0].weight is not net.predict[1].weight


# ---------------------------------------------------------------------------------------------- loss


def slow(prediction: Tensor, target: Tensor, rows: list[int]) -> float:
    n, high, wide, _ = target.shape
    k = high - prediction.shape[1]
    total, count = 0.0, 0
    for b, own in enumerate(rows):
        for i in range(high - k):
            for j in range(wide):
                scores = [
                    float(prediction[b, i, j] @ target[m, r, c])
                    for m in range(n)
                    for r in range(high)
                    for c in range(wide)
                ]
                label = own * high * wide + (i + k) * wide + j
                total += math.log(sum(math.exp(s) for s in scores)) - scores[label]
                count += 1
    return total / count


@pytest.mark.parametrize(("rows", "k"), [(None, 1), (None, 2), ([1, 2], 2), ([2, 0], 3)])
def test_the_loss_equals_loops(rows: list[int] | None, k: int) -> None:
    prediction, target = numbers(2, 4 - k, 3, 5), numbers(3, 4, 3, 5, seed=1)
    given = None if rows is None else torch.tensor(rows)
    assert float(cpc(prediction, target, given)) == pytest.approx(slow(prediction, target, rows or [0, 1]), rel=1e-10)


def test_the_positive_is_the_place_k_rows_below() -> None:
    """B = 2, 7 x 7, k = 3: targets that are one-hot codes of their places, predictions of the right ones."""
    codes = 40 * torch.eye(98, dtype=torch.float64).view(2, 7, 7, 98)
    assert float(cpc(codes[:, 3:], codes)) < 1e-12
    assert float(cpc(codes[:, :-3], codes)) > 40


@pytest.mark.parametrize("batch", [2, 5])
def test_equal_targets_have_the_loss_of_guessing(batch: int) -> None:
    target = torch.ones(batch, 7, 7, 8, dtype=torch.float64)
    assert float(cpc(numbers(batch, 4, 7, 8), target)) == pytest.approx(math.log(batch * 49), rel=1e-12)


def test_both_sides_get_gradients() -> None:
    a, b = numbers(2, 2, 3, 4).requires_grad_(), numbers(2, 4, 3, 4, seed=1).requires_grad_()
    cpc(a, b).backward()
    for x in (a, b):
        assert x.grad is not None
        assert bool((x.grad.abs().sum(-1) > 0).all())


# ---------------------------------------------------------------------------------------------- method


def method_of(grid: int = 5, encoder: str = "cpc-toy", **changes: Any) -> tuple[Any, Any]:
    run, data = tiny("cpc")
    run = replace(
        run,
        encoder=encoder,
        method=replace(run.method, **changes),
        views=replace(run.views, tiles=patches(8, grid=grid, stride=2)),
    )
    method, _, pictures = make_double(run, data)
    return method, pictures


def views(method: Any, pictures: Any, count: int = 4) -> dict[str, Tensor]:
    return method.views(
        pictures.part.gather(torch.arange(count)), method.views.draw(count, torch.Generator().manual_seed(0))
    )


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("directions", [1, 4])
def test_the_method_is_all_offsets_in_all_directions(directions: Any, shared: bool) -> None:
    method, pictures = method_of(furthest=3, directions=directions, shared=shared)
    assert len(method.heads) == (1 if shared else directions)
    made = views(method, pictures)
    found = method(made, torch.arange(4), at()).loss.detach()
    tiles, encoder = made["tiles"], method.encoder
    z = torch.stack([encoder(tile) for tile in tiles]).view(5, 5, 4, -1).permute(2, 3, 0, 1)  # (B, D, H, W)
    parts = []
    for turn in range(directions):
        target, *told = method.heads[0 if shared else turn](torch.rot90(z, turn, (2, 3)))
        parts += [slow(p.detach(), target.detach(), [0, 1, 2, 3]) for p in told]
    assert len(parts) == 2 * directions
    assert float(found) == pytest.approx(sum(parts) / len(parts), rel=1e-9)


def test_four_turns_are_none() -> None:
    z = numbers(2, 3, 5, 5)
    turned = z
    for _ in range(4):
        turned = turned.rot90(1, (2, 3))
    assert torch.equal(turned, z)
    assert torch.equal(z.rot90(2, (2, 3))[:, :, 0, 0], z[:, :, -1, -1])


def test_a_single_offset() -> None:
    method, pictures = method_of(nearest=3, furthest=3)
    out = method.encode(views(method, pictures), at())
    assert set(out) == {"target", "below3"}
    assert out["target"].shape == (4, 4, 5, 5, 16)
    assert out["below3"].shape == (4, 4, 2, 5, 16)


@pytest.mark.parametrize(
    ("grid", "furthest", "expected"), [(3, 5, [2]), (5, 5, [2, 3, 4]), (7, 5, [2, 3, 4, 5]), (7, 3, [2, 3])]
)
def test_offsets_reach_as_far_as_the_grid(grid: int, furthest: int, expected: list[int]) -> None:
    method, _ = method_of(grid, furthest=furthest)
    assert list(method.offsets) == expected


def test_untrained_it_guesses() -> None:
    """The small scale: the first loss is nearly that of equal scores."""
    method, pictures = method_of(furthest=4)
    found = float(method(views(method, pictures, 16), torch.arange(16), at()).loss)
    assert found == pytest.approx(method.constant_loss(16), abs=0.05)
    assert method.constant_loss(16) == math.log(16 * 25)


def test_tiles_lie_where_the_grid_says() -> None:
    """An index ramp: patch (r, c) begins at (r s, c s), but for the random border of a pixel."""
    run, data = tiny("cpc")
    tiles = replace(patches(8, grid=3), per_tile=False)
    run = replace(run, views=replace(run.views, policy="none", normalise=False, shared_flip=False, tiles=tiles))
    method, _, _ = make(run, data)
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    found = method.views(ramp, method.views.draw(1, torch.Generator().manual_seed(0)))["tiles"]
    assert found.shape == (9, 1, 3, 8, 8)
    for t, tile in enumerate(found[:, 0, 0] * 255):
        inside = tile[tile.sum(1) > 0][:, tile.sum(0) > 0]
        top, left = divmod(round(float(inside[0, 0])), 16)
        assert top - t // 3 * 4 in (0, 1)
        assert left - t % 3 * 4 in (0, 1)
        steps = inside - inside[0, 0]
        assert torch.allclose(steps, (16 * torch.arange(7)[:, None] + torch.arange(7)).float(), atol=1e-3)


def test_a_picture_of_patches_is_mirrored_as_a_whole_and_coloured_patch_by_patch() -> None:
    run, data = tiny("cpc")
    method, _, _ = make(run, data)
    group = method.views.groups[0]
    assert group.policies[0].flip == 0.5
    assert group.policies[0].jitter == group.policies[0].gray == 0
    each = method.views.tiles.each.policies[0]
    assert (each.flip, each.shift) == (0, 0)
    assert each.jitter == 0.8
    assert each.gray == 0.25


def test_encoders_that_leak_and_grids_that_are_too_small_are_refused() -> None:
    with pytest.raises(WrongUse, match=r"batch normalisation.*cpc-small"):
        CPC(CPCConfig(), encoders.build("resnet18", 3, 32), None)  # type: ignore[arg-type]
    run, data = tiny("cpc")
    make(run, data, encoders.build("resnet18", 3, 16, EncoderConfig(norm="group")))
    with pytest.raises(WrongUse, match=r"method\.nearest is 3, and the grid has 3 rows"):
        make(replace(run, method=replace(run.method, nearest=3, furthest=3)), data)
    with pytest.raises(WrongUse, match=r"tiles have 12 px and the encoder's patches 8: set --net\.patch 12"):
        make(replace(run, views=replace(run.views, tiles=patches(12, grid=3))), data)
    with pytest.raises(WrongUse, match=r"method\.furthest 1 is below method\.nearest 2"):
        CPCConfig(furthest=1)


@pytest.mark.parametrize("side", [32, 64, 96, 224])
def test_patches_follow_the_pictures(side: int) -> None:
    run, choices = resolve(recipe("cpc", "any"), pictures=3000, image_size=side, channels=3, cuda=True)
    assert run.views.tiles == patches(side // 4)
    assert any(choice.startswith(f"tiles {side // 4}: ") for choice in choices)
    again, more = resolve(run, pictures=3000, image_size=side, channels=3, cuda=True)
    assert again == run
    assert more == []
