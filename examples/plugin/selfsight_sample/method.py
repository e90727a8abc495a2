"""SimCLR with a plain head (arXiv 2002.05709)."""

from dataclasses import dataclass, replace

from selfsight import distributed
from selfsight.core import Method, Output
from selfsight.losses import nt_xent
from selfsight.nn import mlp


@dataclass(frozen=True)
class PlainConfig:
    """Settings."""

    temperature: float = 0.5
    """Temperature of the similarities."""
    dim: int = 64
    """Width of the embeddings."""


class Plain(Method):
    """Two views attract each other."""

    Config = PlainConfig

    def __init__(self, config, encoder, data):
        super().__init__()
        self.config, self.encoder = config, encoder
        self.projector = mlp([encoder.dim, 128, config.dim])

    def encode(self, views, step):
        x = views["global"]  # (2, B, C, S, S)
        return {"z": self.projector(self.encoder(x.flatten(0, 1))).unflatten(0, x.shape[:2])}  # (2, B, D)

    def loss(self, outputs, index, step):
        z1, z2 = outputs["z"]
        keys = (distributed.gather(z1), distributed.gather(z2))  # candidates of all processes, with gradient
        rows = distributed.own_rows(len(z1), z1.device)
        return Output(nt_xent(z1, z2, self.config.temperature, keys=keys, rows=rows))

    def after_encoder(self):
        return {"projector": self.projector}


def tiny():
    """The recipe `tiny`: SimCLR's, with a cooler temperature."""
    from selfsight.recipes import recipe

    return replace(recipe("simclr", "tiny"), method=PlainConfig(temperature=0.2, dim=32))
