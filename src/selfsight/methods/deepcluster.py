"""DeepCluster: Deep Clustering for Unsupervised Learning of Visual Features (arXiv 1807.05520)."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn

from selfsight import distributed, health
from selfsight.assign import kmeans, pca_whiten, uniform_rows
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse, at_least
from selfsight.losses.clustering import pseudo_labels
from selfsight.nn import activated, collect, each_view, share


@dataclass(frozen=True)
class DeepClusterConfig:
    """Settings of DeepCluster; defaults are the paper's for ImageNet (section 3.3)."""

    clusters: int = 10000
    """Number of clusters k; about ten times the number of classes is a good start."""
    pca: int = 256
    """Dimension after PCA-whitening of the features; 0: the features themselves, without whitening."""
    iterations: int = 20
    """Iterations of k-means."""
    every: int = 1
    """Epochs between two clusterings."""
    balanced: Literal["sample", "weight", "off"] = "sample"
    """Every cluster counts the same: pictures are sampled uniformly over clusters, or weighted in the loss; off: neither."""
    head: Literal["new", "matched"] = "new"
    """What a clustering does to the head: drawn anew (the paper), or kept, and each cluster gets the number of the old one
    that it shares most pictures with (Hungarian algorithm)."""
    backend: Literal["own", "faiss"] = "own"
    """Which k-means: our own on all processes, or faiss (to be installed) on the first."""

    def __post_init__(self) -> None:
        at_least(self, 2, "clusters")
        at_least(self, 1, "iterations", "every")
        at_least(self, 0, "pca")
        known = {"balanced": ("sample", "weight", "off"), "head": ("new", "matched"), "backend": ("own", "faiss")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise WrongUse(f"method.{name} is {getattr(self, name)!r}: use one of {', '.join(values)}")


class DeepCluster(Method):
    """k-means on the features of the whole data set makes the labels that the next epoch learns."""

    Config = DeepClusterConfig
    indexed = True
    sample_mean = True
    global_views = 1

    def __init__(self, config: DeepClusterConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        if len(data) < 2 * config.clusters:
            raise WrongUse(
                f"method.clusters is {config.clusters} but there are only {len(data)} pictures: "
                f"choose at most {max(2, len(data) // 2)} clusters, better {max(2, len(data) // 50)}"
            )
        if config.backend == "faiss":
            _faiss()
        self.config, self.encoder = config, encoder
        self.reorders = config.balanced == "sample"
        self.head = nn.Linear(int(encoder.dim), config.clusters)  # type: ignore[arg-type]
        self.register_buffer("labels", torch.zeros(len(data), dtype=torch.long))  # (N,) label of picture i
        self.register_buffer("weights", torch.ones(config.clusters))  # (K,) weight of a picture by its label, 0: none
        self.register_buffer("agreement", torch.zeros(()))  # NMI between this clustering and the one before
        self.labels: Tensor
        self.weights: Tensor
        self.agreement: Tensor

    def before_step(self, step: Step, data: Data) -> None:
        if not (step.epoch_starts and step.epoch % self.config.every == 0):
            return
        labels = self.cluster(data.sweep(self.encoder), step.rng)  # row i belongs to picture i
        self.agreement.fill_(normalized_mutual_info_score(self.labels.cpu(), labels.cpu()))
        if self.config.head == "matched" and step.index:
            labels = matched(labels, self.labels, self.config.clusters)
        else:  # cluster numbers mean nothing across clusterings: a head without a past, its group carries no momentum
            weight = torch.empty(self.head.weight.shape).normal_(0, 0.01, generator=step.rng)
            distributed.write(self.head.weight, weight)
            distributed.write(self.head.bias, torch.zeros(self.config.clusters))
        self.labels.copy_(labels)
        size = labels.bincount(minlength=self.config.clusters)
        even = len(labels) / ((size > 0).sum() * size.clamp(min=1))
        self.weights.copy_((size > 0) * (even if self.config.balanced == "weight" else 1.0))

    def cluster(self, features: Tensor, rng: torch.Generator) -> Tensor:
        """PCA-whitening, unit length, k-means (section 3.3, implementation details). (N, D) -> (N,) int64."""
        count, mine, config = len(features), share(len(features)), self.config
        rows = features[mine]
        if config.pca:
            dim = min(config.pca, features.shape[1], max(1, count // 10))
            rows = pca_whiten(rows, dim, distributed.all_sum)
        rows = F.normalize(rows, dim=1)
        if config.backend == "faiss":
            everyone, seed = collect(rows, count), int(torch.randint(2**31, (), generator=rng))
            found = distributed.from_first(lambda: _by_faiss(everyone.cpu(), config.clusters, config.iterations, seed))
            return found.to(features.device)
        labels, _ = kmeans(
            rows, config.clusters, config.iterations, rng, all_sum=distributed.all_sum, all_max=distributed.all_max,
            place=(mine.start, count),
        )  # fmt: skip
        return collect(labels, count)

    def order(self, step: Step) -> Tensor:
        return uniform_rows(self.labels.cpu(), step.rng)[: len(self.labels)]

    def encode(self, views: Views, step: Step) -> Views:
        features = activated(self.encoder, each_view(self.encoder, views["global"], joint=True))
        return {"logits": self.head(features)}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        logits, labels = outputs["logits"][0], self.labels[index]  # (B, K), (B,)
        loss = pseudo_labels(logits, labels, weights=self.weights[labels])
        found = logits.detach().float()
        logs = health.assignments(found.softmax(1)) | {
            "used": (self.weights > 0).float().mean(),
            "pseudo_label_accuracy": (found.argmax(1) == labels).float().mean(),
            "nmi_previous": self.agreement,
        }
        return Output(loss, logs)

    def param_groups(self) -> list[dict[str, Any]]:
        new = (
            self.config.every if self.config.head == "new" else 0
        )  # a head without a past has an optimizer without one
        head = {"params": list(self.head.parameters()), "momentum": 0.0, "fresh": new}
        return [{"params": list(self.encoder.parameters())}, head]

    def assignment(self) -> Tensor:
        return self.labels

    def constant_loss(self, batch: int) -> float:
        """Log K: every cluster is equally likely."""
        return math.log(self.config.clusters)


def matched(labels: Tensor, before: Tensor, k: int) -> Tensor:
    """Renumber k clusters so that as many pictures as possible keep the number they had. (N,), (N,) -> (N,) int64."""
    shared = torch.bincount(labels * k + before, minlength=k * k).view(k, k)
    _, number = linear_sum_assignment(shared.cpu(), maximize=True)
    return torch.from_numpy(number).to(labels.device)[labels]


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise WrongUse("method.backend faiss is not installed: pip install faiss-cpu, or use own") from None
    return faiss


def _by_faiss(rows: Tensor, k: int, iterations: int, seed: int) -> Tensor:
    """faiss on all rows, whose defaults would take 256 rows a cluster. (N, D) -> (N,) int64."""
    found = _faiss().Kmeans(
        rows.shape[1], k, niter=iterations, seed=seed, max_points_per_centroid=len(rows), min_points_per_centroid=1
    )
    x = rows.float().numpy()
    found.train(x)
    return torch.from_numpy(found.index.search(x, 1)[1][:, 0])
