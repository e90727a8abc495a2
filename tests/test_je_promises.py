"""What every loss of embeddings keeps: its symmetries, its constants, full precision, finite values at the extremes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from selfsight import losses
from test_losses import views
from test_losses_formulas import CASES, Case, gradients
from test_losses_redundancy import SPREADING

WHITE = Case(lambda a, b: losses.w_mse([a, b], len(a)), lambda a, b: a, 2, swap=(1, 0), cosine=False)
ALL = {**CASES, **SPREADING, "w_mse": WHITE}
each = pytest.mark.parametrize("name", ALL)


def has_rows(case: Case, name: str) -> int:
    """Labels have a row for each picture, too; a queue has not."""
    return case.rows + (name == "supcon")


@each
def test_order_of_the_batch_does_not_matter(name: str) -> None:
    case = ALL[name]
    tensors, order = case.tensors(7, 3), torch.tensor([3, 6, 1, 5, 0, 2, 4])
    count = has_rows(case, name)
    moved = [x[order] for x in tensors[:count]] + tensors[count:]
    value = case.fast(*tensors)
    assert case.fast(*moved).item() == pytest.approx(value.item(), abs=1e-11)
    if case.rows > 1:  # but views belong together
        apart = [tensors[0][order], *tensors[1:]]
        assert abs(case.fast(*apart) - value) > 1e-3


@each
def test_views_are_alike_where_the_loss_is_symmetric(name: str) -> None:
    case = ALL[name]
    tensors = case.tensors(7, 3)
    value = case.fast(*tensors).item()
    if case.swap:
        assert case.fast(*(tensors[i] for i in case.swap)).item() == pytest.approx(value, abs=1e-11)
    elif case.rows > 1:  # moco and tico go one way
        assert abs(case.fast(tensors[1], tensors[0], *tensors[2:]).item() - value) > 1e-3


@each
def test_lengths_of_rows_do_not_matter_where_they_are_made_unit(name: str) -> None:
    case = ALL[name]
    tensors = case.tensors(6, 4)
    value, found = gradients(case.fast, tensors)
    factors = torch.rand(case.rows, 6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5 + 0.1
    longer = [f * x for f, x in zip(factors, tensors)] + tensors[case.rows :]
    gap = abs(case.fast(*longer).item() - value.item())
    assert gap < 1e-11 if case.cosine else gap > 1e-3
    for x, grad in zip(tensors[: case.rows], found):
        if grad is not None and grad.any():
            along = (grad * x).sum(1).abs().max()  # along its row nothing changes
            assert along < 1e-12 if case.cosine else along > 1e-4


@each
def test_constants_get_no_gradient_and_all_others_do(name: str) -> None:
    case = ALL[name]
    tensors = case.tensors(5, 4)
    _, found = gradients(case.fast, tensors)
    for i, (x, grad) in enumerate(zip(tensors, found)):
        if i in case.stopped:
            assert grad is None or not grad.any()
        elif i < case.rows:
            assert grad is not None
            assert grad.abs().sum(1).min() > 1e-4  # every row of it


def single(case: Case) -> list[Tensor]:
    """Sixteen rows of eight, all in float32."""
    return [x.float() if x.is_floating_point() else x for x in case.tensors(16, 8)]


def cast(tensors: list[Tensor], count: int) -> list[Tensor]:
    return [x.bfloat16() for x in tensors[:count]] + tensors[count:]


@each
def test_autocast_changes_nothing(name: str) -> None:
    case = ALL[name]
    tensors = single(case)
    exact, wanted = gradients(case.fast, tensors)

    def inside(*given: Tensor) -> Tensor:  # the backward pass runs outside, as in training
        with torch.autocast("cpu", torch.bfloat16):
            return case.fast(*given)

    value, found = gradients(inside, tensors)
    assert exact.dtype == value.dtype == torch.float32
    assert torch.equal(exact, value)  # a product in bfloat16 would differ in the third digit
    for a, b in zip(found, wanted):
        assert a is b or (a is not None and b is not None and torch.equal(a, b))


@each
def test_half_precision_is_raised(name: str) -> None:
    case = ALL[name]
    tensors = single(case)
    exact = case.fast(*tensors)
    rounded, found = gradients(case.fast, cast(tensors, case.rows))
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=2e-2)
    assert case.fast(*(x.float() for x in cast(tensors, case.rows)[: case.rows]), *tensors[case.rows :]) == rounded
    assert all(x is None or x.dtype == torch.bfloat16 for x in found[: case.rows])


@each
@pytest.mark.parametrize("at", ["a zero row", "zeros", "1e4", "equal rows"])
def test_extremes_stay_finite(name: str, at: str) -> None:
    case = ALL[name]
    tensors = single(case)
    change: dict[str, Callable[[Tensor], Tensor]] = {
        "a zero row": lambda x: torch.cat([torch.zeros(1, 8), x[1:]]),
        "zeros": torch.zeros_like,
        "1e4": lambda x: 1e4 * x,
        "equal rows": lambda x: x[:1].expand_as(x),
    }
    moved = [change[at](x) for x in tensors[: case.rows]] + tensors[case.rows :]
    for given in (moved, cast(moved, case.rows)):
        value, found = gradients(case.fast, given)
        assert value.isfinite()
        assert all(x.isfinite().all() for x in found if x is not None)


def test_lists_and_stacks_of_views_are_the_same() -> None:
    three = views(3, 8, 2)
    y = torch.arange(8) % 3
    loss: Callable[..., Tensor]
    for loss in (
        lambda z: losses.supcon(z, y, 0.2),
        lambda z: losses.w_mse(z, 4),
        lambda z: losses.emp_ssl(z, 3, 0.2),
    ):
        assert torch.equal(loss(three), loss(torch.stack(three)))
