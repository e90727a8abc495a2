"""Vision transformers: An Image is Worth 16x16 Words (arXiv 2010.11929), as timm has them, with what methods ask of tokens.

Shapes legend: B batch, C channels of the pictures, S side of a picture, T = (S / patch)^2 patches in row-major order,
D features.
"""

from functools import cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from selfsight.encoders.patches import sincos
from selfsight.encoders.stems import MadeBy
from selfsight.errors import WrongUse


@runtime_checkable
class TokenEncoder(Protocol):
    """An encoder that sees a picture as tokens, the class token first.

    Submodules are no members: from Python 3.12 on isinstance does not see what nn.Module.__getattr__ finds.
    """

    dim: int
    patch: int  #: side of a patch in pixels

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, D)."""
        ...

    def tokens(
        self, x: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """(B, C, S, S) -> (B, 1 + T, D); see ViT."""
        ...

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, 1 + T, D) -> (B, D): what calling it returns of its tokens."""
        ...

    def attention(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, heads, 1 + T, 1 + T); see ViT."""
        ...

    def embedding(self) -> nn.Module:
        """From pixels to the tokens of patches."""
        ...

    def layers(self) -> list[list[nn.Parameter]]:
        """Trainable parameters from the input to the output; see ViT."""
        ...


class Shape(NamedTuple):
    """Size of a transformer."""

    dim: int
    depth: int  #: blocks
    heads: int
    timm_name: str


SHAPES = {
    "vit-toy": Shape(32, 2, 2, "vit_tiny_patch16_224"),
    "vit-micro": Shape(128, 3, 4, "vit_tiny_patch16_224"),
    "vit-mini": Shape(128, 6, 4, "vit_tiny_patch16_224"),
    "vit-tiny": Shape(192, 12, 3, "vit_tiny_patch16_224"),
    "vit-small": Shape(384, 12, 6, "vit_small_patch16_224"),
    "vit-base": Shape(768, 12, 12, "vit_base_patch16_224"),
    "vit-large": Shape(1024, 24, 16, "vit_large_patch16_224"),
}


def choose_patch(image_size: int) -> int:
    """Side of a patch in pixels for pictures of this side: 16 px as published above 128 px, less where patches get few."""
    return 4 if image_size <= 48 else 8 if image_size <= 128 else 16


class ViT(VisionTransformer):
    """A pre-norm vision transformer with a class token and positions, for pictures of any size.

    Positions are interpolated (bicubic, to the new number of patches) for other sizes than the one it was built for;
    the class token's entry is left alone. The state is that of timm's model.

    Args:
        name: a name of SHAPES.
        channels: channels of the pictures.
        image_size: side of a whole picture in pixels, which the positions are learned at.
        patch: side of a patch in pixels; 0: `choose_patch`.
        drop_path: probability to leave out a residual branch at the last block, growing linearly from 0 at the first.
        pool: what `forward` returns: the class token (`cls`), or the mean of the patch tokens (`mean`).
        layer_scale: initial factor of the residual branches; 0: none.
        conv_stem: patches are seen by convolutions (`convolutions`), not by one projection.
        positions: learned, or fixed sines and cosines (`sincos`).

    Raises:
        WrongUse: the patch does not divide the picture, or is no power of two with `conv_stem`.
    """

    cls_token: nn.Parameter  #: (1, 1, D)
    pos_embed: nn.Parameter  #: (1, 1 + T, D)

    def __init__(
        self,
        name: str,
        channels: int,
        image_size: int,
        *,
        patch: int = 0,
        drop_path: float = 0.0,
        pool: Literal["cls", "mean"] = "cls",
        layer_scale: float = 0.0,
        conv_stem: bool = False,
        positions: Literal["learned", "sincos"] = "learned",
    ) -> None:
        shape, patch = SHAPES[name], patch or choose_patch(image_size)
        fits(patch, image_size, image_size)
        settings: dict[str, Any] = {
            "img_size": image_size, "patch_size": patch, "in_chans": channels, "num_classes": 0,
            "embed_dim": shape.dim, "depth": shape.depth, "num_heads": shape.heads, "dynamic_img_size": True,
            "global_pool": "token" if pool == "cls" else "avg", "fc_norm": False, "init_values": layer_scale or None,
        }  # fmt: skip
        super().__init__(**settings, drop_path_rate=drop_path)
        self.dim, self.patch, self.pooling, self.conv_stem = shape.dim, patch, pool, conv_stem
        if positions == "sincos":
            # as MAE starts it: pixels of a size with positions, which would drown them
            nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
            self.pos_embed = nn.Parameter(sincos(image_size // patch, shape.dim)[None], requires_grad=False)
        if conv_stem:
            self.patch_embed.proj = convolutions(channels, shape.dim, patch)
        call = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        steps = [f"model = timm.create_model({shape.timm_name!r}, {call})"]
        created = {"model_name": shape.timm_name, **settings}
        self.made_by = MadeBy(
            _with_convolutions if conv_stem else timm.create_model,
            created,
            steps + (_convolution_steps(channels, shape.dim, patch) if conv_stem else []),
            None if conv_stem else created,
        )

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # timm's takes a mask of the attention
        """(B, C, S, S) -> (B, D): the normalised class token, or the mean of the normalised patch tokens."""
        return self.pooled(self.tokens(x))

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, 1 + T, D) -> (B, D): the class token, or the mean of the patch tokens."""
        return tokens[:, 0] if self.pooling == "cls" else tokens[:, 1:].mean(dim=1)

    def feature_map(self, x: Tensor) -> Tensor:
        """The normalised patch tokens in their places, for `pool` mean: (B, C, S, S) -> (B, D, S / patch, S / patch)."""
        return self.tokens(x)[:, 1:].mT.unflatten(2, (x.shape[-2] // self.patch, -1))

    def tokens(
        self, x: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """Tokens after the last normalisation, class token first: (B, C, S, S) -> (B, 1 + T, D), or (B, 1 + t, D).

        Args:
            x: normalised pictures.
            mask: (B, T) bool; these patches are replaced by `mask_token`, before the positions are added.
            mask_token: (D,), with `mask`.
            keep: (B, t) int64; only these patches, with their positions, go through the blocks, in this order.

        Raises:
            WrongUse: the patch does not divide the picture.
        """
        return self.norm(self.blocks(self._embed(x, mask, mask_token, keep)))

    def attention(self, x: Tensor) -> Tensor:
        """Who looks at whom in the last block: (B, C, S, S) -> (B, heads, 1 + T, 1 + T), rows sum to 1.

        Computed explicitly, since the fused kernel that training uses does not return it.
        """
        last: Any = self.blocks[-1]
        found: list[Tensor] = []

        def look(attn: Any, inputs: tuple[Tensor, ...]) -> None:
            qkv = attn.qkv(inputs[0]).unflatten(-1, (3, attn.num_heads, -1))
            q, k, _ = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, 1 + T, d) each
            found.append((q @ k.mT * attn.scale).softmax(dim=-1))

        # inside of the block's own call, where its weights are whole even if they are sharded
        hook = last.attn.register_forward_pre_hook(look)
        try:
            self.blocks(self._embed(x))
        finally:
            hook.remove()
        return found[0]

    def embedding(self) -> nn.Module:
        """From pixels to the tokens of patches."""
        return self.patch_embed

    def layers(self) -> list[list[nn.Parameter]]:
        """Trainable parameters, each once: the embedding, every block, the last normalisation; for layer-wise rates."""
        stem = [self.cls_token, self.pos_embed, *self.patch_embed.parameters()]
        layers = [stem, *(list(block.parameters()) for block in self.blocks), list(self.norm.parameters())]
        return [[p for p in layer if p.requires_grad] for layer in layers]

    def _embed(
        self, x: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """What the first block sees: (B, 1 + T, D), or (B, 1 + t, D) with `keep`."""
        fits(self.patch, *x.shape[-2:])
        patches = self.patch_embed(x)  # (B, S / patch, S / patch, D)
        positions = self._positions(patches.shape[1], patches.shape[2])
        patches = patches.flatten(1, 2)
        if mask is not None:
            if mask_token is None:
                raise ValueError("mask needs a mask_token")
            patches = torch.where(mask[..., None], mask_token.to(patches.dtype), patches)
        patches = patches + positions[:, 1:]
        if keep is not None:
            patches = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[-1]))
        start = (self.cls_token + positions[:, :1]).expand(patches.shape[0], -1, -1)
        return torch.cat([start, patches], dim=1)

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Positions of the class token and of a grid of patches: (1, 1 + rows * columns, D)."""
        own, given = self.pos_embed, tuple(self.patch_embed.grid_size)
        if given == (rows, columns):
            return own
        weights = _resampling(given, (rows, columns), own.dtype, own.device)
        with torch.autocast(own.device.type, enabled=False):
            return torch.cat([own[:, :1], weights @ own[:, 1:]], 1)


@cache
def _resampling(old: tuple[int, int], new: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights (patches of `new`, patches of `old`) of a bicubic resize, whose own gradient is not deterministic on a GPU."""
    count = old[0] * old[1]
    with torch.inference_mode(False), torch.no_grad():
        each = torch.eye(count, dtype=dtype, device=device)[None]
        return resample_abs_pos_embed(each, list(new), list(old), num_prefix_tokens=0)[0]


def convolutions(channels: int, dim: int, patch: int) -> nn.Sequential:
    """Early convolutions (arXiv 2106.14881): (B, C, S, S) -> (B, D, S / patch, S / patch).

    3x3 convolutions of stride 2 that double the width up to D, each with batch normalisation and ReLU; then a 1x1 one.
    Small networks learn sooner with it than with one projection of a patch.

    Raises:
        WrongUse: the patch is no power of two.
    """
    widths = _widths(channels, dim, patch)
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths):
        layers += [nn.Conv2d(d_in, d_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(d_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(dim, dim, 1))


def _widths(channels: int, dim: int, patch: int) -> list[int]:
    halvings = patch.bit_length() - 1
    if patch < 2 or patch != 1 << halvings or dim % (1 << halvings - 1):
        raise WrongUse(
            f"--net.conv-stem halves the picture again and again: the patch must be a power of two, not {patch}"
        )
    return [channels, *(dim >> i for i in reversed(range(halvings)))]


def _convolution_steps(channels: int, dim: int, patch: int) -> list[str]:
    """`convolutions` as lines of Python, for export."""
    conv = "torch.nn.Conv2d({}, {}, 3, stride=2, padding=1, bias=False), torch.nn.BatchNorm2d({}), torch.nn.ReLU()"
    layers = ", ".join(conv.format(a, b, b) for a, b in pairwise(_widths(channels, dim, patch)))
    return [f"model.patch_embed.proj = torch.nn.Sequential({layers}, torch.nn.Conv2d({dim}, {dim}, 1))"]


def _with_convolutions(**settings: Any) -> nn.Module:
    """timm's network with the stem of `convolutions`."""
    model: Any = timm.create_model(**settings)
    model.patch_embed.proj = convolutions(settings["in_chans"], settings["embed_dim"], settings["patch_size"])
    return model


def fits(patch: int, *sides: int) -> None:
    """WrongUse if pictures of these sides cannot be cut into patches."""
    for side in sides:
        if patch < 1 or side < patch or side % patch:
            below = max(patch, side // max(1, patch) * patch)
            raise WrongUse(
                f"pictures of {side} px cannot be cut into patches of {patch} px: use sizes that are multiples of it, "
                f"such as {below} or {below + patch}, or another --net.patch"
            )
