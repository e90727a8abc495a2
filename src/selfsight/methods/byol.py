"""BYOL: Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning (arXiv 2006.07733)."""

from dataclasses import dataclass

from selfsight.methods.siamese import Siamese, SiameseConfig


@dataclass(frozen=True)
class BYOLConfig(SiameseConfig):
    """Settings of BYOL; defaults are the paper's for ImageNet, 300 epochs (section 3.3 and their code)."""


class BYOL(Siamese):
    """A teacher that follows slowly, a learnt predictor of two layers."""

    Config = BYOLConfig
