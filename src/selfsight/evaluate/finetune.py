"""Classifiers that learn from augmented views: linear heads on a frozen encoder, and fine-tuning of the whole network.

Both train a copy of the encoder by the loop of pre-training (train.py): an epoch is a random order without the pictures that
do not fill a last batch. Legend: N training pictures, R rates, D features, K classes.
"""

from __future__ import annotations

import copy
from statistics import fmean, stdev
from typing import Any, Literal

import torch
from torch import nn

from selfsight.data import Part
from selfsight.data.split import hold_out
from selfsight.errors import WrongUse
from selfsight.evaluate.classifier import BatchNorm, Classifier
from selfsight.evaluate.features import extract
from selfsight.evaluate.fewshot import draw
from selfsight.evaluate.linear import fit_logistic
from selfsight.evaluate.subject import Subject
from selfsight.evaluate.training import Optimizer, Precision, Training, accuracies, crop_of, train

RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


def linear_views(
    subject: Subject,
    *,
    rates: tuple[float, ...] = RATES,
    epochs: float = 100,
    batch_size: int = 256,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    warmup: float = 0.0,
    optimizer: Optimizer = "sgd",
    norm: Literal["none", "batch"] = "none",
    policy: str = "crop-flip",
    scale: tuple[float, ...] = (),
    crop: float = 0.0,
    validation: float = 0.1,
    precision: Precision = "fp32",
    seed: int = 0,
) -> dict[str, Any]:
    """Linear heads on a frozen encoder, trained on augmented views, several rates at once (the ImageNet protocol).

    The encoder stays in eval mode and gets no gradient. All heads see the same views in the same order, each at its own rate
    (as in the evaluations of MAE and DINOv2); the head that is best on a part of the *training* pictures is reported, after
    the last epoch. 100 epochs, batch 256, SGD without decay and a cosine are DINO's (arXiv 2104.14294, code) and near those
    of most papers; the rates are ours and reach MoCo's 30.

    Args:
        subject: what is evaluated.
        rates: per 256 pictures of a step, one for each head.
        epochs: passes over the training pictures.
        batch_size: pictures of a step; at most N.
        weight_decay: of the heads' weights.
        momentum: of SGD and LARS.
        warmup: epochs of a linear warm-up.
        optimizer: sgd, adamw or lars.
        norm: batch: features are normalised before the head, without weights, as MAE's are (arXiv 2111.06377, A.1).
        policy: augmentation of training, see `selfsight list policies`.
        scale: area of its crops, two shares of the picture's; none: as the policy has it.
        crop: test pictures are the central square, of it the middle with this share of the side; 0: 0.875 from 128 px on
            (224 of 256, as on ImageNet), else 1.
        validation: share of the training pictures, stratified, that chooses the rate and is not learned from; 0 with one rate.
        precision: fp32 or bf16, of training.
        seed: of that part, the order and the views.

    Returns:
        `top1`, `top5` (test), `validation_top1`, `rate` (that was chosen), `rates`: for each its `rate`, `validation_top1`,
        `top1`, `train_loss` (last epoch, views); `crop`, `protocol`.

    Raises:
        WrongUse: numbers that make no sense, no network, or no labelled training pictures.
    """
    if not rates or min(rates) <= 0 or (len(rates) > 1 and validation <= 0):
        raise WrongUse(
            f"rates {rates}, validation {validation:g}: rates are above 0, and several need a validation part"
        )
    training = Training(epochs, batch_size, weight_decay, momentum, warmup, optimizer, policy, tuple(scale), precision)
    encoder, part, _, test_labels = subject.learner("linear-views")
    crop = crop_of(crop, subject.side)
    kept, held = hold_out(len(part), part.labels, validation, seed)
    model = Classifier(copy.deepcopy(encoder.net), encoder.dim, subject.count, rates, norm=norm)
    run, losses = train(model, encoder, subject, part.subset(kept), training, seed)
    chosen, validated = 0, None
    if len(held):
        judged = part.subset(held)
        assert judged.labels is not None
        validated = accuracies(model, encoder, subject, judged, judged.labels, crop)[:, 0]
        chosen = int(validated.argmax())  # of equals the smaller rate, if they ascend
    tested = accuracies(model, encoder, subject, subject.test, test_labels, crop)
    table = [
        {
            "rate": rate,
            "top1": float(tested[i, 0]),
            "validation_top1": None if validated is None else float(validated[i]),
            "train_loss": losses[i],
        }
        for i, rate in enumerate(rates)
    ]
    several = f"{len(rates)} linear heads, the best on {len(held)} training pictures that were kept apart,"
    heads = several if len(rates) > 1 else "a linear head"
    return {
        "top1": float(tested[chosen, 0]),
        "top5": float(tested[chosen, 1]),
        "validation_top1": table[chosen]["validation_top1"],
        "rate": rates[chosen],
        "rates": table,
        "crop": crop,
        "protocol": f"{heads} on the frozen encoder{', normalised' * (norm == 'batch')}; "
        + training.told(run, crop, subject.side),
    }


def finetune(
    subject: Subject,
    *,
    lr: float = 0.01,
    head_lr: float = 0.2,
    epochs: float = 20,
    batch_size: int = 256,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    warmup: float = 0.0,
    optimizer: Optimizer = "sgd",
    smoothing: float = 0.0,
    layer_decay: float = 1.0,
    batchnorm: BatchNorm = "train",
    head: Literal["zero", "linear"] = "zero",
    labels: float = 0.0,
    draws: int = 1,
    validation: float = 0.0,
    policy: str = "crop-flip",
    scale: tuple[float, ...] = (),
    crop: float = 0.0,
    precision: Precision = "fp32",
    seed: int = 0,
) -> dict[str, Any]:
    """Fine-tuning: the whole network and a linear head learn the labels, of all training pictures or of a few.

    The defaults are those of SwAV's evaluation with 10 % of the labels (arXiv 2006.09882, code: SGD, 20 epochs, batch 256,
    0.01 for the body and 0.2 for the head, no decay), but with a cosine for its two steps. A copy is trained; the encoder
    that was given stays as it is. The last epoch is reported.

    Args:
        subject: what is evaluated.
        lr: rate of the body per 256 pictures of a step; 0: it learns nothing.
        head_lr: of the head.
        epochs: passes over the labelled pictures.
        batch_size: pictures of a step; at most as many as there are.
        weight_decay: not of biases and norms.
        momentum: of SGD and LARS.
        warmup: epochs of a linear warm-up.
        optimizer: sgd, adamw or lars.
        smoothing: of labels.
        layer_decay: transformers: rates get this times smaller with each layer further from the head (0.65 to 0.75 is usual).
        batchnorm: train: batches are normalised by their own statistics, the running ones follow, weights and biases learn.
            statistics: the statistics of pre-training normalise and stay; weights and biases learn. frozen: weights and biases
            stay, too.
        head: where the head begins: at zero, or where `linear` puts it, fitted to the frozen features of the same pictures.
        labels: so many labelled pictures of each class (1, 2, ...), or below 1 a share of all; 0: all.
        draws: repeat with the seeds seed, seed + 1, ...: other labelled pictures, order and views.
        validation: share of the training pictures that is kept apart, to choose settings by.
        policy, scale, crop, precision: see `linear_views`.
        seed: of the labelled pictures, the validation part, the order and the views.

    Returns:
        `top1`, `top5` (test), `validation_top1` (None without such a part), `train_loss` (last epoch, views): means over draws;
        `top1_std` (sample deviation, None of one), `each` (top-1), `rows` (labelled pictures), `draws`, `crop`, `protocol`.

    Raises:
        WrongUse: numbers that make no sense, no network, or no labelled training pictures.
    """
    if lr < 0 or not head_lr > 0 or draws < 1 or not 0 <= smoothing < 1 or not 0 < layer_decay <= 1:
        raise WrongUse(
            f"lr {lr:g}, head_lr {head_lr:g}, draws {draws}, smoothing {smoothing:g}, layer_decay {layer_decay:g}: give "
            "lr >= 0, head_lr > 0, at least one draw, smoothing below 1 and layer_decay above 0, up to 1"
        )
    training = Training(epochs, batch_size, weight_decay, momentum, warmup, optimizer, policy, tuple(scale), precision)
    encoder, whole, _, test_labels = subject.learner("finetune")
    crop, found = crop_of(crop, subject.side), []
    for which in range(draws):
        own = seed + which
        kept, held = hold_out(len(whole), whole.labels, validation, own)
        part = whole.subset(kept)
        assert part.labels is not None
        rows = draw(part.labels, labels, own, 0) if labels else torch.arange(len(part))
        part = part.subset(rows)
        net = copy.deepcopy(encoder.net)
        model = Classifier(net, encoder.dim, subject.count, (head_lr,), lr, batchnorm, smoothing, layer_decay)
        if head == "linear":
            _fitted(model.heads[0], subject, part, own)
        run, (loss,) = train(model, encoder, subject, part, training, own)
        tested = accuracies(model, encoder, subject, subject.test, test_labels, crop)[0].tolist()
        validated = None
        if len(held):
            judged = whole.subset(held)
            assert judged.labels is not None
            validated = float(accuracies(model, encoder, subject, judged, judged.labels, crop)[0, 0])
        found.append((*tested, loss, validated))
    top1, top5, losses, judgements = zip(*found)
    return {
        "top1": fmean(top1),
        "top5": fmean(top5),
        "top1_std": stdev(top1) if draws > 1 else None,
        "validation_top1": fmean(judgements) if validation else None,
        "train_loss": fmean(losses),
        "each": list(top1),
        "rows": len(part),
        "draws": draws,
        "crop": crop,
        "protocol": f"fine-tuning on {len(part)} labelled pictures, body {lr:g}, head {head_lr:g} from {head}, batch norm "
        f"{batchnorm}{f', layer decay {layer_decay:g}' * (layer_decay != 1)}{f', smoothing {smoothing:g}' * (smoothing > 0)}; "
        + training.told(run, crop, subject.side),
    }


def _fitted(head: nn.Module, subject: Subject, part: Part, seed: int) -> None:
    """Set a head to the logistic regression on frozen features of these pictures."""
    assert part.labels is not None
    features = extract(subject.net, subject.chunks(part), subject.device)
    found = fit_logistic(features.to(subject.device), part.labels, subject.count, seed)
    with torch.no_grad():
        head.weight.copy_(found.weight.T)  # type: ignore[operator]
        head.bias.copy_(found.bias)  # type: ignore[operator]
