"""Muon: momentum whose update is orthogonalised (Jordan et al. 2024, "Muon: An optimizer for hidden layers")."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from selfsight import distributed


def is_matrix(p: Tensor) -> bool:
    """True for what can be orthogonalised: first axis and rest are both longer than 1 (no bias, norm or token)."""
    return p.ndim >= 2 and p.shape[0] > 1 and p.numel() > p.shape[0]


def newton_schulz(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly the orthogonal factor U V' of each U S V'. (n, R, C) -> (n, R, C), singular values about 0.7 to 1.2.

    Quintic iteration X <- a X + (b A + c A^2) X with A = X X' and Jordan's coefficients, which trade exactness for
    speed: small singular values grow by a = 3.4 a step. bfloat16 on a GPU, as there; the input's precision on a CPU.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # spectral norm at most 1, where the iteration converges
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(matrices.dtype)


class Muon(Optimizer):
    """Muon for matrices, SGD for the rest, in one optimizer. With m <- mu m + g and u = m, or g + mu m under Nesterov:

    - groups with `matrix` True: p <- (1 - lr wd) p - lr sqrt(max(1, R / C)) orthogonal(u), where a filter bank
      (out, in, kh, kw) is the matrix R = out by C = in * kh * kw
    - groups with `matrix` False: p <- (1 - lr wd) p - lr u

    Every argument is a group key.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        steps: int = 5,
        matrix: bool = True,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"nesterov": nesterov, "steps": steps, "matrix": matrix})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        updates = [distributed.shard(self.state[p]["momentum_buffer"]) for p in params]
        grads, weights = [distributed.shard(p.grad) for p in params], [distributed.shard(p) for p in params]
        torch._foreach_mul_(updates, group["momentum"])
        torch._foreach_add_(updates, grads)
        if group["nesterov"]:
            updates = list(torch._foreach_add(grads, updates, alpha=group["momentum"]))
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        if not group["matrix"]:
            torch._foreach_add_(weights, updates, alpha=-group["lr"])
            return
        alike = defaultdict(list)  # matrices of one size go through the iteration together, whole, on every process
        for p, u in zip(params, updates):
            alike[p.shape].append((p, distributed.join(u, p).flatten(1)))
        for pairs in alike.values():
            whole = newton_schulz(torch.stack([u for _, u in pairs]), group["steps"])
            scale = max(1.0, whole.shape[1] / whole.shape[2]) ** 0.5
            for (p, _), u in zip(pairs, whole):
                distributed.shard(p).add_(distributed.part(u.view(p.shape), p), alpha=-group["lr"] * scale)
