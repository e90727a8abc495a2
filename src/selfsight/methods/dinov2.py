"""DINOv2: Learning Robust Visual Features without Supervision (arXiv 2304.07193): its objective."""

from dataclasses import dataclass
from typing import Literal

from selfsight.methods.selfdistillation import SelfDistillation, SelfDistillationConfig


@dataclass(frozen=True)
class DINOv2Config(SelfDistillationConfig):
    """Settings of DINOv2; defaults are those of its code for ViT-L, short schedule (section 4, appendix B)."""

    teacher_temperature_end: float = 0.07
    """Temperature of the teacher after `temperature_epochs`; above 0.07 it is unstable."""
    unit_last: bool = False
    """Rows of the last layer have length 1 for all time, so that outputs are cosines; off: the length is learnt."""
    momentum: float = 0.992
    """Momentum of the teacher at the start; it rises to `momentum_end` along a cosine, per step."""
    centring: Literal["centre", "sinkhorn"] = "sinkhorn"
    """What keeps one output from winning always: a running mean that is subtracted, or Sinkhorn on the batch."""
    patches: float = 1.0
    """Weight of the loss of masked patches."""
    koleo: float = 0.1
    """Weight of KoLeo, which spreads the class tokens over the sphere."""
    layer_decay: float = 0.9
    """Learning rate of each block relative to the next one's."""
    embedding_lr: float = 0.2
    """Multiplies the learning rate of the patch embedding."""


class DINOv2(SelfDistillation):
    """iBOT with Sinkhorn in place of the centre, and class tokens spread by KoLeo."""

    Config = DINOv2Config
    tokens = True
    masked = ("block", "random")
