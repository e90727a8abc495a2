import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from selfsight.data import open_data
from selfsight.data.synthetic import CLASSES, _cover, labels, shapes
from selfsight.encoders.fastnet import FastNet
from selfsight.errors import WrongUse
from selfsight.optim.muon import Muon, is_matrix


def knn(bank, bank_labels, queries, query_labels, k=20, temperature=0.1):
    bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    similarity, nearest = (queries @ bank.T).topk(k, 1)
    votes = torch.zeros(len(queries), 10).scatter_add_(1, bank_labels[nearest], (similarity / temperature).exp())
    return (votes.argmax(1) == query_labels).float().mean().item()


def test_a_picture_depends_on_its_index_alone():
    many = shapes(1100)
    assert many.shape == (1100, 3, 32, 32)
    assert many.dtype == torch.uint8
    assert torch.equal(shapes(7), many[:7])
    assert torch.equal(shapes(30, first=1070), many[1070:])
    assert not torch.equal(shapes(7, part=1), many[:7])
    assert not torch.equal(shapes(7, seed=1), many[:7])


def test_figures_may_stand_upright():
    """Three triangles have a side above and a corner below: then rows are wide above the middle, and narrow below."""
    axis = (torch.arange(64) + 0.5) / 32 - 1
    for upright in (False, True):
        cover = _cover(
            torch.full((200,), 3), axis.expand(64, 64), axis[:, None].expand(64, 64), draws(), 2 / 64, upright
        )
        rows = cover.sum(2)
        middle = (rows * axis).sum(1) / rows.sum(1)
        skew = ((rows * (axis - middle[:, None]) ** 3).sum(1) / rows.sum(1)).sign().mean()
        assert skew > 0.5 if upright else abs(skew) < 0.3
    found = open_data("shapes:32:100:upright", holdout=0).train.gather(torch.arange(100)).pixels
    assert torch.equal(found, shapes(100, upright=True))
    assert not torch.equal(found, shapes(100))
    with pytest.raises(WrongUse, match="no size and count"):
        open_data("shapes:32:100:flat", holdout=0)


def draws():
    """Uniforms of 200 pictures, one figure each."""
    rng = torch.Generator().manual_seed(0)
    values = iter([torch.zeros(200)])  # the number of figures
    return lambda low, high: next(values, torch.rand(200, generator=rng)) * (high - low) + low


def test_the_pictures_are_these():
    """Recorded mean colours: when they change, the set is another one, and VERSION must be raised."""
    recorded = [[168.1, 118.6, 113.0], [144.3, 138.3, 75.0], [125.4, 117.6, 87.6], [190.8, 174.4, 113.0]]
    assert torch.allclose(shapes(4).float().mean((2, 3)), torch.tensor(recorded), atol=0.5)
    recorded = [[132.9, 40.2, 42.3], [135.7, 148.7, 152.4]]
    assert torch.allclose(shapes(2, part=1).float().mean((2, 3)), torch.tensor(recorded), atol=0.5)


def test_other_sizes_show_the_same_pictures():
    small, large = shapes(50, 32).float(), shapes(50, 64).float()
    apart = (F.avg_pool2d(large, 2) - small).abs().mean(dim=(1, 2, 3))
    wrong = (F.avg_pool2d(large.roll(1, 0), 2) - small).abs().mean(dim=(1, 2, 3))
    assert apart.max() < 15 < 25 < wrong.min()


def test_classes_are_balanced_in_every_prefix():
    assert len(CLASSES) == 10
    assert torch.bincount(labels(40)).tolist() == [4] * 10
    assert labels(13).tolist() == [*range(10), 0, 1, 2]


def test_the_figure_makes_the_class_and_shows_in_gray():
    """Figure and ground differ in brightness, so grayscale keeps the class."""
    gray = (shapes(300).float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    contrast = F.avg_pool2d(gray[:, None], 3).flatten(1)
    contrast = contrast.quantile(0.98, 1) - contrast.quantile(0.02, 1)
    assert (contrast > 0.18 * 255).float().mean() > 0.98


def test_pixels_do_not_separate_the_classes():
    bank, queries = shapes(3000).float() / 255, shapes(500, part=1).float() / 255
    mean = bank.mean(dim=(0, 2, 3), keepdim=True)
    accuracy = knn((bank - mean).flatten(1), labels(3000), (queries - mean).flatten(1), labels(500))
    assert 0.1 < accuracy < 0.45


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_small_supervised_network_learns_them():
    """fastnet with labels, ten epochs with flips: above 95 %, where pixels stay below 45 %."""
    torch.manual_seed(0)
    train, test, truth = shapes(10_000), shapes(2_000, part=1), labels(10_000)
    encoder = FastNet()
    net = nn.Sequential(encoder, nn.Linear(encoder.dim, 10)).to(memory_format=torch.channels_last)
    matrices = [p for p in net.parameters() if is_matrix(p)]
    rest = [p for p in net.parameters() if not is_matrix(p)]
    groups = [{"params": matrices, "matrix": True}, {"params": rest, "matrix": False}]
    optimizer = Muon(groups, lr=0.0, momentum=0.9, steps=3)
    total = 10 * 39
    for step in range(total):
        if step % 39 == 0:
            order = torch.randperm(10_000)
        rows = order[step % 39 * 256 :][:256]
        x = train[rows].float() / 128 - 1
        for axis in (2, 3):
            turned = torch.rand(len(rows)) < 0.5
            x[turned] = x[turned].flip(axis)
        for group, rate in zip(optimizer.param_groups, (0.03, 0.06)):
            group["lr"] = rate * min(1, step / 20) * (1 + math.cos(math.pi * step / total)) / 2
        loss = F.cross_entropy(net(x), truth[rows], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        guess = torch.cat([net(x.float() / 128 - 1).argmax(1) for x in test.split(500)])
    accuracy = float((guess == labels(2_000)).float().mean())
    print(f"supervised accuracy on shapes: {accuracy:.4f}")
    assert accuracy > 0.95
