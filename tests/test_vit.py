"""Vision transformers: what masks, kept patches, positions and attention do, against timm and written-out formulas."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from selfsight import augment, encoders
from selfsight.augment import ViewsConfig
from selfsight.encoders import EncoderConfig, TokenEncoder
from selfsight.encoders.vit import ViT
from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from selfsight.recipes import recipe

T, SIDE = 64, 8  # patches of a 32 px picture


def vit(name: str = "vit-toy", channels: int = 3, size: int = 32, **config: Any) -> Any:
    torch.manual_seed(0)
    net: Any = encoders.build(name, channels, size, EncoderConfig(**config)).eval()
    assert isinstance(net, ViT)
    with torch.no_grad():  # untrained, tokens hardly attend: make it differ
        for parameter in net.blocks.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        net.cls_token.normal_()
    return net


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "published", "depth", "heads"),  # millions of parameters at 224 px without the classifier
    [("vit-tiny", 5.5, 12, 3), ("vit-small", 21.7, 12, 6), ("vit-base", 85.8, 12, 12), ("vit-large", 303.3, 24, 16)],
)
def test_sizes_are_the_published_ones(name: str, published: float, depth: int, heads: int) -> None:
    with torch.device("meta"):
        net: Any = encoders.build(name, 3, 224)
        theirs = timm.create_model(f"{name.replace('-', '_')}_patch16_224", num_classes=0)
    shapes = lambda module: {key: value.shape for key, value in module.state_dict().items()}
    assert shapes(net) == shapes(theirs)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == published
    assert (len(net.blocks), net.blocks[0].attn.num_heads, net.patch) == (depth, heads, 16)


@pytest.mark.parametrize(
    ("size", "patch"), [(16, 4), (32, 4), (48, 4), (64, 8), (96, 8), (128, 8), (160, 16), (224, 16)]
)
def test_the_patch_follows_the_size(size: int, patch: int) -> None:
    net = vit(size=size)
    assert net.patch == patch
    with torch.no_grad():
        assert net.tokens(torch.randn(1, 3, size, size)).shape == (1, 1 + (size // patch) ** 2, 32)


@torch.no_grad()
def test_the_parts_are_as_published() -> None:
    net = vit()
    norms = [m for m in net.modules() if isinstance(m, nn.LayerNorm)]
    assert {m.eps for m in norms} == {1e-6}
    assert len(norms) == 2 * 2 + 1
    for block in net.blocks:
        assert block.attn.qkv.bias is not None
        assert block.attn.fused_attn  # training runs the fused kernel


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net: Any = encoders.build("vit-tiny", 3, 32)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
            assert not module.bias.any()
    assert float(net.pos_embed.detach().std()) == pytest.approx(0.02, rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_forward_pools_the_tokens(pool: Any, pictures: torch.Tensor) -> None:
    net = vit(pool=pool)
    tokens = net.tokens(pictures)
    assert torch.equal(net(pictures), tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(1))
    assert torch.allclose(  # the last thing is a normalisation
        tokens, F.layer_norm(tokens, (32,)) * net.norm.weight + net.norm.bias, atol=1e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("size", [16, 32, 48])
def test_tokens_are_those_of_timm(size: int) -> None:
    net = vit()
    theirs: Any = timm.create_model(**net.made_by.settings).eval()
    theirs.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, size, size)
    for ours, want in ((net.tokens(x), theirs.forward_features(x)), (net(x), theirs(x))):
        torch.testing.assert_close(ours, want, rtol=0, atol=0 if size == 32 else 1e-5)  # positions: a product of ours


@torch.no_grad()
def test_positions_at_other_sizes(pictures: torch.Tensor) -> None:
    """The class token's entry is left alone, the others are interpolated to the new number of patches."""
    net = vit()
    net.patch_embed.proj.weight.zero_()
    net.patch_embed.proj.bias.zero_()
    native = net._embed(pictures)
    assert torch.equal(native, (torch.cat([net.cls_token, torch.zeros(1, T, 32)], 1) + net.pos_embed).expand(2, -1, -1))
    grid = net.pos_embed[0, 1:].T.unflatten(1, (SIDE, SIDE))[None]
    for size in (16, 20, 64):
        other = net._embed(torch.randn(1, 3, size, size))
        assert torch.equal(other[:, 0], native[:1, 0])
        side = size // 4
        want = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
        assert torch.allclose(other[0, 1:], want[0].flatten(1).T, atol=1e-6)
    wide = net._embed(torch.randn(1, 3, 16, 48))  # positions of rows and columns are not mixed up
    want = F.interpolate(grid, size=(4, 12), mode="bicubic", antialias=True)
    assert torch.allclose(wide[0, 1:], want[0].flatten(1).T, atol=1e-6)


def test_a_smaller_crop_trains_every_parameter() -> None:
    net = vit().train()
    net(torch.randn(2, 3, 16, 16)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def patches_of(x: torch.Tensor, t: int) -> tuple[slice, slice]:
    """Rows and columns of patch t."""
    return slice(t // SIDE * 4, t // SIDE * 4 + 4), slice(t % SIDE * 4, t % SIDE * 4 + 4)


@torch.no_grad()
@pytest.mark.parametrize("t", [0, 11, T - 1])
def test_a_mask_replaces_patches(t: int, pictures: torch.Tensor) -> None:
    net, token = vit(), torch.randn(32)
    mask = torch.zeros(2, T, dtype=torch.bool)
    mask[0, t] = True
    before = net.tokens(pictures, mask, token)
    changed = pictures.clone()
    changed[..., *patches_of(pictures, t)] += 1
    after = net.tokens(changed, mask, token)
    assert torch.equal(after[0], before[0])  # masked there
    assert (after[1] - before[1]).abs().amax(-1).min() > 0  # visible here, and every token looks at it
    assert not torch.equal(before[0], net.tokens(pictures)[0])
    assert torch.equal(before[1], net.tokens(pictures)[1])
    embedded = net._embed(pictures, mask, token)  # the position stays
    assert torch.allclose(embedded[0, 1 + t], token + net.pos_embed[0, 1 + t])
    with pytest.raises(ValueError, match="mask_token"):
        net.tokens(pictures, mask)


def test_the_mask_token_learns(pictures: torch.Tensor) -> None:
    net, token = vit(), torch.zeros(32, requires_grad=True)
    mask = torch.zeros(2, T, dtype=torch.bool)
    net.tokens(pictures, mask, token).sum().backward()
    assert token.grad is not None
    assert not token.grad.any()
    mask[:, 3] = True
    net.tokens(pictures, mask, token)[:, 0].square().sum().backward()
    assert token.grad.any()


@torch.no_grad()
def test_kept_patches(pictures: torch.Tensor) -> None:
    net = vit()
    whole = net.tokens(pictures)
    everything = torch.arange(T).expand(2, T)
    assert torch.equal(net.tokens(pictures, keep=everything), whole)
    order = torch.stack([torch.randperm(T), torch.randperm(T)])
    shuffled = net.tokens(pictures, keep=order)
    for i in range(2):
        assert torch.allclose(shuffled[i, 0], whole[i, 0], atol=1e-5)
        assert torch.allclose(shuffled[i, 1:], whole[i, 1:][order[i]], atol=1e-5)
    some = order[:, :9]
    kept = net.tokens(pictures, keep=some)
    assert kept.shape == (2, 10, 32)
    changed = pictures.clone()
    for i in range(2):
        for t in order[i, 9:].tolist():
            changed[i, :, *patches_of(pictures, t)] = 7
    assert torch.equal(net.tokens(changed, keep=some), kept)  # a patch that is not kept is not seen
    changed[0, :, *patches_of(pictures, int(some[0, 4]))] += 1
    assert not torch.equal(net.tokens(changed, keep=some)[0], kept[0])


@torch.no_grad()
@pytest.mark.parametrize("size", [16, 32])
def test_attention_is_what_the_last_block_computes(size: int) -> None:
    net, x = vit(layer_scale=0.5), torch.randn(2, 3, size, size)
    maps = net.attention(x)
    tokens = 1 + (size // 4) ** 2
    assert maps.shape == (2, 2, tokens, tokens)
    assert torch.allclose(maps.sum(-1), torch.ones(2, 2, tokens), atol=1e-5)
    assert maps.std(-1).min() > 1e-4  # not flat, or the next lines would prove nothing
    last: Any = net.blocks[-1]
    seen: list[torch.Tensor] = []
    hook = last.attn.register_forward_hook(lambda _, args, out: seen.extend((args[0], out)))
    net(x)  # the fused kernel
    hook.remove()
    values = last.attn.qkv(seen[0])[..., 64:].unflatten(-1, (2, 16)).transpose(1, 2)
    explicit = last.attn.proj((maps @ values).transpose(1, 2).flatten(2))
    assert torch.allclose(explicit, seen[1], atol=1e-5)


def test_layers_hold_every_trainable_parameter_once() -> None:
    net = vit(layer_scale=1e-5)
    layers = net.layers()
    assert len(layers) == 1 + 2 + 1
    assert sorted(id(p) for layer in layers for p in layer) == sorted(id(p) for p in net.parameters())
    names = {id(p): name for name, p in net.named_parameters()}
    assert {names[id(p)].split(".")[0] for p in layers[0]} == {"cls_token", "pos_embed", "patch_embed"}
    for i in (0, 1):
        assert all(names[id(p)].startswith(f"blocks.{i}.") for p in layers[1 + i])
    net.pos_embed.requires_grad_(False)
    assert sum(len(layer) for layer in net.layers()) == sum(len(layer) for layer in layers) - 1


def test_drop_path_grows_and_drops_in_training_only(pictures: torch.Tensor) -> None:
    net: Any = encoders.build("vit-tiny", 3, 32, EncoderConfig(drop_path=0.22))
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in net.blocks]
    assert rates == pytest.approx([0.02 * i for i in range(12)], abs=1e-6)
    toy = vit(drop_path=0.5).train()
    with torch.no_grad():
        torch.manual_seed(0)
        a, b = toy(pictures), toy(pictures)
        torch.manual_seed(0)
        assert torch.equal(toy(pictures), a)  # a function of the seed
        assert not torch.equal(a, b)
        toy.eval()
        assert torch.equal(toy(pictures), toy(pictures))


def test_layer_scale() -> None:
    net: Any = vit()
    assert isinstance(net.blocks[0].ls1, nn.Identity)
    torch.manual_seed(0)
    net = encoders.build("vit-toy", 3, 32, EncoderConfig(layer_scale=1e-5))
    assert all((scale.gamma == 1e-5).all() for block in net.blocks for scale in (block.ls1, block.ls2))


@torch.no_grad()
def test_a_copy_is_equal_and_apart(pictures: torch.Tensor) -> None:
    net = vit()
    other = copy.deepcopy(net)
    assert torch.equal(other(pictures), net(pictures))
    other.cls_token.add_(1)
    assert not torch.equal(other(pictures), net(pictures))
    assert isinstance(other, TokenEncoder)


def test_gray_pictures_and_edges() -> None:
    assert vit(channels=1)(torch.randn(2, 1, 32, 32)).shape == (2, 32)
    edges: Any = encoders.build("vit-toy", 3, 32, EncoderConfig(sobel="only"))
    assert edges(torch.randn(2, 3, 32, 32)).shape == (2, 32)
    assert isinstance(edges, TokenEncoder)


def test_wrong_use() -> None:
    with pytest.raises(WrongUse, match=r"30 px cannot be cut into patches of 4 px.*such as 28 or 32"):
        encoders.build("vit-toy", 3, 30)
    with pytest.raises(WrongUse, match=r"18 px cannot be cut into patches of 4 px.*such as 16 or 20"):
        vit()(torch.randn(1, 3, 18, 18))
    with pytest.raises(WrongUse, match=r"2 px cannot be cut into patches of 4 px.*such as 4 or 8"):
        vit()(torch.randn(1, 3, 2, 2))
    with pytest.raises(WrongUse, match=r"net\.stem is no setting of vit-toy, which has patch, drop_path, pool"):
        encoders.build("vit-toy", 3, 32, EncoderConfig(stem="small"))
    with pytest.raises(WrongUse, match=r"net\.patch is no setting of resnet18, which has stem"):
        encoders.build("resnet18", 3, 32, EncoderConfig(patch=4))
    with pytest.raises(WrongUse, match=r"net\.drop_path and net\.dropout at least 0 and less than 1"):
        EncoderConfig(drop_path=1.0)


def test_half_precision(pictures: torch.Tensor) -> None:
    """Masks, kept patches and attention run under autocast, close to full precision."""
    net, token = vit(), torch.randn(32, requires_grad=True)
    mask = torch.rand(2, T) < 0.5
    keep = torch.arange(0, T, 2).expand(2, -1)
    want = net.tokens(pictures, mask, token, keep)
    with torch.autocast("cpu", torch.bfloat16):
        got = net.tokens(pictures, mask, token, keep)
        maps = net.attention(pictures)
    assert got.dtype == torch.float32  # the last normalisation
    assert 0 < (got - want).abs().max() < 0.2
    assert (maps - net.attention(pictures)).abs().max() < 0.05
    got.square()[:, 0].sum().backward()
    assert token.grad is not None
    assert token.grad.any()


def test_a_side_that_does_not_fit_is_refused_by_the_name_of_its_flag() -> None:
    for side, flag in ((18, "views.local-size"), (30, "views.size")):
        with pytest.raises(WrongUse, match=rf"--{flag} {side}: pictures of {side} px cannot be cut"):
            encoders.check_side(vit(), side, flag)
    encoders.check_side(vit(), 16, "views.local-size")
    encoders.check_side(encoders.build("resnet18", 3, 32), 17, "views.size")
    for name, size, least in (("alexnet", 32, 15), ("alexnet", 224, 63)):
        net = encoders.build(name, 3, size).eval()
        assert net(torch.randn(1, 3, least, least)).shape == (1, net.dim)
        with pytest.raises(RuntimeError):
            net(torch.randn(1, 3, least - 1, least - 1))
        with pytest.raises(WrongUse, match=rf"--views.size {least - 1} is too small .* at least {least} px"):
            encoders.check_side(net, least - 1, "views.size")


def test_small_crops_are_made_of_whole_patches() -> None:
    for size, patch, side in ((32, 4, 16), (40, 4, 20), (24, 4, 12), (64, 8, 32), (224, 16, 96)):
        crops = augment.build(ViewsConfig(policy="simclr", locals=2), size, 3, torch.zeros(3), torch.ones(3), patch)
        assert {group.name: group.size for group in crops.groups} == {"global": size, "local": side}


def test_the_rate_of_the_patch_embedding_is_its_own() -> None:
    run = recipe("dinov2", "tiny")
    config = replace(run.method, embedding_lr=0.2, layer_decay=0.5)
    method: Any = METHODS["dinov2"](config, vit(), None)
    scales = {id(p): group.get("lr_scale", 1.0) for group in method.param_groups() for p in group["params"]}
    encoder = method.student.encoder
    depth = len(encoder.layers()) - 1
    assert scales[id(encoder.cls_token)] == scales[id(encoder.pos_embed)] == 0.5**depth
    assert {scales[id(p)] for p in encoder.patch_embed.parameters()} == {0.2 * 0.5**depth}
    assert {id(p) for p in method.parameters() if p.requires_grad} == set(scales)


def test_early_convolutions_make_the_tokens_of_any_size():
    net = vit(conv_stem=True)
    made = [m for m in net.patch_embed.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.stride) for m in made] == [
        (3, 16, (2, 2)), (16, 32, (2, 2)), (32, 32, (1, 1))
    ]  # fmt: skip
    for size in (16, 24, 32):
        x, mask = torch.randn(2, 3, size, size), torch.zeros(2, (size // 4) ** 2, dtype=torch.bool)
        assert net(x).shape == (2, 32)
        mask[:, 3] = True
        with torch.no_grad():
            a, b = net.eval().tokens(x), net.tokens(x, mask, torch.full((32,), 9.0))
        assert a.shape == b.shape == (2, 1 + (size // 4) ** 2, 32)
        assert not torch.allclose(a, b)
    with pytest.raises(WrongUse, match="power of two, not 6"):
        vit(size=24, patch=6, conv_stem=True)
