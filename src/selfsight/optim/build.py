"""From a config and a method to a torch optimizer, and what the loop does to it at each step."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from selfsight import distributed
from selfsight.core import Method, Step
from selfsight.optim.config import OptimizerConfig
from selfsight.optim.lars import LARS
from selfsight.optim.muon import Muon, is_matrix

_KEYS = {"params", "start", "lr_scale", "lr_fixed", "momentum", "weight_decay", "fresh"}


def peak_rate(config: OptimizerConfig, batch_size: int) -> float:
    """The learning rate at the top of the schedule for a global batch of `batch_size` pictures."""
    scale = {"linear": batch_size / config.base_batch, "sqrt": math.sqrt(batch_size), "none": 1.0}
    return config.lr * scale[config.scaling]


def build(config: OptimizerConfig, method: Method, batch_size: int) -> Optimizer:
    """The optimizer of `method`; its groups keep what `set_rates`, `drop_unstarted` and `forget` read.

    Each of the method's groups is split into tensors with and without decay (see `decay_bias_and_norm`), under muon
    also into matrices and the rest. A group's momentum replaces beta1 under adam and adamw.
    Raises RuntimeError if param_groups() does not hold every trainable parameter exactly once.
    """
    given = method.param_groups()
    _check_groups(given, dict(method.named_parameters()))
    peak = peak_rate(config, batch_size)
    groups = [part for group in given for part in _split(config, group, peak)]
    if config.name == "lars":
        return LARS(groups, lr=peak, eta=config.lars_eta, dialect=config.lars_dialect)
    if config.name == "muon":
        return Muon(groups, lr=peak, nesterov=config.nesterov, steps=config.muon_steps)
    # fused is several times faster than a loop over tensors, on CPUs too; elementwise, hence deterministic
    devices = {p.device.type for group in groups for p in group["params"]}
    fused = devices <= {"cpu", "cuda"} and not any(distributed.is_sharded(p) for g in groups for p in g["params"])
    if config.name == "sgd":
        optimizer: Optimizer = torch.optim.SGD(
            groups, lr=peak, nesterov=config.nesterov, momentum=config.momentum, fused=fused
        )
        # SGD starts its buffers from the first gradient, which is what zeros give; but fused SGD refuses a group of
        # which only a part has buffers (a parameter without gradient at first)
        for group in optimizer.param_groups:
            for p in group["params"] if group["momentum"] else ():
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    else:
        kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
        optimizer = kind(groups, lr=peak, eps=config.eps, fused=fused)
    if fused:
        _keep_layouts(optimizer)
    return optimizer


def set_rates(optimizer: Optimizer, peak: float, factor: float, decay_factor: float = 1.0) -> None:
    """Set each group's rate to peak * lr_scale * factor (groups with lr_fixed leave the factor out), and its decay."""
    for group in optimizer.param_groups:
        group["lr"] = peak * group["lr_scale"] * (1.0 if group["lr_fixed"] else factor)
        group["weight_decay"] = group.setdefault("decay", group["weight_decay"]) * decay_factor


def drop_unstarted(optimizer: Optimizer, step_index: int) -> None:
    """Drop the gradients of groups that start later, so that neither decay nor momentum moves them."""
    for group in optimizer.param_groups:
        if step_index < group["start"]:
            for p in group["params"]:
                p.grad = None


@torch.no_grad()
def forget(optimizer: Optimizer, step: Step) -> None:
    """At the start of every `fresh`-th epoch, groups that have it lose their momenta: as a new optimizer would begin."""
    for group in optimizer.param_groups if step.epoch_starts else ():
        if group["fresh"] and step.epoch % group["fresh"] == 0:
            for p in group["params"]:
                for value in optimizer.state.get(p, {}).values():
                    value.zero_()


@torch.no_grad()
def clip(params: Iterable[Tensor], config: OptimizerConfig) -> Tensor:
    """Clip the gradients in place by norm or by value, as configured. Returns the norm before that, (), and no sync."""
    found = [p.grad for p in params if p.grad is not None]
    if not found:
        return torch.zeros(())
    grads = [distributed.shard(g) for g in found]
    each = distributed.norms(grads, distributed.is_sharded(found[0]))
    norm = torch.linalg.vector_norm(each)
    if config.clip_norm:
        lengths = each if config.clip_per == "tensor" else norm.expand_as(each)
        torch._foreach_mul_(grads, list((config.clip_norm / (lengths + 1e-6)).clamp(max=1.0).unbind()))
    if config.clip_value:
        torch._foreach_clamp_min_(grads, -config.clip_value)
        torch._foreach_clamp_max_(grads, config.clip_value)
    return norm


def _check_groups(groups: list[dict[str, Any]], named: dict[str, nn.Parameter]) -> None:
    names = {id(p): name for name, p in named.items()}
    seen: set[int] = set()
    for group in groups:
        if unknown := group.keys() - _KEYS:
            raise RuntimeError(
                f"param_groups() of the method uses unknown keys {sorted(unknown)}; known: {sorted(_KEYS)}"
            )
        for p in group["params"]:
            name = names.get(id(p), "a tensor that is not the method's")
            if id(p) not in names or not p.requires_grad:
                raise RuntimeError(
                    f"param_groups() of the method lists {name}, which is not one of its trainable parameters"
                )
            if id(p) in seen:
                raise RuntimeError(f"param_groups() of the method lists {name} twice")
            seen.add(id(p))
    missing = [name for name, p in named.items() if p.requires_grad and id(p) not in seen]
    if missing:
        raise RuntimeError(f"param_groups() of the method leaves out {', '.join(missing[:5])} ({len(missing)} in all)")


def _split(config: OptimizerConfig, group: dict[str, Any], peak: float) -> list[dict[str, Any]]:
    """One group of the method -> groups of the optimizer, each with every key written out."""
    parts: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    alike = config.decay_bias_and_norm and config.bias_and_norm_lr == 1  # biases and norms are as matrices
    for p in group["params"]:
        thin = p.ndim <= 1 or (p.ndim == 3 and len(p) == 1)  # class token, positions: (1, T, D)
        parts.setdefault((thin and not alike, config.name == "muon" and not is_matrix(p)), []).append(p)
    out = []
    for (thin, auxiliary), params in parts.items():
        plain = thin and not config.decay_bias_and_norm
        scale = group.get("lr_scale", 1.0) * (config.muon_aux_lr / config.lr if auxiliary else 1.0)
        scale *= config.bias_and_norm_lr if thin else 1.0
        decay = group.get("weight_decay", config.muon_aux_weight_decay if auxiliary else config.weight_decay)
        momentum = group.get("momentum", config.betas[0] if config.name in ("adam", "adamw") else config.momentum)
        part = {
            "params": params,
            "lr": peak * scale,
            "weight_decay": 0.0 if plain else float(decay),
            "start": int(group.get("start", 0)),
            "lr_scale": float(scale),
            "lr_fixed": bool(group.get("lr_fixed", False)),
            "fresh": int(group.get("fresh", 0)),
        }
        if config.name in ("adam", "adamw"):
            part["betas"] = (float(momentum), config.betas[1])
        else:
            part["momentum"] = float(momentum)
        if config.name == "lars":
            part["adapt"] = not plain
        if config.name == "muon":
            part["matrix"] = not auxiliary
        out.append(part)
    return out


def _keep_layouts(optimizer: Optimizer) -> None:
    """Lay gradients and buffers out in memory as their parameter is.

    Fused CPU kernels walk memory, and silently pair wrong entries where one tensor is channels_last and the other is
    not, as after a checkpoint from another machine.
    """

    def gradients(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None and not _same_layout(p.grad, p):
                    p.grad = torch.empty_like(p).copy_(p.grad)

    def buffers(optimizer: Optimizer) -> None:
        for p, state in optimizer.state.items():
            for name, value in state.items():
                if torch.is_tensor(value) and value.shape == p.shape and not _same_layout(value, p):
                    state[name] = torch.empty_like(p).copy_(value)

    optimizer.register_step_pre_hook(gradients)
    optimizer.register_load_state_dict_post_hook(buffers)


def _same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape lie in memory alike; the stride of an axis of length 1 does not matter."""
    return a.stride() == b.stride() or all(n == 1 or s == t for n, s, t in zip(a.shape, a.stride(), b.stride()))
