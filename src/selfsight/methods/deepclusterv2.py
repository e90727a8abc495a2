"""DeepCluster-v2, in: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments (arXiv 2006.09882)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn

from selfsight import distributed, health
from selfsight.assign import kmeans
from selfsight.core import Data, Method, Output, Step, Views
from selfsight.errors import WrongUse, above, at_least
from selfsight.losses.clustering import centroid_prediction
from selfsight.nn import collect, mlp, multi_crop, share

NONE = -100  #: label of a picture that the last epoch left out


@dataclass(frozen=True)
class DeepClusterV2Config:
    """Settings of DeepCluster-v2; defaults are the paper's for ImageNet (appendix, DeepCluster-v2)."""

    hidden: int = 2048
    """Width of the projector's hidden layer."""
    dim: int = 128
    """Width of the embedding."""
    clusters: int = 3000
    """Clusters of each head K."""
    heads: int = 3
    """Clusterings at a time, each from a start of its own and in turn of the two whole views."""
    temperature: float = 0.1
    """Temperature of the scores."""
    iterations: int = 10
    """Iterations of spherical k-means."""

    def __post_init__(self) -> None:
        at_least(self, 1, "hidden", "dim", "heads", "iterations")
        at_least(self, 2, "clusters")
        above(self, 0, "temperature")


class DeepClusterV2(Method):
    """Once an epoch, spherical k-means on the last epoch's embeddings; every crop predicts its picture's cluster.

    The centroids are the classifier: no head is learnt, and none starts anew.
    """

    Config = DeepClusterV2Config
    indexed = True
    sample_mean = True
    local_views = True

    def __init__(self, config: DeepClusterV2Config, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        self.config, self.encoder, count = config, encoder, len(data)
        self.projector = mlp([int(encoder.dim), config.hidden, config.dim])  # type: ignore[arg-type]
        self.register_buffer("memory", torch.zeros(2, count, config.dim))  # of whole views 0 and 1, by picture
        self.register_buffer("seen", torch.zeros(count, dtype=torch.bool))  # pictures of the epoch so far
        self.register_buffer("labels", torch.full((config.heads, count), NONE))  # (P, N)
        self.register_buffer("centroids", torch.zeros(config.heads, config.clusters, config.dim))  # (P, K, D)
        self.register_buffer("agreement", torch.zeros(()))  # NMI between this clustering and the one before
        self.memory: Tensor
        self.seen: Tensor
        self.labels: Tensor
        self.centroids: Tensor
        self.agreement: Tensor

    def check(self, batch: int, part: int) -> None:
        epoch = len(self.seen) // batch * batch
        if epoch < self.config.clusters:
            raise WrongUse(f"method.clusters is {self.config.clusters}, an epoch has {epoch} pictures: choose fewer")

    def before_step(self, step: Step, data: Data) -> None:
        if step.index == 0:  # before the first epoch its embeddings are those of the untrained network
            for bank in self.memory:
                bank.copy_(F.normalize(data.sweep(self.embed, rng=step.rng, train=True), dim=1))
            self.seen.fill_(True)
        if step.epoch_starts:
            self.cluster(step.rng)

    def cluster(self, rng: torch.Generator) -> None:
        """New centroids, and labels for the pictures that the last epoch saw."""
        rows, before, found = self.seen.nonzero().squeeze(1), self.labels.clone(), []
        mine = share(len(rows))
        self.labels.fill_(NONE)
        for head, centroids in enumerate(self.centroids):
            labels, centres = kmeans(
                self.memory[head % 2][rows[mine]], len(centroids), self.config.iterations, rng, spherical=True,
                all_sum=distributed.all_sum, all_max=distributed.all_max, place=(mine.start, len(rows)),
            )  # fmt: skip
            centroids.copy_(centres)
            self.labels[head, rows] = collect(labels, len(rows))
            both = (before[head] != NONE) & self.seen
            if both.any():
                found.append(normalized_mutual_info_score(before[head, both].cpu(), self.labels[head, both].cpu()))
        self.agreement.fill_(sum(found) / max(1, len(found)))
        self.seen.zero_()

    def encode(self, views: Views, step: Step) -> Views:
        z = self.projector(multi_crop(self.encoder, views))  # one pass of the head over all crops
        z = F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)  # half precision is raised
        return {"z": z.unflatten(0, (-1, views["global"].shape[1]))}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        z, labels, temperature = outputs["z"], self.labels[:, index], self.config.temperature  # (V, B, D), (P, B)
        labelled = (labels[0] != NONE).sum().to(z.dtype)
        # the mean over the rows of all processes, since gradients are averaged over processes
        count = len(z) * distributed.all_sum(labelled).clamp(min=1) / distributed.world()
        loss = centroid_prediction(z, self.centroids, labels, temperature, count)
        with torch.no_grad():
            scores = (z[0].to(self.centroids.dtype) @ self.centroids[0].T) / temperature
            logs = health.assignments(scores.softmax(1)) | {
                "pseudo_label_accuracy": (scores.argmax(1) == labels[0]).float().mean(),
                "nmi_previous": self.agreement,
            }
        return Output(loss, logs, {"index": index, "z": z[:2].detach().transpose(0, 1)})

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        self.memory[:, carry["index"]] = carry["z"].transpose(0, 1).to(self.memory.dtype)
        self.seen[carry["index"]] = True

    def assignment(self) -> Tensor:
        return self.labels

    def after_encoder(self) -> dict[str, nn.Module]:
        return {"projector": self.projector}

    def constant_loss(self, batch: int) -> float:
        """Log K: every centroid is equally likely."""
        return math.log(self.config.clusters)
