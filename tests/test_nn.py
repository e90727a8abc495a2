"""Shared modules: heads, teacher, queue, prototypes, global batch normalisation in one process."""

import copy
import math
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from selfsight.batchnorm import GlobalBatchNorm1d, GlobalBatchNorm2d, sync_batch_norm
from selfsight.nn import Ema, Prototypes, Queue, mlp


def describe(head: nn.Sequential) -> list[str]:
    """Each layer in a word: Linear with + for a bias, norm with w for a scale and b for a shift."""
    words = []
    for layer in head:
        if isinstance(layer, nn.Linear):
            words.append(f"{layer.in_features}-{layer.out_features}" + ("+" if layer.bias is not None else ""))
        elif isinstance(layer, (nn.BatchNorm1d, nn.LayerNorm)):
            kind = "bn" if isinstance(layer, nn.BatchNorm1d) else "ln"
            words.append(f"{kind}{'w' * (layer.weight is not None)}{'b' * (layer.bias is not None)}")
        else:
            words.append(type(layer).__name__.lower())
    return words


HEADS: dict[str, tuple[nn.Sequential, str]] = {
    "SimCLR official": (
        mlp((8, 8, 4), bias=False, last_norm="batch-scale"),
        "8-8 bnwb relu 8-4 bnw",
    ),
    "SimCLR, MoCo v2+ of solo-learn": (mlp((8, 16, 4), norm="none"), "8-16+ relu 16-4+"),
    "SimCLR of lightly": (mlp((8, 8, 4), last_norm="batch"), "8-8+ bnwb relu 8-4+ bnwb"),
    "MoCo v1": (mlp((8, 4)), "8-4+"),
    "MoCo v3 projector": (mlp((8, 16, 4), bias=False, last_norm="batch-plain"), "8-16 bnwb relu 16-4 bn"),
    "MoCo v3 predictor": (mlp((4, 16, 4), bias=False), "4-16 bnwb relu 16-4"),
    "BYOL": (mlp((8, 16, 4), last_bias=False), "8-16+ bnwb relu 16-4"),
    "SimSiam projector": (
        mlp((8, 8, 8, 8), bias=False, last_norm="batch-plain"),
        "8-8 bnwb relu 8-8 bnwb relu 8-8 bn",
    ),
    "SimSiam predictor": (mlp((8, 2, 8), bias=False, last_bias=True), "8-2 bnwb relu 2-8+"),
    "DirectPred": (mlp((8, 8, 4), norm="batch-plain"), "8-8+ bn relu 8-4+"),
    "Barlow Twins": (mlp((8, 16, 16, 16), bias=False), "8-16 bnwb relu 16-16 bnwb relu 16-16"),
    "VICReg": (mlp((8, 16, 16, 16), last_bias=False), "8-16+ bnwb relu 16-16+ bnwb relu 16-16"),
    "NNCLR": (mlp((8, 8, 4), last_norm="batch"), "8-8+ bnwb relu 8-4+ bnwb"),
    "DINO": (mlp((8, 16, 16, 4), norm="none", activation="gelu"), "8-16+ gelu 16-16+ gelu 16-4+"),
    "layer norm": (mlp((8, 16, 4), norm="layer", last_norm="layer"), "8-16+ lnwb relu 16-4+ lnwb"),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads(name: str) -> None:
    head, layers = HEADS[name]
    assert describe(head) == layers.split()
    x = torch.randn(6, int(layers.split("-")[0]), requires_grad=True)
    head(x).square().sum().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_a_head_computes_what_its_layers_say() -> None:
    head = mlp((3, 5, 2), bias=False, last_norm="batch-scale").double()
    x = torch.randn(7, 3, dtype=torch.float64)
    h = x @ head[0].weight.T  # type: ignore[operator]
    h = ((h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt()).clamp(min=0)
    z = h @ head[3].weight.T  # type: ignore[operator]
    z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(head(x), z)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))


def test_ema_closed_form() -> None:
    student, teacher = network(), Ema(network())
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn_like(p))
    start = [p.clone() for p in teacher.parameters()]
    for _ in range(5):
        teacher.follow(student, 0.9)
    for xi, xi0, theta in zip(teacher.parameters(), start, student.parameters()):
        torch.testing.assert_close(xi, 0.9**5 * xi0 + (1 - 0.9**5) * theta)
        assert not torch.equal(xi, xi0)
    teacher.follow(student, 1.0)
    torch.testing.assert_close(
        next(teacher.parameters()), 0.9**5 * start[0] + (1 - 0.9**5) * next(student.parameters())
    )
    teacher.follow(student, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), student.parameters()))


def test_ema_is_an_exact_frozen_copy_with_its_own_statistics() -> None:
    student = network()
    teacher = Ema(student)
    x = torch.randn(8, 3, 4, 4)
    assert torch.equal(teacher(x), student(x))
    assert not teacher(x).requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())
    assert teacher.training
    mean = teacher.get_buffer("module.1.running_mean").clone()
    student(5 + torch.randn(8, 3, 4, 4))
    teacher.follow(student, 0.5)
    assert torch.equal(teacher.get_buffer("module.1.running_mean"), mean)
    teacher(x)
    assert not torch.equal(teacher.get_buffer("module.1.running_mean"), mean)


def test_ema_goes_by_name() -> None:
    class Two(nn.Module):
        def __init__(self, *names: str):
            super().__init__()
            for name in names:
                self.register_parameter(name, nn.Parameter(torch.full((2,), float(ord(name)))))

    teacher = Ema(Two("a", "b"))
    teacher.follow(Two("b", "a"), 0.5)
    assert [p.tolist() for p in teacher.parameters()] == [[97, 97], [98, 98]]
    with pytest.raises(RuntimeError, match="differ in"):
        teacher.follow(Two("a", "c"), 0.5)


def test_queue_order() -> None:
    queue = Queue(6, 2)
    start = queue.rows.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(6))
    batches = [torch.full((2, 2), float(i)) + torch.tensor([[0.0], [0.5]]) for i in range(5)]
    queue.push(batches[0])
    assert torch.equal(queue.rows, torch.cat([batches[0], start[:4]]))
    assert (queue.filled.item(), queue.full) == (2, False)
    for batch in batches[1:]:
        queue.push(batch)
    assert torch.equal(queue.rows, torch.cat([batches[4], batches[3], batches[2]]))
    assert (queue.filled.item(), queue.full) == (6, True)
    queue.push(torch.arange(16.0).view(8, 2))
    assert torch.equal(queue.rows, torch.arange(12.0).view(6, 2))


def test_queue_starts_the_same_everywhere_and_survives_a_checkpoint() -> None:
    a, b = Queue(5, 3), Queue(5, 3)
    assert torch.equal(a.rows, b.rows)
    a.push(torch.ones(5, 3, dtype=torch.bfloat16))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a.rows, b.rows)
    assert b.full
    assert a.rows.dtype == torch.float32


def test_prototypes() -> None:
    prototypes = Prototypes(4, 7)
    assert {name: p.shape for name, p in prototypes.named_parameters()} == {"weight": (7, 4)}
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(7))
    weight = prototypes.weight
    with torch.no_grad():
        weight.mul_(3)
    prototypes.normalise()
    assert prototypes.weight is weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(7))
    x = F.normalize(torch.randn(5, 4), dim=1)
    scores = prototypes(x)
    torch.testing.assert_close(scores, x @ weight.T)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prototypes(x), scores)
    assert prototypes(x.bfloat16()).dtype == torch.float32


PLAIN: list[Any] = [
    (nn.BatchNorm1d(5), GlobalBatchNorm1d(5), (8, 5)),
    (nn.BatchNorm1d(5, affine=False), GlobalBatchNorm1d(5, affine=False), (8, 5, 3)),
    (nn.BatchNorm2d(5, momentum=None), GlobalBatchNorm2d(5, momentum=None), (8, 5, 3, 3)),
]


@pytest.mark.parametrize(("plain", "ours", "shape"), PLAIN)
def test_global_batch_norm_alone_is_batch_norm(plain: nn.Module, ours: nn.Module, shape: tuple[int, ...]) -> None:
    assert plain.state_dict().keys() == ours.state_dict().keys()
    for _ in range(3):
        x = 3 + torch.randn(shape)
        torch.testing.assert_close(ours(x), plain(x), atol=1e-6, rtol=1e-6)
    for a, b in zip(ours.state_dict().values(), plain.state_dict().values()):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x), atol=1e-6, rtol=1e-6)


def test_sync_batch_norm_replaces_all_and_keeps_everything() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()
            self.again = self.body[1]
            self.head = mlp((2, 4, 2), last_norm="batch-scale")

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    module = Shared()
    expected, names = copy.deepcopy(module), list(module.state_dict())
    parameters = dict(module.named_parameters())
    assert sync_batch_norm(module) is module
    assert list(module.state_dict()) == names
    assert all(p is parameters[name] for name, p in module.named_parameters())
    assert [type(m) for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)] == [
        GlobalBatchNorm2d,
        GlobalBatchNorm1d,
        GlobalBatchNorm1d,
    ]
    assert module.again is module.body[1]
    x = torch.randn(6, 3, 4, 4)
    assert torch.equal(module(x), expected(x))
    assert isinstance(sync_batch_norm(nn.BatchNorm1d(3)), GlobalBatchNorm1d)


def test_sync_batch_norm_keeps_fused_activations() -> None:
    model = timm.create_model("regnetx_002", num_classes=0)
    assert any(isinstance(m, BatchNormAct2d) for m in model.modules())
    twin, x = sync_batch_norm(copy.deepcopy(model)), torch.randn(2, 3, 32, 32)
    assert not any(isinstance(m, BatchNormAct2d) for m in twin.modules())
    assert twin.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(twin(x), model(x))
    assert torch.equal(twin.eval()(x), model.eval()(x))

    class Strange(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    with pytest.raises(TypeError, match="Strange"):
        sync_batch_norm(nn.Sequential(Strange(3)))


def test_prototypes_start_from_the_spread_of_a_linear_layer() -> None:
    """No direction is preferred: the mean cosine of random prototypes is near 0."""
    weight = Prototypes(64, 512).weight.detach()
    cosines = (weight @ weight.T).fill_diagonal_(0)
    assert cosines.mean().abs() < 0.01
    assert cosines.std() == pytest.approx(1 / math.sqrt(64), rel=0.1)
