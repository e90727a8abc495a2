"""Numbers of repetitions: mean, deviation, paired tests over seeds. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any


def spread(each: Mapping[int, float]) -> dict[str, Any]:
    """Seed -> value becomes `mean`, `std` (sample deviation; None of one seed), `n` and `each`."""
    values = list(each.values())
    return {
        "mean": fmean(values),
        "std": stdev(values) if len(values) > 1 else None,
        "n": len(values),
        "each": {str(seed): value for seed, value in sorted(each.items())},
    }


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any]:
    """Differences ours - theirs over the seeds that both have, and how likely chance makes such ones.

    Two-sided paired t test and Wilcoxon's signed-rank test by scipy. Seeds pair because a seed fixes the hold-out part
    and the order of the pictures. Of n seeds the second cannot fall below 2 / 2^n. Nothing is corrected for the number
    of comparisons.

    Returns:
        `difference` (mean; None without a seed in common), `n`, `t_p`, `wilcoxon_p` (None below two seeds, or where all
        differences are zero).
    """
    seeds = sorted(set(ours) & set(theirs))
    differences = [ours[s] - theirs[s] for s in seeds]
    found: dict[str, Any] = {
        "difference": fmean(differences) if seeds else None, "n": len(seeds), "t_p": None, "wilcoxon_p": None,
    }  # fmt: skip
    if len(seeds) > 1 and any(differences):
        from scipy import stats

        if max(differences) - min(differences) > 1e-12:
            found["t_p"] = _finite(stats.ttest_1samp(differences, 0.0).pvalue)
        else:  # no deviation at all: t is infinite
            found["t_p"] = 0.0
        found["wilcoxon_p"] = _finite(stats.wilcoxon(differences).pvalue)
    return found


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


HEADLINES = {"purity": "purity", "cluster": "accuracy", "retrieval": "map", "geometry": "rankme"}
"""The number of a protocol that a table shows, where it is not `top1`."""


def headlines(protocol: str, found: Mapping[str, Any]) -> dict[str, float]:
    """Column of a table -> number, of what a protocol returned: one, or one for each amount of labels."""
    if "amounts" in found:
        return {f"{protocol}, {some['labels']}": float(some["top1"]) for some in found["amounts"]}
    return {protocol: float(found[HEADLINES.get(protocol, "top1")])}
