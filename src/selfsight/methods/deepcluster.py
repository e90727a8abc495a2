"""DeepCluster: Deep Clustering for Unsupervised Learning of Visual Features (arXiv 1807.05520)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn

from selfsight.assign import kmeans, pca_whiten
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse
from selfsight.nn import each_view


@dataclass(frozen=True)
class DeepClusterConfig:
    """Settings of DeepCluster; defaults are the paper's for ImageNet (section 3.3)."""

    clusters: int = 10000
    """Number of clusters k; about ten times the number of classes is a good start."""
    pca: int = 256
    """Dimension after PCA-whitening of the features."""
    iterations: int = 20
    """Iterations of k-means."""
    every: int = 1
    """Epochs between two clusterings."""
    balanced: bool = True
    """Every cluster weighs the same in the loss, as if images were sampled uniformly over clusters."""

    def __post_init__(self) -> None:
        if self.clusters < 2:
            raise WrongUse(f"method.clusters is {self.clusters}, must be at least 2")
        if min(self.pca, self.iterations, self.every) < 1:
            raise WrongUse("method.pca, method.iterations and method.every must be at least 1")


class DeepCluster(Method):
    """k-means on the features of the whole data set makes the labels that the next epoch learns."""

    Config = DeepClusterConfig
    sample_mean = True
    global_views = 1

    def __init__(self, config: DeepClusterConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        if len(data) < 2 * config.clusters:
            raise WrongUse(
                f"method.clusters is {config.clusters} but there are only {len(data)} pictures: "
                f"choose at most {max(2, len(data) // 2)} clusters, better {max(2, len(data) // 50)}"
            )
        self.config, self.encoder = config, encoder
        self.head = nn.Linear(int(encoder.dim), config.clusters)  # type: ignore[arg-type]
        self.register_buffer("labels", torch.zeros(len(data), dtype=torch.long))  # (N,) label of picture i
        self.register_buffer("weights", torch.ones(config.clusters))  # (K,) weight of a picture by its label
        self.register_buffer("agreement", torch.zeros(()))  # NMI between this clustering and the one before
        self.labels: Tensor
        self.weights: Tensor
        self.agreement: Tensor

    def before_step(self, step: Step, data: Data) -> None:
        if not (step.epoch_starts and step.epoch % self.config.every == 0):
            return
        features = data.sweep(self.encoder)  # (N, D), row i belongs to picture i
        dim = min(self.config.pca, features.shape[1], max(1, len(features) // 10))
        rows = F.normalize(pca_whiten(features, dim), dim=1)
        labels, _ = kmeans(rows, self.config.clusters, self.config.iterations, step.rng)
        self.agreement.fill_(normalized_mutual_info_score(self.labels.cpu(), labels.cpu()))
        self.labels.copy_(labels)
        size = labels.bincount(minlength=self.config.clusters).clamp(min=1)
        share = len(labels) / (labels.unique().numel() * size)
        self.weights.copy_(share if self.config.balanced else torch.ones_like(share))
        # cluster ids mean nothing across clusterings: the head starts anew, and its group carries no momentum
        weight = torch.empty(self.head.weight.shape).normal_(0, 0.01, generator=step.rng)
        self.head.weight.data.copy_(weight)
        self.head.bias.data.zero_()

    def encode(self, views: Views, step: Step) -> Views:
        return {"logits": each_view(nn.Sequential(self.encoder, self.head), views["global"], joint=True)}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        logits = outputs["logits"][0]  # (B, K)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision is raised
        labels = self.labels[index]
        loss = (self.weights[labels] * F.cross_entropy(logits, labels, reduction="none")).mean()
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return Output(loss, {"pseudo_label_accuracy": accuracy, "nmi_previous": self.agreement})

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.encoder.parameters())}, {"params": list(self.head.parameters()), "momentum": 0.0}]

    def constant_loss(self, batch: int) -> float:
        """Log K: every cluster is equally likely."""
        return math.log(self.config.clusters)
