"""SimMIM: A Simple Framework for Masked Image Modeling (arXiv 2111.09886)."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from selfsight.core import Data, Method, Output, Step, Views
from selfsight.encoders import TokenEncoder, check_patches
from selfsight.encoders.patches import pasted, patchify, split, take
from selfsight.losses import simmim


@dataclass(frozen=True)
class SimMIMConfig:
    """SimMIM has no settings of its own: how much is hidden, and in which units, are views.mask_ratio and mask_unit."""


class SimMIM(Method):
    """Squares of patches are replaced by one learnt token, and a linear layer predicts their pixels."""

    Config = SimMIMConfig
    sample_mean = True
    global_views = 1
    tokens = True
    masked = ("random",)
    even_masks = True

    def __init__(self, config: SimMIMConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        check_patches(encoder)
        self.encoder, self.patch = encoder, int(encoder.patch)  # type: ignore[arg-type]
        dim = int(encoder.dim)  # type: ignore[arg-type]
        self.mask_token = nn.Parameter(0.02 * torch.randn(dim))
        self.head = nn.Linear(dim, self.patch**2 * data.channels)

    def encode(self, views: Views, step: Step) -> Views:
        hidden, prediction = self._predict(views)
        pixels = take(patchify(views["global"][0], self.patch), hidden)
        return {"prediction": prediction[None], "pixels": pixels[None]}  # (1, B, M, p * p * C) each

    def _predict(self, views: Views) -> tuple[Tensor, Tensor]:
        """Where patches are hidden, (B, M), and what is said of them, (B, M, p * p * C)."""
        mask = views["mask"][0]
        tokens = cast(TokenEncoder, self.encoder).tokens(views["global"][0], mask, self.mask_token)
        _, hidden = split(mask, self.views.masks.most)
        return hidden, self.head(take(tokens[:, 1:], hidden))

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        return Output(simmim(outputs["prediction"], outputs["pixels"]))

    def pictures(self, views: Views) -> dict[str, Tensor]:
        """What is seen and what is made of it."""
        x = views["global"][0]
        hidden, made = self._predict(views)
        seen = pasted(x, hidden, torch.zeros_like(made), self.patch)
        return {"picture": x, "visible": seen, "reconstruction": pasted(x, hidden, made, self.patch)}
