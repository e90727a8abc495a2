"""LARS: Large Batch Training of Convolutional Networks (arXiv 1708.03888), in the four dialects of the field."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from selfsight import distributed
from selfsight.optim.config import Dialect


class LARS(Optimizer):
    """SGD with momentum whose step is scaled, tensor by tensor, by a trust ratio r. With u = g + wd * p:

    - standard (BYOL, MoCo v3, Barlow Twins, VICReg): r = eta |p| / |u|; m <- mu m + r u; p <- p - lr m
    - tf (SimCLR): the same r; m <- mu m + lr r u; p <- p - m
    - clipped (solo-learn): r = min(eta |p| / ((|g| + wd |p| + 1e-8) lr), 1); then as standard
    - larc (apex LARC without clipping; SwAV): r = eta |p| / (|g| + wd |p| + 1e-8); then as standard

    r = 1 where |p| or |u| is 0; clipped and larc take g without decay where |p| or |g| is 0, as their sources do.
    Groups with `adapt` False get plain momentum with their own weight_decay. Every argument is a group key. Norms are
    those of whole tensors, also where each process holds a shard; the rest of a step is elementwise and stays local.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 1e-3,
        dialect: Dialect = "standard",
        adapt: bool = True,
    ):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"eta": eta, "dialect": dialect, "adapt": adapt})

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
        lr, decay, sharded = group["lr"], group["weight_decay"], distributed.is_sharded(params[0])
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [distributed.shard(self.state[p]["momentum_buffer"]) for p in params]
        grads = [distributed.shard(p.grad) for p in params]
        params = [distributed.shard(p) for p in params]
        if group["adapt"]:
            updates = self._adapted(params, grads, group, sharded)
        else:
            updates = list(torch._foreach_add(grads, params, alpha=decay))
        torch._foreach_mul_(buffers, group["momentum"])
        if group["dialect"] == "tf":
            torch._foreach_add_(buffers, updates, alpha=lr)
            torch._foreach_sub_(params, buffers)
        else:
            torch._foreach_add_(buffers, updates)
            torch._foreach_add_(params, buffers, alpha=-lr)

    def _adapted(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any], sharded: bool) -> list[Tensor]:
        """Gradients with decay, times the trust ratio; no host sync."""
        lr, decay, eta = group["lr"], group["weight_decay"], group["eta"]
        weight = distributed.norms(params, sharded)  # (tensors,)
        if group["dialect"] in ("standard", "tf"):
            updates = list(torch._foreach_add(grads, params, alpha=decay))
            length = distributed.norms(updates, sharded)
            ratio = torch.where((weight > 0) & (length > 0), eta * weight / length, 1.0)
            torch._foreach_mul_(updates, list(ratio.unbind()))
            return updates
        length = distributed.norms(grads, sharded)
        ratio = eta * weight / (length + decay * weight + 1e-8)
        if group["dialect"] == "clipped":
            ratio = torch.minimum(ratio / max(lr, 1e-30), ratio.new_ones(()))
        known = (weight > 0) & (length > 0)
        updates = list(torch._foreach_mul(grads, list(torch.where(known, ratio, 1.0).unbind())))
        shrink = torch._foreach_mul(params, list(torch.where(known, ratio * decay, 0.0).unbind()))
        torch._foreach_add_(updates, shrink)
        return updates
