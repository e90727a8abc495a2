"""Attention maps: the class token's row, upsampled; masks of mass against a slow loop; the figure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import selfsight
from selfsight import cli, encoders
from selfsight.analysis import attention_maps, mass_mask, save_attention
from selfsight.checkpoint import Encoder
from selfsight.errors import WrongUse
from tiny import make, tiny


def vit(**config: Any) -> Any:
    torch.manual_seed(0)
    net = encoders.build("vit-toy", 3, 32, encoders.EncoderConfig(**config)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@torch.no_grad()
def test_maps_are_the_row_of_the_class_token() -> None:
    net, x = vit(), torch.randn(2, 3, 32, 32)
    maps, whole = attention_maps(net, x), net.attention(x)
    assert maps.shape == (2, 2, 32, 32)
    for row, column in ((0, 0), (5, 30), (31, 8)):
        patch = row // 4 * 8 + column // 4
        assert torch.equal(maps[..., row, column], whole[:, :, 0, 1 + patch])
    small = attention_maps(net, x, upsample=False)
    assert torch.equal(small, maps[..., ::4, ::4])
    assert torch.allclose(small.sum((-2, -1)), 1 - whole[:, :, 0, 0])
    assert not maps.requires_grad


@torch.no_grad()
def test_other_sizes_are_cut_to_whole_patches() -> None:
    net, x = vit(), torch.randn(1, 3, 19, 34)
    assert torch.equal(attention_maps(net, x), attention_maps(net, x[..., :16, :32]))
    assert attention_maps(net, x).shape == (1, 2, 16, 32)


@torch.no_grad()
def test_a_loaded_encoder_normalises() -> None:
    net, x = vit(), torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1])
    loaded = Encoder(net, mean, std, {})
    normal = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert torch.equal(attention_maps(loaded, x), attention_maps(net, normal))


def test_others_have_none() -> None:
    net = encoders.build("fastnet-tiny", 3, 32)
    with pytest.raises(WrongUse, match="has no attention maps: give a vision transformer"):
        attention_maps(net, torch.randn(1, 3, 32, 32))


def test_mass_mask_by_hand() -> None:
    maps = torch.tensor([[0.1, 0.5], [0.25, 0.15]])
    assert mass_mask(maps, 0.6).tolist() == [[False, True], [True, False]]  # .5 is too little, .75 enough
    assert mass_mask(maps, 0.49).tolist() == [[False, True], [False, False]]
    assert mass_mask(maps, 0.89).tolist() == [[False, True], [True, True]]
    assert torch.equal(mass_mask(7 * maps, 0.6), mass_mask(maps, 0.6))  # shares count


@pytest.mark.parametrize("mass", [0.2, 0.6, 0.95])
def test_mass_mask_keeps_the_fewest_places_that_hold_the_mass(mass: float) -> None:
    maps = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masks = mass_mask(maps, mass)
    assert masks.shape == maps.shape
    for values, mask in zip(maps.flatten(0, 1).flatten(1), masks.flatten(0, 1).flatten(1)):
        total, held, count = float(values.sum()), 0.0, 0
        for value in sorted(values.tolist(), reverse=True):
            if held >= mass * total:
                break
            held, count = held + value, count + 1
        assert int(mask.sum()) == count
        assert values[mask].min() > values[~mask].max()


def test_the_figure_shows_pictures_and_heads(tmp_path: Path) -> None:
    run, data = tiny("simclr", encoder="vit-toy")
    method, _, pictures = make(run, data)
    method.train()
    save_attention(pictures, method.encoder, 3, tmp_path / "attention.png", count=5)
    assert method.encoder.training
    size = data.image_size
    zoom = 96 // size
    image = np.array(Image.open(tmp_path / "attention.png"))
    cell = zoom * size + 4
    assert image.shape == (18 + 5 * cell - 4, 4 * cell - 4, 3)  # picture, mean, two heads
    tiles = image[18 : 18 + zoom * size, : zoom * size][::zoom, ::zoom]
    everything = data.train.gather(torch.arange(len(data.train)))
    originals = everything.pixels.permute(0, 2, 3, 1).numpy()
    assert (np.abs(originals.astype(int) - tiles.astype(int)).max((1, 2, 3)) <= 1).any()  # a training picture
    for column in (1, 2, 3):  # each map spans the whole range of colours, a colour per patch
        shown = image[18 : 18 + zoom * size, column * cell : column * cell + zoom * size]
        colours = {tuple(c) for c in shown.reshape(-1, 3).tolist()}
        assert {(68, 1, 84), (253, 231, 37)} <= colours
        assert (shown[: 4 * zoom, : 4 * zoom] == shown[0, 0]).all()
    save_attention(pictures, method.encoder, 3, tmp_path / "again.png", count=5)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "attention.png").read_bytes()


@pytest.mark.parametrize(("encoder", "expected"), [("vit-toy", True), ("fastnet-tiny", False)])
def test_a_run_with_a_transformer_shows_its_attention(encoder: str, expected: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = (
        f"pretrain simclr --recipe tiny --encoder {encoder} --steps 1 --probe.every -1 --threads 1 --quiet --out {run}"
    )
    assert cli.run(command.split()) == 0
    assert (run / "figures/attention.png").is_file() == expected
    assert ('<img class="attention"' in (run / "report.html").read_text()) == expected
    if expected:
        assert attention_maps(selfsight.load(run), torch.rand(1, 3, 32, 32)).shape == (1, 2, 32, 32)
