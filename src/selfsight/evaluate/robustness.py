"""How much accuracy is left on corrupted pictures. Legend: N, M pictures, D features, K classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from selfsight.augment.corruptions import CORRUPTIONS, check, corrupt
from selfsight.errors import WrongUse
from selfsight.evaluate.knn import knn, rank_of
from selfsight.evaluate.linear import fit_logistic
from selfsight.evaluate.subject import Subject
from selfsight.rng import Stream, generator


def robustness(
    subject: Subject,
    *,
    classifier: Literal["linear", "knn"] = "linear",
    corruptions: tuple[str, ...] = (),
    severities: tuple[int, ...] = (1, 2, 3, 4, 5),
    pictures: int = 0,
    k: int = 20,
    temperature: float = 0.07,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy on corrupted test pictures (noise, blur, weather, JPEG, ...) of a classifier that learned from clean ones.

    The corruptions are made here, see `augment.corruptions`; they are not the published sets. The classifier learns from the
    features of the clean training pictures, which other protocols share, and nothing is chosen on corrupted ones.

    Args:
        subject: what is evaluated.
        classifier: linear: the logistic regression of `linear`; knn: a vote of neighbours.
        corruptions: names of CORRUPTIONS; none: all.
        severities: some of 1 to 5.
        pictures: of the test part that are asked, a seeded choice; 0: all.
        k, temperature: of knn.
        seed: of the corruptions, the choice of pictures, and of how the classifier is fitted.

    Returns:
        `top1` (mean over corruptions and severities), `clean_top1`, `drop` (1 - top1 / clean_top1), `corruptions`: for each its
        `name`, `top1` (mean over severities), `drop`, and `severity 1` ... (top-1); `pictures`, `classifier`, `protocol`.

    Raises:
        WrongUse: an unknown corruption or severity, or no labelled training pictures.
    """
    names, severities = tuple(corruptions or CORRUPTIONS), tuple(int(s) for s in severities)
    check(names, severities)
    if subject.labels is None or subject.test_labels is None or pictures < 0:
        raise WrongUse("robustness needs labelled pictures, and a number of them that is not negative")
    train, device = subject.sets.train, subject.device
    assert train is not None
    hits = _judge(classifier, train.to(device), subject.labels.to(device), subject.count, k, temperature, seed)
    part, wanted = subject.test, subject.test_labels
    if pictures and pictures < len(part):
        rows = torch.randperm(len(part), generator=generator(seed, Stream.PROBE, 10))[:pictures].sort().values
        part, wanted = part.subset(rows), wanted[rows]
    net, channels, side = subject.net, subject.channels, subject.side
    right = torch.zeros(len(names), len(severities), dtype=torch.int64, device=device)
    clean, start = torch.zeros((), dtype=torch.int64, device=device), 0
    with torch.no_grad():
        for x in subject.chunks(part):  # each picture is read once, and gets all its corruptions
            asked = wanted[start : start + len(x)].to(device)
            clean += hits(net(x).float(), asked)
            for i, name in enumerate(names):
                key = generator(seed, Stream.PROBE, 11, [*CORRUPTIONS].index(name), start)
                drawn = CORRUPTIONS[name].draw(len(x), channels, side, key).to(device)
                for j, severity in enumerate(severities):
                    right[i, j] += hits(net(corrupt(name, x, drawn, severity)).float(), asked)
            start += len(x)
    shares, before = (right.double() / start).cpu(), int(clean) / start
    after = float(shares.mean())
    drop = lambda top1: 1 - top1 / before if before else None
    table = [
        {"name": name, "top1": float(row.mean()), "drop": drop(float(row.mean()))}
        | {f"severity {severity}": float(value) for severity, value in zip(severities, row)}
        for name, row in zip(names, shares)
    ]
    how = "logistic regression" if classifier == "linear" else f"vote of {k} neighbours, T {temperature:g},"
    return {
        "top1": after,
        "clean_top1": before,
        "drop": drop(after),
        "corruptions": table,
        "pictures": start,
        "classifier": classifier,
        "protocol": f"{how} on clean training features, asked about corrupted test pictures; selfsight's own corruptions, "
        f"mean of {len(names)} kinds and {len(severities)} severities",
    }


def _judge(
    classifier: str, train: Tensor, labels: Tensor, classes: int, k: int, temperature: float, seed: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """(features (n, D), labels (n,) on the device) -> () how many are right, on the device."""
    if classifier == "knn":

        def vote(features: Tensor, wanted: Tensor) -> Tensor:
            votes = knn(train, labels, features, k, temperature, classes=classes)
            return (rank_of(votes, wanted.cpu(), needs_vote=True) < 1).sum().to(train.device)

        return vote
    fitted = fit_logistic(train, labels, classes, seed)
    return lambda features, wanted: (rank_of(fitted.scores(features), wanted) < 1).sum()
