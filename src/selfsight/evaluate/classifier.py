"""Linear heads on an encoder, as a Method, so that the one loop (train.py) trains them too. Nothing here is in METHODS.

Legend: V views, b pictures, N pictures, R heads, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight.core import Method, Output, Step, Views
from selfsight.encoders import TokenEncoder
from selfsight.errors import WrongUse

BatchNorm = Literal["train", "statistics", "frozen"]


class Classifier(Method):
    """An encoder, trained or frozen, under R heads that learn labels side by side, each at a rate of its own.

    Rates are what the optimizer's rate of 1 is multiplied by. Heads start at zero: the first gradients are those of the
    classes' means, and no seed is needed.
    """

    sample_mean = True
    global_views = 1
    labelled = True

    def __init__(
        self, encoder: nn.Module, dim: int, classes: int, rates: Sequence[float], body: float | None = None,
        batchnorm: BatchNorm = "train", smoothing: float = 0.0, layer_decay: float = 1.0, norm: Literal["none", "batch"] = "none",
    ) -> None:  # fmt: skip
        """encoder: normalised (b, C, S, S) -> (b, D), which is changed; body: its rate, None: it is frozen.

        batchnorm: see `finetune`. norm: see `linear_views`. layer_decay: multiplies a transformer's rate once more for each
        layer further down.
        """
        super().__init__()
        self.encoder, self.body, self.smoothing, self.layer_decay = encoder, body, smoothing, layer_decay
        self.norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.batchnorm, self.rates = batchnorm, tuple(rates)
        if body is None:
            encoder.requires_grad_(False)
        elif not any(p.requires_grad for p in encoder.parameters()):
            encoder.requires_grad_(True)  # a teacher's
        if batchnorm == "frozen":
            for own in self.norms:
                own.requires_grad_(False)
        self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6) if norm == "batch" else nn.Identity()
        self.heads = nn.ModuleList(nn.utils.skip_init(nn.Linear, dim, classes) for _ in self.rates)
        for p in self.heads.parameters():
            nn.init.zeros_(p)
        if layer_decay != 1 and not isinstance(encoder, TokenEncoder):
            raise WrongUse("layer_decay gives each layer of a transformer its rate: leave it out for this encoder")

    def train(self, mode: bool = True) -> Classifier:
        """As ever, but what is frozen stays in eval mode."""
        super().train(mode)
        if self.body is None:
            self.encoder.eval()
        elif self.batchnorm != "train":
            for own in self.norms:
                own.eval()
        return self

    def encode(self, views: Views, step: Step) -> Views:
        with torch.no_grad() if self.body is None else nullcontext():
            features = self.norm(self.encoder(views["global"][0]))
        logits = torch.stack([head(features) for head in self.heads])  # (R, b, K)
        return {"logits": logits, "label": views["label"]}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        """The sum over heads, which do not see each other's gradient."""
        logits, labels = outputs["logits"], outputs["label"][0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision is raised
        each = torch.stack([F.cross_entropy(rows, labels, label_smoothing=self.smoothing) for rows in logits])
        return Output(each.sum(), {f"loss_{i}": loss.detach() for i, loss in enumerate(each)})

    def param_groups(self) -> list[dict[str, Any]]:
        heads = [
            {"params": [*head.parameters()], "lr_scale": rate}
            for head, rate in zip(self.heads, self.rates, strict=True)
        ]
        return heads if self.body is None else [*self._body(self.body), *heads]

    def _body(self, rate: float) -> Iterator[dict[str, Any]]:
        """Of a transformer with layer-wise rates, rate * decay^n for n layers before the last (arXiv 2106.08254, 2111.06377)."""
        if self.layer_decay == 1 or not isinstance(self.encoder, TokenEncoder):
            yield {"params": [p for p in self.encoder.parameters() if p.requires_grad], "lr_scale": rate}
            return
        layers = self.encoder.layers()
        for i, layer in enumerate(layers):
            yield {"params": layer, "lr_scale": rate * self.layer_decay ** (len(layers) - 1 - i)}
