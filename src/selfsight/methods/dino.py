"""DINO: Emerging Properties in Self-Supervised Vision Transformers (arXiv 2104.14294)."""

from dataclasses import dataclass

from selfsight.methods.selfdistillation import SelfDistillation, SelfDistillationConfig


@dataclass(frozen=True)
class DINOConfig(SelfDistillationConfig):
    """Settings of DINO; defaults are the paper's for ViT-S/16, 100 epochs (appendix B, D and their code)."""


class DINO(SelfDistillation):
    """Small crops predict what the teacher says of whole views; its outputs are centred and sharpened."""

    Config = DINOConfig
    sample_mean = True
