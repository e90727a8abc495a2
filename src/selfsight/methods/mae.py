"""MAE: Masked Autoencoders Are Scalable Vision Learners (arXiv 2111.06377)."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from selfsight.core import Data, Method, Output, Step, Views
from selfsight.encoders import TokenEncoder, check_patches
from selfsight.encoders.patches import pasted, patchify, split, take
from selfsight.errors import at_least
from selfsight.losses import mae
from selfsight.nn import Predictor


@dataclass(frozen=True)
class MAEConfig:
    """Settings of MAE; defaults are the paper's (section 4.1, appendix A.1). How much is hidden: views.mask_ratio."""

    width: int = 512
    """Width of the decoder."""
    depth: int = 8
    """Blocks of the decoder."""
    heads: int = 16
    """Attention heads of the decoder."""
    normalise: bool = True
    """Each hidden patch is predicted as standardised by its own mean and deviation; off: pixels as the views have them."""

    def __post_init__(self) -> None:
        at_least(self, 1, "width", "depth", "heads")


class MAE(Method):
    """The encoder sees a quarter of the patches, and a light decoder fills in the pixels of all others."""

    Config = MAEConfig
    sample_mean = True
    global_views = 1
    tokens = True
    masked = ("random",)
    even_masks = True

    def __init__(self, config: MAEConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        check_patches(encoder)
        self.config, self.encoder = config, encoder
        self.patch = int(encoder.patch)  # type: ignore[arg-type]
        self.numbers = self.patch**2 * data.channels
        dim = int(encoder.dim)  # type: ignore[arg-type]
        self.decoder = Predictor(dim, self.numbers, width=config.width, depth=config.depth, heads=config.heads)
        for m in self.decoder.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.zeros_(m.bias)

    def encode(self, views: Views, step: Step) -> Views:
        hidden, prediction = self._predict(views)
        pixels = take(patchify(views["global"][0], self.patch), hidden)
        return {"prediction": prediction[None], "pixels": pixels[None]}  # (1, B, M, p * p * C) each

    def _predict(self, views: Views) -> tuple[Tensor, Tensor]:
        """Where patches are hidden, (B, M), and what the decoder says of them, (B, M, p * p * C)."""
        x = views["global"][0]
        visible, hidden = split(views["mask"][0], self.views.masks.most)
        tokens = cast(TokenEncoder, self.encoder).tokens(x, keep=visible)
        seen = torch.cat([torch.zeros_like(visible[:, :1]), 1 + visible], dim=1)  # the class token is at place 0
        return hidden, self.decoder(tokens, seen, 1 + hidden, x.shape[-1] // self.patch)

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        return Output(mae(outputs["prediction"], outputs["pixels"], self.config.normalise))

    def pictures(self, views: Views) -> dict[str, Tensor]:
        """What is seen and what is made of it; standardised patches get their true mean and deviation back."""
        x = views["global"][0]
        hidden, made = self._predict(views)
        if self.config.normalise:
            true = take(patchify(x, self.patch), hidden)
            made = made * true.std(-1, keepdim=True) + true.mean(-1, keepdim=True)
        seen = pasted(x, hidden, torch.zeros_like(made), self.patch)
        return {"picture": x, "visible": seen, "reconstruction": pasted(x, hidden, made, self.patch)}

    def constant_loss(self, batch: int) -> float | None:
        """That of predicting 0 for standardised patches of n numbers: (n - 1) / n."""
        return (self.numbers - 1) / self.numbers if self.config.normalise else None
