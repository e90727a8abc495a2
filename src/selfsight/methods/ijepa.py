"""I-JEPA: Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture (arXiv 2301.08243)."""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from selfsight.core import Data, Method, Output, Step, Views
from selfsight.encoders import TokenEncoder, check_patches
from selfsight.encoders.patches import take
from selfsight.errors import at_least, fraction
from selfsight.losses import ijepa
from selfsight.nn import Ema, Predictor


@dataclass(frozen=True)
class IJEPAConfig:
    """Settings of I-JEPA; defaults are the paper's for ViT-H/14 (section 4, appendix A). Blocks: views.mask multiblock."""

    width: int = 384
    """Width of the predictor."""
    depth: int = 12
    """Blocks of the predictor; 6 for ViT-B."""
    heads: int = 16
    """Attention heads of the predictor, as many as the encoder's."""
    momentum: float = 0.996
    """Momentum of the teacher at the start; it rises to 1 in a straight line."""

    def __post_init__(self) -> None:
        at_least(self, 1, "width", "depth", "heads")
        fraction(self, "momentum")


class IJEPA(Method):
    """From one block of a picture, predict what a slowly following teacher, who sees everything, says of four others."""

    Config = IJEPAConfig
    sample_mean = True
    global_views = 1
    tokens = True
    masked = ("multiblock",)

    def __init__(self, config: IJEPAConfig, encoder: nn.Module, data: Data) -> None:
        super().__init__()
        check_patches(encoder, apart=False)
        self.config, self.student, self.patch = config, encoder, int(encoder.patch)  # type: ignore[arg-type]
        self.teacher = Ema(encoder)  # starts equal
        dim = int(encoder.dim)  # type: ignore[arg-type]
        self.predictor = Predictor(dim, dim, width=config.width, depth=config.depth, heads=config.heads)
        for m in self.predictor.modules():
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=0.02)  # truncated at 100 deviations in the authors' code
                nn.init.zeros_(m.bias)
        blocks: Any = self.predictor.blocks
        for i, block in enumerate(blocks, 1):
            for layer in (block.attn.proj, block.mlp.fc2):  # what the residual branches add
                layer.weight.data.div_(math.sqrt(2 * i))

    @property
    def encoder(self) -> nn.Module:  # type: ignore[override]
        """The teacher's, as in the authors' evaluation."""
        return self.teacher.module

    def encode(self, views: Views, step: Step) -> Views:
        x, context, targets = views["global"][0], views["context"][0], views["targets"]  # targets: (4, B, k)
        count, asked = len(targets), targets.flatten(0, 1)
        seen = cast(TokenEncoder, self.student).tokens(x, keep=context)[:, 1:]  # without the class token
        places, side = 1 + context.repeat(count, 1), x.shape[-1] // self.patch
        prediction = self.predictor(seen.repeat(count, 1, 1), places, 1 + asked, side)
        with torch.no_grad():
            everything = cast(TokenEncoder, self.encoder).tokens(x)[:, 1:]
            target = take(everything.repeat(count, 1, 1), asked)
        return {"prediction": prediction.unflatten(0, (count, -1)), "target": target.unflatten(0, (count, -1))}

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        return Output(ijepa(outputs["prediction"], outputs["target"]))

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        self.teacher.follow(self.student, self.config.momentum + (1 - self.config.momentum) * step.progress)

    def constant_loss(self, batch: int) -> float:
        """0: equal features are predicted exactly."""
        return 0.0
