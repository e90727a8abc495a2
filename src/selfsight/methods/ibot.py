"""iBOT: Image BERT Pre-Training with Online Tokenizer (arXiv 2111.07832)."""

from dataclasses import dataclass

from selfsight.methods.selfdistillation import SelfDistillation, SelfDistillationConfig


@dataclass(frozen=True)
class IBOTConfig(SelfDistillationConfig):
    """Settings of iBOT; defaults are the paper's for ViT-S/16 (section 4.1, appendix and their code)."""

    outputs: int = 8192
    """Number of outputs K."""
    teacher_temperature_end: float = 0.07
    """Temperature of the teacher after `temperature_epochs`; above 0.07 it is unstable."""
    unit_last: bool = False
    """Rows of the last layer have length 1 for all time, so that outputs are cosines; off: the length is learnt."""
    patches: float = 1.0
    """Weight of the loss of masked patches."""


class IBOT(SelfDistillation):
    """DINO, and the student predicts the teacher's outputs of patches that are hidden from it."""

    Config = IBOTConfig
    sample_mean = True
    tokens = True
    masked = ("block", "random")
