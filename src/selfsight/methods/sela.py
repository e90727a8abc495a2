"""SeLa: Self-labelling via Simultaneous Clustering and Representation Learning (arXiv 1911.05371)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn

from selfsight import distributed, health
from selfsight.assign import balanced_labels
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse, above, at_least
from selfsight.losses.clustering import pseudo_labels
from selfsight.nn import activated, collect, each_view, share


@dataclass(frozen=True)
class SeLaConfig:
    """Settings of SeLa; defaults are the authors' for ImageNet (paper and code)."""

    clusters: int = 3000
    """Labels of each head K."""
    heads: int = 10
    """Linear heads H, each with a labelling of its own."""
    sharpness: float = 25.0
    """How little entropy the assignment has, lambda; larger is sharper."""
    relabels: int = 100
    """Relabellings in a run, the first before the first step; the last falls behind its end."""
    spacing: Literal["quadratic", "linear"] = "quadratic"
    """Relabellings are dense early and sparse late, or evenly spaced (the authors' code for CIFAR)."""
    one_head: bool = False
    """A relabelling solves one head, in turn (the authors' code for CIFAR), in place of all of them."""
    label_pass: Literal["eval", "train"] = "eval"
    """Mode of the network when the data set is labelled; train: with dropout and batch statistics, as the authors' code."""
    tolerance: float = 1e-3
    """Relabelling stops when no label's share is further than this from N / K, relative to it ..."""
    iterations: int = 1000
    """... or after so many iterations."""
    cache: float = 1024
    """MiB of logits that a relabelling may keep in place of computing them at each iteration."""

    def __post_init__(self) -> None:
        at_least(self, 2, "clusters")
        at_least(self, 1, "heads", "relabels", "iterations")
        at_least(self, 0, "cache")
        above(self, 0, "sharpness", "tolerance")
        for name, values in {"spacing": ("quadratic", "linear"), "label_pass": ("eval", "train")}.items():
            if getattr(self, name) not in values:
                raise WrongUse(f"method.{name} is {getattr(self, name)!r}: use {' or '.join(values)}")


class SeLa(Method):
    """Cross-entropy on labels that optimal transport gives the whole data set, each label equally often."""

    Config = SeLaConfig
    indexed = True
    sample_mean = True
    global_views = 1

    def __init__(self, config: SeLaConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        count = len(data)
        if count < config.clusters:
            raise WrongUse(
                f"method.clusters is {config.clusters} but there are {count} pictures: choose at most {count}"
            )
        self.config, self.encoder = config, encoder
        self.head = nn.Linear(int(encoder.dim), config.heads * config.clusters)  # type: ignore[arg-type]
        even = torch.arange(count) % config.clusters
        # every head starts from a shuffling of its own, or all would become one
        self.register_buffer(
            "labels", torch.stack([even[torch.randperm(count)] for _ in range(config.heads)])
        )  # (H, N)
        self.register_buffer("agreement", torch.zeros(()))  # NMI of the last relabelling with the labels before it
        self.labels: Tensor
        self.agreement: Tensor

    def due(self, step: Step) -> list[int]:
        """The numbers i of the relabellings that this step begins with: t_i = (E + 1.01) (i / (n - 1))^2 epochs."""
        power = 2 if self.config.spacing == "quadratic" else 1
        length = step.total + 1.01 * step.per_epoch  # in steps
        times = [length * (i / max(1, self.config.relabels - 1)) ** power for i in range(self.config.relabels)]
        return [i for i, time in enumerate(times) if step.index - 1 < time <= step.index]

    def before_step(self, step: Step, data: Data) -> None:
        config, events = self.config, self.due(step)
        if not events:
            return
        features = data.sweep(self.encoder, rng=step.rng, train=config.label_pass == "train")  # row i is of picture i
        features = activated(self.encoder, features)
        mine, agreement = share(len(features)), []
        heads = sorted({i % config.heads for i in events}) if config.one_head else range(config.heads)
        weights, biases = (distributed.whole(p).chunk(config.heads) for p in (self.head.weight, self.head.bias))
        for head in heads:
            found = balanced_labels(
                features[mine], weights[head], biases[head], config.sharpness, tolerance=config.tolerance,
                iterations=config.iterations, cache=int(config.cache * 2**20), all_sum=distributed.all_sum,
            )  # fmt: skip
            labels = collect(found, len(features))
            agreement.append(normalized_mutual_info_score(self.labels[head].cpu(), labels.cpu()))
            self.labels[head] = labels
        self.agreement.fill_(sum(agreement) / len(agreement))

    def encode(self, views: Views, step: Step) -> Views:
        features = activated(self.encoder, each_view(self.encoder, views["global"], joint=True))
        return {"logits": self.head(features)[0].unflatten(1, (self.config.heads, -1)).transpose(0, 1)}  # (H, B, K)

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        logits, labels = outputs["logits"], self.labels[:, index]  # (H, B, K), (H, B)
        loss = pseudo_labels(logits, labels)  # eq. 1, the mean over heads
        found = logits[0].detach().float()
        logs = health.assignments(found.softmax(1)) | {
            "pseudo_label_accuracy": (found.argmax(1) == labels[0]).float().mean(),
            "nmi_previous": self.agreement,
        }
        return Output(loss, logs)

    def assignment(self) -> Tensor:
        return self.labels

    def constant_loss(self, batch: int) -> float:
        """Log K: every label is equally likely."""
        return math.log(self.config.clusters)
