"""The start-up probe: is bf16 right and fast on this machine, for this network? Decides, and says why.

On CPUs without bf16 units, bf16 convolutions run many times slower than fp32, and some library versions are slow or
wrong on capable ones; so nothing is assumed: the very network is timed and its outputs and gradients are compared.
"""

import copy
import platform
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from selfsight import distributed

FASTER = 1.15  #: bf16 must be this much faster than fp32 to be picked
CLOSE = 0.1  #: largest relative difference of outputs and of gradients (Frobenius norm) that counts as right


class Verdict(NamedTuple):
    """What the probe picked."""

    precision: str  #: "fp32" or "bf16"
    why: str  #: one sentence


def _cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX; other processors than x86 are left to the timing."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    flags = torch.backends.cpu.get_cpu_capability(), getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)()
    return "AVX512" in flags[0] and bool(flags[1] or getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def _pass(net: nn.Module, x: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, list[Tensor]]:
    net.zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        y = net(x)
    y.float().square().mean().backward()
    return y.detach().float(), [p.grad.detach().float() for p in net.parameters() if p.grad is not None]


def _seconds(net: nn.Module, x: Tensor, dtype: torch.dtype | None, repeats: int, limit: float) -> float:
    """Best of some forward and backward passes; a pass longer than `limit` ends the timing."""
    best = float("inf")
    for _ in range(repeats):
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        start = time.perf_counter()
        _pass(net, x, dtype)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        took = torch.tensor(time.perf_counter() - start, device=x.device)  # all processes go on together, or none:
        best = min(best, float(distributed.all_max(took)))  # batch statistics of all are a part of each pass
        if best > limit:
            break
    return best


def _difference(a: list[Tensor], b: list[Tensor]) -> float:
    top = torch.stack([(x - y).square().sum() for x, y in zip(a, b)]).sum()
    low = torch.stack([x.square().sum() for x in a]).sum().clamp(min=1e-30)
    return float((top / low).sqrt())


def precision(encoder: nn.Module, shape: tuple[int, int, int], batch: int, device: torch.device) -> Verdict:
    """Time and check bf16 against fp32 on a copy of the encoder.

    Args:
        encoder: the network; it is copied, not changed.
        shape: (C, H, W) of a view.
        batch: views of one step on this process (at most 64 are used).
        device: where training will run.
    """
    if device.type == "cpu" and not _cpu_has_bf16():
        return Verdict("fp32", "this CPU has no bf16 units, where bf16 runs many times slower than fp32")
    net = copy.deepcopy(encoder).to(device).train().requires_grad_(True)  # a teacher's has no gradients
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(min(batch, 64), *shape, generator=generator).to(device)
    if x.shape[1] > 1:
        x = x.contiguous(memory_format=torch.channels_last)
        net = net.to(memory_format=torch.channels_last)
    try:
        _pass(net, x, torch.bfloat16)
    except RuntimeError as error:
        return Verdict("fp32", f"bf16 does not run here ({str(error).splitlines()[0]})")
    _pass(net, x, None)  # builds kernels, warms caches
    single = _seconds(net, x, None, 3, float("inf"))
    half = _seconds(net, x, torch.bfloat16, 3, 2 * single)
    ratio = single / half
    if ratio < FASTER:
        return Verdict("fp32", f"bf16 runs at {ratio:.2f}x the speed of fp32 here, below {FASTER}x")
    y32, g32 = _pass(net, x, None)
    y16, g16 = _pass(net, x, torch.bfloat16)
    off = float(distributed.all_max(torch.tensor(max(_difference([y32], [y16]), _difference(g32, g16)), device=device)))
    if not off < CLOSE:
        return Verdict("fp32", f"bf16 is {ratio:.2f}x faster but its results differ by {off:.0%} from fp32")
    return Verdict("bf16", f"bf16 is {ratio:.2f}x faster than fp32 here and agrees within {off:.1%}")
