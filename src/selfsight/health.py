"""Is this run learning or collapsing? Numbers from features (`monitors`), then a verdict in plain words (`verdict`).

Collapse is what self-supervision dies of: all pictures get the same output (Grill et al., arXiv 2006.07733; Chen and
He, arXiv 2011.10566, figure 2), or outputs that vary in a few directions only (Jing et al., arXiv 2110.09348).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Limits:
    """Where the verdict draws its lines: far from what healthy runs show, so that it does not cry wolf."""

    warm_steps: int = 100
    """Steps in which nothing is judged but numbers that are not finite ..."""
    warm_part: float = 0.05
    """... or this part of the run, whichever is longer, but never more than half the run."""
    spread: float = 0.1
    """Collapsed: standard deviation of the head's unit outputs below this, in units of 1/sqrt(D); 1 is isotropic ..."""
    features_spread: float = 0.05
    """... or that of the encoder's features, which have a large mean after a ReLU, below this."""
    rank_part: float = 0.02
    """Dimensional collapse: effective rank of the encoder's features below this part of what is possible ..."""
    rank_most: float = 10.0
    """... but never when it is above this ..."""
    rank_least: float = 2.0
    """... and always below this, which holds for the head's outputs too."""
    rank_lost: float = 0.45
    """... and when it is below this part of the untrained encoder's ..."""
    rank_low: float = 8.0
    """... and below this: training took directions away, as a shortcut such as colour does."""
    rising: float = 1.1
    """A spread or rank that is this factor above all that was measured before grows from a low start: no collapse."""
    constant: float = 0.0025
    """Loss counts as that of constant outputs within this part of it (of 1, if it is smaller)."""
    moderate: float = 0.5
    """Spread of the outputs below which a loss at its constant-output value is believed."""
    diverging: float = 2.0
    """Loss above the smallest so far by this multiple of its whole range in the first three quarters."""
    fewest: int = 8
    """Losses below this number are not judged."""
    frozen: float = 0.002
    """Not learning: loss and monitors within this part of where they began ..."""
    frozen_after: float = 0.3
    """... after this part of the run."""
    one_code: float = 0.05
    """Collapsed: entropy of the mean K-way assignment below this part of log K."""
    few_codes: float = 0.02
    """Collapsed: share of the outputs that could win a row of the batch, and do, below this."""
    even_codes: float = 0.9995
    """Constant outputs: entropy of the K-way assignments, mean and single, above this part of log K."""
    starved: float = 0.5
    """Data-starved: part of the training time spent waiting for pictures above this."""


@dataclass(frozen=True)
class Verdict:
    """What the monitors say of a run."""

    status: str  #: one of STATUSES
    why: str  #: one line with the numbers it rests on
    remedy: str  #: one line, what to try; empty when nothing is needed

    @property
    def bad(self) -> bool:
        """True when the run needs attention."""
        return self.status not in ("healthy", "too early to tell")


STATUSES = (
    "healthy",
    "too early to tell",
    "collapsed",
    "dimensional collapse",
    "at the loss of constant outputs",
    "diverging",
    "not learning",
    "data-starved",
)
MOVING = ("std", "rank", "features_std", "features_rank")  #: monitors that training moves
_REMEDY = {
    "collapsed": "check the stop-gradient, the predictor and batch norm of the head; lower the learning rate; "
    "for prototypes raise the Sinkhorn iterations or the teacher's temperature warm-up",
    "dimensional collapse": "strengthen the augmentation (colours are the usual shortcut), widen the head, lower the weight decay; "
    "for redundancy reduction raise the off-diagonal or variance weight",
    "at the loss of constant outputs": "lower the learning rate, lengthen its warm-up, check the temperature",
    "diverging": "lower the learning rate, lengthen its warm-up, clip gradients, try --precision fp32",
    "data-starved": "more --workers, --cache disk, smaller files or a faster disk; a larger network would cost no time",
    "not learning": "check that the learning rate is above 0 and that the encoder's parameters are in a group",
}


@torch.no_grad()
def monitors(features: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
    """Spread of the encoder's features (n, D) and of the head's embeddings (n, d), of at least two pictures.

    Returns float64 scalars of the embeddings, and with the prefix `features_` of the features:

    - `std`: mean over dimensions of the standard deviation of the unit rows, times sqrt(d): 1 isotropic, 0 collapsed;
    - `rank`: effective rank, exp of the entropy of the singular values of the centred rows normalised to sum 1 (Roy and
      Vetterli 2007), at most min(n - 1, d); 1 when all rows are equal;
    - `cosine`: mean cosine of two different rows;
    - `dim`: min(n - 1, d), what the rank could be at most;

    and `finite`, the fraction of rows of both without NaN or infinity; other rows count as zero.
    """
    found: dict[str, Tensor] = {}
    finite = torch.stack([torch.isfinite(x).all(1).double().mean() for x in (features, embeddings)]).mean()
    for prefix, x in (("", embeddings), ("features_", features)):
        x = torch.where(torch.isfinite(x).all(1, keepdim=True), x, torch.zeros_like(x)).double()
        count, width = x.shape
        unit = F.normalize(x, dim=1)
        centred = x - x.mean(0)
        gram = centred.T @ centred if width <= count else centred @ centred.T
        scale = x.square().sum().clamp(min=1e-300)
        energy = torch.linalg.eigvalsh(gram / scale)
        values = torch.where(energy > 1e-14, energy, torch.zeros_like(energy)).sqrt()  # rounding is no direction
        share = values / values.sum().clamp(min=1e-300)
        total = unit.sum(0).square().sum() - unit.square().sum()
        found[prefix + "std"] = unit.std(0, correction=0).mean() * math.sqrt(width)
        found[prefix + "rank"] = (-torch.special.xlogy(share, share).sum()).exp()
        found[prefix + "cosine"] = total / (count * (count - 1))
        found[prefix + "dim"] = x.new_tensor(float(min(count - 1, width)))
    found["finite"] = finite
    return found


@torch.no_grad()
def assignments(codes: Tensor) -> dict[str, Tensor]:
    """What the verdict reads of K-way assignments, (B, K) rows that sum to 1: logs of a method, () each.

    Entropy relative to log K of single rows (`code_entropy`: 1 says nothing) and of their mean (`mean_code_entropy`: 0
    says the same of all), and how many outputs win a row, relative to how many could (`used`).
    """
    top, mean = math.log(codes.shape[1]), codes.mean(0)
    used = torch.zeros_like(mean).index_fill_(0, codes.argmax(1), 1.0).sum() / min(codes.shape)
    return {
        "code_entropy": -torch.special.xlogy(codes, codes).sum(1).mean() / top,
        "mean_code_entropy": -torch.special.xlogy(mean, mean).sum() / top,
        "used": used,
    }


def verdict(
    now: Mapping[str, float],
    losses: Sequence[tuple[int, float]],
    *,
    progress: float,
    constant_loss: float | None = None,
    history: Sequence[Mapping[str, float]] = (),
    logs: Mapping[str, float] | None = None,
    waiting: float = 0.0,
    limits: Limits | None = None,
) -> Verdict:
    """Judge a run by its monitors and its loss. A pure function.

    Args:
        now: what `monitors` returned; may be empty.
        losses: (step, loss) as logged, from the start.
        progress: part of the run that is done, 0..1.
        constant_loss: the method's loss when all outputs are equal, if it has one.
        history: earlier monitors, oldest first; best from the untrained network on. Who grows above all of them from a
            low start has not collapsed; who was high and bounces has.
        logs: the method's latest logs. Of K-way methods `mean_code_entropy` (of the mean assignment) and `code_entropy`
            (mean over assignments), both relative to log K, and `used` (see `assignments`) are understood; `agreement`
            (how often student and teacher, or two views, have the same winner) is told.
        waiting: part of the training time in which the loop waited for pictures, 0..1.
        limits: the thresholds.
    """
    limit, logs, values = limits or Limits(), logs or {}, [value for _, value in losses]
    if values and not math.isfinite(values[-1]):
        return _say("diverging", f"the loss is {values[-1]}")
    if now.get("finite", 1.0) < 1 or not all(math.isfinite(now[name]) for name in MOVING if name in now):
        return _say("diverging", "outputs or gradients are not finite")
    warm = 0.5  # as part of the run
    if losses and losses[-1][0] and progress > 0:
        warm = min(warm, max(limit.warm_steps * progress / losses[-1][0], limit.warm_part))
    if progress < warm:
        return Verdict("too early to tell", f"{progress:.0%} done; judged from {warm:.0%} on", "")
    headless = now.get("std") == now.get("features_std")  # what is looked at is the encoder's output
    for name, who, least in (
        ("std", "the head's outputs", limit.features_spread if headless else limit.spread),
        ("features_std", "the encoder's features", limit.features_spread),
    ):
        if now.get(name, 1.0) < least and not _grows(now, history, name, limit):
            return _say("collapsed", f"{who} hardly differ between pictures: spread {_number(now, name)} of 1/sqrt(D)")
    mean_entropy, entropy = logs.get("mean_code_entropy", 0.5), logs.get("code_entropy", 0.5)
    if mean_entropy < limit.one_code:
        return _say(
            "collapsed", f"nearly all pictures get the same code: entropy of the mean {mean_entropy:.2g} of log K"
        )
    if (used := logs.get("used", 1.0)) < limit.few_codes:
        return _say("collapsed", f"{used:.1%} of the codes that the batch could use are in use")
    if min(mean_entropy, entropy) > limit.even_codes:
        return _say("at the loss of constant outputs", "every picture gets the uniform code")
    enough = len(values) >= limit.fewest and all(math.isfinite(x) for x in values)
    if enough and constant_loss is not None and _at_constant(values, constant_loss, now, limit):
        why = f"loss {_late(values):.4g}, equal outputs for all pictures would have {constant_loss:.4g}"
        return _say("at the loss of constant outputs", why)
    if enough and (rise := _rise(values)) > limit.diverging:
        return _say("diverging", f"loss {_late(values):.4g} lies {rise:.1f} times its former range above its lowest")
    possible = now.get("features_dim", math.inf)
    line = max(limit.rank_least, min(limit.rank_part * possible, limit.rank_most))
    if now.get("features_rank", math.inf) < line and not _grows(now, history, "features_rank", limit):
        why = f"the features vary in {now['features_rank']:.1f} directions of {possible:.0f}"
        return _say("dimensional collapse", why)
    begun = history[0].get("features_rank", 0.0) if history else 0.0
    if now.get("features_rank", math.inf) < min(limit.rank_lost * begun, limit.rank_low):
        why = f"the features vary in {now['features_rank']:.1f} directions, {begun:.1f} before training"
        return _say("dimensional collapse", why)
    if now.get("rank", math.inf) < limit.rank_least and not _grows(now, history, "rank", limit):
        return _say("dimensional collapse", f"the head's outputs vary in {now['rank']:.1f} directions")
    if enough and history and progress >= limit.frozen_after and _frozen(values, history[0], now, limit):
        return _say("not learning", f"loss {_late(values):.4g} and the features are where they began")
    if waiting > limit.starved:
        return _say("data-starved", f"{waiting:.0%} of the time went by waiting for pictures; it learns, slowly")
    if "std" in now and "features_rank" in now:
        rank = f"features' rank {now['features_rank']:.1f} of {possible:.0f}"
        codes = f", {logs['used']:.0%} of the codes in use" if "used" in logs else ""
        agree = f", winners agree on {logs['agreement']:.0%}" if "agreement" in logs else ""
        return Verdict("healthy", f"spread {_number(now, 'std')} of 1/sqrt(D), {rank}{codes}{agree}", "")
    return Verdict("healthy", f"loss {_late(values):.4g}" if values else "nothing speaks against it", "")


def _say(status: str, why: str) -> Verdict:
    return Verdict(status, why, _REMEDY[status])


def _number(now: Mapping[str, float], name: str) -> str:
    return f"{now.get(name, math.nan):.2g}"


def _grows(now: Mapping[str, float], history: Sequence[Mapping[str, float]], name: str, limit: Limits) -> bool:
    return bool(history) and now[name] > limit.rising * max(before.get(name, math.inf) for before in history)


def _window(losses: Sequence[float]) -> int:
    return min(max(3, len(losses) // 10), 20)


def _late(losses: Sequence[float]) -> float:
    return median(losses[-_window(losses) :])  # one bad batch is no trend


def _at_constant(losses: Sequence[float], constant: float, now: Mapping[str, float], limit: Limits) -> bool:
    """Near the value, and either the outputs hardly vary or the loss began there and never left: for methods whose
    minimum is that value (BYOL 0, SimSiam -1) coming down to it is what they should do, unless the spread goes.
    """
    near = limit.constant * max(1.0, abs(constant))
    if abs(_late(losses) - constant) > near:
        return False
    return now.get("std", 1.0) < limit.moderate or all(abs(x - constant) <= 4 * near for x in losses)


def _rise(losses: Sequence[float]) -> float:
    """How far the late loss lies above the smallest one, in units of the range of the first three quarters."""
    early = losses[: max(3, 3 * len(losses) // 4)]
    low, high = min(early), max(early)
    return (_late(losses) - low) / max(high - low, 1e-3 * max(1.0, abs(low)))


def _frozen(losses: Sequence[float], begun: Mapping[str, float], now: Mapping[str, float], limit: Limits) -> bool:
    """The loss's trend is small beside the loss and its noise, and the monitors did not move."""
    window = _window(losses)
    trend = abs(fmean(losses[-window:]) - fmean(losses[:window]))
    noise = fmean(abs(x - median(losses)) for x in losses)
    if trend > max(limit.frozen * abs(fmean(losses[:window])), 0.5 * noise):
        return False
    names = [name for name in MOVING if name in begun and name in now]
    return bool(names) and all(abs(now[n] - begun[n]) <= limit.frozen * abs(begun[n]) for n in names)
