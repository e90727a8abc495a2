"""views["place"]: what a view shows is where it says, for whole pictures and for crops that workers cut."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from selfsight import augment
from selfsight.augment import ViewsConfig
from selfsight.augment.views import Crops
from selfsight.core import Images
from selfsight.data.feed import Decoded
from selfsight.data.store import padded
from selfsight.errors import WrongUse
from selfsight.rng import Stream, generator

PLAIN: dict[str, Any] = {"policy": "plain", "strength": 0.0, "gray": 0.0, "blur": 0.0, "normalise": False}
SIZES = [(40, 64), (64, 40), (48, 48), (33, 57)]


def ramp(height: int, width: int) -> Tensor:
    """A picture whose colours are its places: (3, H, W) uint8, red x and green y in 0..1 of its width and height."""
    x, y = (torch.arange(width) + 0.5) / width, (torch.arange(height) + 0.5) / height
    return (torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), 0 * x.expand(height, -1)]) * 255).byte()


def crops(**settings: Any) -> Crops:
    config = ViewsConfig(**{**PLAIN, "places": True, "views": 2, **settings})
    return augment.build(config, 24, 3, torch.zeros(3), torch.ones(3))


def shown(views: Tensor) -> Tensor:
    """Places that ramps show: the two corners, of a straight line through the pixels inside: (V, B, 4)."""
    size = views.shape[-1]
    x, y = views[:, :, 0].mean(2), views[:, :, 1].mean(3)  # (V, B, s)
    inside, at = slice(4, size - 4), (torch.arange(size) + 0.5)[4:-4] / size
    line = torch.stack([torch.ones_like(at), at], 1)
    ends = []
    for values in (x, y):
        start, slope = (torch.linalg.pinv(line) @ values[..., inside, None])[..., 0].unbind(-1)
        ends.append((start, start + slope))
    (x1, x2), (y1, y2) = ends
    return torch.stack([x1, y1, x2, y2], 2)


def draws_of(views: Crops, count: int, step: int = 0) -> dict[str, Tensor]:
    return views.draw(count, generator(0, Stream.VIEWS, step))


def test_places_of_whole_pictures() -> None:
    views = crops()
    images = torch.stack([ramp(40, 64)] * 32)
    made = views(images, draws_of(views, 32))
    place = made["place"]
    assert place.shape == (2, 32, 4)
    assert place.dtype == torch.float32
    torch.testing.assert_close(shown(made["global"]), place, atol=0.02, rtol=0)
    flipped = place[..., 0] > place[..., 2]
    assert 0.2 < flipped.float().mean() < 0.8
    assert (place[..., 1] < place[..., 3]).all()
    assert place.min() >= 0
    assert place.max() <= 1


def test_places_of_padded_pictures_are_shares_of_the_true_size() -> None:
    views = crops()
    pictures = [ramp(*SIZES[i % 4]) for i in range(16)]
    made = views(padded(pictures), draws_of(views, 16))
    torch.testing.assert_close(shown(made["global"]), made["place"], atol=0.02, rtol=0)


def test_a_whole_square_is_the_whole_picture() -> None:
    views = crops(policy="none")
    place = views(torch.stack([ramp(32, 32)] * 3), draws_of(views, 3))["place"]
    assert torch.equal(place, torch.tensor([0.0, 0, 1, 1]).expand(2, 3, 4))


def cut(views: Crops, pictures: list[Tensor], draws: dict[str, Tensor]) -> dict[str, Tensor]:
    each = [views.cut(p, {name: d[i] for name, d in draws.items()}) for i, p in enumerate(pictures)]
    return {name: torch.stack([one[name] for one in each], 1) for name in each[0]}


def test_workers_say_the_same_places() -> None:
    """They know the pictures' sizes; what is left of them then does not tell."""
    views = crops(locals=2)
    pictures, draws = [ramp(*SIZES[i % 4]) for i in range(16)], draws_of(views, 16)
    found, wanted = views(cut(views, pictures, draws), draws), views(padded(pictures), draws)
    assert torch.equal(found["place"], wanted["place"])
    torch.testing.assert_close(shown(found["global"]), found["place"], atol=0.03, rtol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_places_travel_with_the_crops_of_files(tmp_path: Any, workers: int) -> None:
    pictures = [ramp(*SIZES[i % 4]) for i in range(70)]
    for i, picture in enumerate(pictures):
        Image.fromarray(np.asarray(picture.permute(1, 2, 0))).save(tmp_path / f"{i:02}.png")
    views = crops()
    store = Decoded(sorted(tmp_path.glob("*.png")), 3, 0, workers=workers)
    rows = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    draws = draws_of(views, 70)
    (given,) = store.feed([(rows, draws)], views)
    wanted = views(padded([pictures[i] for i in rows.tolist()]), draws)["place"]
    assert torch.equal(views(given, draws)["place"], wanted)


def test_each_process_has_the_places_of_its_rows() -> None:
    views = crops()
    pictures = [ramp(*SIZES[i % 4]) for i in range(8)]
    draws = draws_of(views, 8)
    whole = views(padded(pictures), draws)["place"]
    images = padded(pictures)
    assert isinstance(images, Images)
    for part in (slice(0, 4), slice(4, 8)):
        half = Images(images.pixels[part], None if images.sizes is None else images.sizes[part])
        assert torch.equal(views(half, {k: d[part] for k, d in draws.items()})["place"], whole[:, part])


def test_places_are_there_for_who_asks_and_change_nothing_else() -> None:
    images = torch.stack([ramp(40, 64)] * 4)
    without, views = crops(places=False), crops()
    a, b = (v(images, draws_of(v, 4)) for v in (without, views))
    assert a.keys() == {"global"}
    assert b.keys() == {"global", "place"}
    assert torch.equal(a["global"], b["global"])
    with pytest.raises(WrongUse, match="rotated"):
        crops(rotate=0.1)
    with pytest.raises(WrongUse, match="shifted"):
        crops(policy="amdim-cifar", scale=None)
