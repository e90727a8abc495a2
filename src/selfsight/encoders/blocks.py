"""The residual blocks of an encoder: the pieces that activation checkpointing and sharding work on."""

from timm.models import regnet, resnet, vision_transformer
from torch import nn

from selfsight.encoders import amdim, cpc, fastnet, wrn

KINDS = (
    resnet.BasicBlock,
    resnet.Bottleneck,
    regnet.Bottleneck,
    vision_transformer.Block,
    fastnet.Stage,
    amdim.Residual,
    cpc.Block,
    wrn.Block,
)


def blocks_of(encoder: nn.Module) -> list[nn.Module]:
    """The residual blocks inside a module in the order of its forward pass; empty if there is no known one."""
    return [module for module in encoder.modules() if isinstance(module, KINDS)]
