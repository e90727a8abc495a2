"""Self-distillation: losses against slow loops, pairing of views, centre, head, masks, teacher."""

import copy
import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsight import losses
from selfsight.augment.masks import Masks
from selfsight.core import Step
from selfsight.encoders import EncoderConfig, build
from selfsight.errors import WrongUse
from selfsight.methods.dino import DINO, DINOConfig
from selfsight.methods.dinov2 import DINOv2, DINOv2Config
from selfsight.methods.ibot import IBOT, IBOTConfig
from selfsight.methods.msn import MSN, MSNConfig
from selfsight.methods.selfdistillation import Head
from selfsight.nn import Ema
from selfsight.optim import OptimizerConfig
from tiny import losses as train
from tiny import make, make_double, tiny


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    e = [math.exp(x - top) for x in row]
    return [x / sum(e) for x in e]


def cross(p: list[float], q: list[float]) -> float:
    return -sum(a * math.log(b) for a, b in zip(p, q))


def balanced(rows: list[list[float]], iterations: int) -> list[list[float]]:
    """Sinkhorn-Knopp as SwAV's algorithm has it: prototypes to 1 / K, then samples to 1 / B. (B, K) > 0 -> rows sum to 1."""
    batch, k = len(rows), len(rows[0])
    for _ in range(iterations):
        mass = [sum(row[j] for row in rows) for j in range(k)]
        rows = [[row[j] / (mass[j] * k) for j in range(k)] for row in rows]
        rows = [[x / (sum(row) * batch) for x in row] for row in rows]
    return [[x / sum(row) for x in row] for row in rows]


def at(index: int = 0, total: int = 100, per_epoch: int = 10) -> Step:
    return Step(index, total, per_epoch, torch.Generator().manual_seed(3))


def test_dino_equals_a_loop_over_pairs_and_rows():
    student, teacher, centre = numbers(4, 3, 5), numbers(2, 3, 5, seed=1), numbers(5, seed=2)
    total, pairs = 0.0, 0
    for g in range(2):
        for v in range(4):
            if v == g:
                continue
            pairs += 1
            for b in range(3):
                t = softmax(((teacher[g, b] - centre) / 0.04).tolist())
                total += cross(t, softmax((student[v, b] / 0.1).tolist())) / 3
    assert pairs == 6
    assert losses.dino(student, teacher, centre, 0.1, 0.04).item() == pytest.approx(total / pairs, rel=1e-12)


def test_dino_has_the_specified_value_and_is_log_k_when_all_is_uniform():
    logits = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    found = losses.dino([logits, logits], [logits, logits], torch.zeros(2), 0.1, 0.04)
    assert found.item() == pytest.approx(4.53989e-5, rel=1e-5)
    flat = torch.zeros(3, 7)
    assert losses.dino([flat] * 4, [flat] * 2, torch.zeros(7), 0.1, 0.04).item() == pytest.approx(math.log(7))


def test_dino_does_not_care_about_the_order_of_small_crops():
    student, teacher = numbers(5, 4, 6), numbers(2, 4, 6, seed=1)
    moved = torch.cat([student[:2], student[[4, 2, 3]]])
    a, b = (losses.dino(s, teacher, torch.zeros(6), 0.1, 0.07).item() for s in (student, moved))
    assert a == pytest.approx(b, rel=1e-12)


def test_teacher_and_centre_are_constants():
    student, teacher, centre = (
        x.requires_grad_() for x in (numbers(3, 4, 5), numbers(2, 4, 5, seed=1), numbers(5, seed=2))
    )
    losses.dino(student, teacher, centre, 0.1, 0.04).backward()
    assert teacher.grad is None
    assert centre.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum((1, 2)).min() > 0


def test_large_logits_and_half_precision_stay_finite():
    student = (100 * numbers(2, 3, 5)).bfloat16().requires_grad_()
    loss = losses.dino(student, 100 * numbers(2, 3, 5, seed=1), torch.zeros(5), 0.1, 0.04)
    loss.backward()
    assert loss.dtype in (torch.float32, torch.float64)
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_masked_prediction_equals_a_loop():
    student, target = numbers(2, 3, 4, 5), numbers(2, 3, 4, 5, seed=1).softmax(-1)
    counts = torch.tensor([[4, 0, 2], [1, 3, 0]])
    weight = (torch.arange(4) < counts[..., None]).double() / counts[..., None].clamp(min=1)
    total = 0.0
    for v in range(2):
        for b in range(3):
            count = int(counts[v, b])
            for m in range(count):
                total += cross(target[v, b, m].tolist(), softmax((student[v, b, m] / 0.1).tolist())) / count
    found = losses.masked_prediction(student, target, weight, 0.1)
    assert found.item() == pytest.approx(total / 6, rel=1e-12)


def test_koleo_has_the_specified_values():
    assert losses.koleo(torch.eye(2)).item() == pytest.approx(-0.346574, abs=1e-6)
    antipodes = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert losses.koleo(antipodes).item() == pytest.approx(-0.693147, abs=1e-6)


def test_koleo_equals_a_loop_and_takes_rows_of_others():
    z = numbers(6, 4)
    unit = F.normalize(z, dim=1)
    slow = 0.0
    for i in range(6):
        slow -= math.log(min(float((unit[i] - unit[j]).norm()) for j in range(6) if j != i) + 1e-8) / 6
    assert losses.koleo(z).item() == pytest.approx(slow, rel=1e-9)
    halves = [losses.koleo(z[r], z, r).item() for r in (torch.arange(3), torch.arange(3, 6))]
    assert sum(halves) / 2 == pytest.approx(slow, rel=1e-9)


def test_koleo_of_copies_is_finite_and_so_is_its_gradient():
    z = torch.ones(4, 3, requires_grad=True)
    loss = losses.koleo(z)
    loss.backward()
    assert torch.isfinite(loss)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_entropy_gap_is_zero_when_uniform_and_log_k_at_collapse():
    assert losses.entropy_gap(torch.full((1024,), 1 / 1024)).item() == pytest.approx(0.0, abs=1e-5)
    assert losses.entropy_gap(F.one_hot(torch.tensor(3), 1024).double()).item() == pytest.approx(6.931, abs=1e-3)


def test_prediction_equals_a_loop():
    scores, target = numbers(3, 2, 4), numbers(2, 4, seed=1).softmax(1)
    slow = sum(cross(target[b].tolist(), softmax((scores[v, b] / 0.1).tolist())) for v in range(3) for b in range(2))
    assert losses.prediction(scores, target, 0.1).item() == pytest.approx(slow / 6, rel=1e-12)


class Numbered(nn.Module):
    """An encoder that says which picture it sees: its first pixel, as a direction."""

    dim = 2

    def forward(self, x: Tensor) -> Tensor:
        angle = x[:, 0, 0, 0]
        return torch.stack([angle.cos(), angle.sin()], 1)


class Direct(nn.Module):
    """A head without anything learnt, K = 2."""

    def __init__(self) -> None:
        super().__init__()
        self.length = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.length * x


def test_views_of_the_same_picture_are_paired():
    """With an encoder that outputs the picture's number, student and teacher agree on every row but if views are mixed."""
    run, data = tiny("dino")
    method, *_ = make(replace(run, method=replace(run.method, outputs=2)), data)
    for net in (method.student, method.teacher.module):
        net.encoder, net.head = Numbered(), Direct()
    angles = torch.linspace(0, 6, 5)
    pictures = lambda views, size: angles[None, :, None, None, None].expand(views, -1, 3, size, size)
    views = {"global": pictures(2, 8), "local": pictures(3, 4)}
    out = method.encode(views, at())
    assert out["student"].shape == (5, 5, 2)
    assert out["teacher"].shape == (2, 5, 2)
    expected = torch.stack([angles.cos(), angles.sin()], 1)
    for row in [*out["student"], *out["teacher"]]:
        torch.testing.assert_close(row, expected)
    method.centre.zero_()
    own = float(method.loss(out, torch.arange(5), at()).loss)
    mixed = float(method.loss({**out, "student": out["student"][:, [1, 2, 3, 4, 0]]}, torch.arange(5), at()).loss)
    assert own < mixed - 0.1


def test_rows_of_the_last_layer_keep_unit_length():
    run, data = tiny("dino")
    made = make(run, data)
    head = made[0].student.head
    before = head.last.direction.detach().clone()
    train(run, made, 0, 8)
    assert not head.last.length.requires_grad
    assert float((head.last.direction.detach() - before).norm(dim=1).min()) > 0  # they were learnt
    head.mlp = nn.Identity()
    rows = head(torch.eye(run.method.bottleneck)).detach().T  # of the linear map that the head applies
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(run.method.outputs))


def test_a_length_that_is_learnt_moves():
    run, data = tiny("ibot")
    made = make(run, data)
    train(run, made, 0, 8)
    assert float((made[0].student.head.last.length - 1).abs().max()) > 0


def test_centre_follows_the_raw_mean():
    run, data = tiny("dino")
    method, *_ = make(run, data)
    mean = numbers(1, method.config.outputs).float()
    for _ in range(5):
        method.after_step(at(), {"centre": mean})
    torch.testing.assert_close(method.centre, (1 - 0.9**5) * mean[0])


def test_the_centre_used_in_a_step_is_that_of_the_steps_before():
    run, data = tiny("dino")
    method, *_ = make(run, data)
    out = {"student": numbers(3, 4, 64).float(), "teacher": numbers(2, 4, 64, seed=1).float()}
    method.centre.copy_(numbers(64, seed=2))
    found = method.loss(out, torch.arange(4), at())
    expected = losses.dino(out["student"], out["teacher"], method.centre, 0.1, 0.04)
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(found.carry["centre"][0], out["teacher"].mean((0, 1)))  # raw, not centred


def test_teacher_temperature_warms_up_by_epochs():
    run, data = tiny("dino")
    config = replace(run.method, teacher_temperature=0.04, teacher_temperature_end=0.07, temperature_epochs=4)
    method, *_ = make(replace(run, method=config), data)
    found = [method.temperature(at(i)) for i in (0, 9, 10, 25, 30, 99)]
    assert found == pytest.approx([0.04, 0.04, 0.05, 0.06, 0.07, 0.07])


def test_teacher_starts_equal_and_follows_by_name():
    run, data = tiny("ibot")
    made = make(run, data)
    method = made[0]
    student = dict(method.student.named_parameters())
    for name, p in method.teacher.module.named_parameters():
        assert torch.equal(p, student[name])
        assert not p.requires_grad
    assert method.encoder is method.teacher.module.encoder
    before = copy.deepcopy(method.teacher.module.state_dict())
    train(run, made, 0, 1)
    momentum = method.config.momentum
    for name, p in method.teacher.module.named_parameters():
        torch.testing.assert_close(p, before[name].lerp(student[name].detach(), 1 - momentum))


def test_the_teacher_drops_nothing():
    net = build("vit-toy", 3, 16, EncoderConfig(drop_path=0.5))
    teacher = Ema(net).train()
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(teacher(x), teacher(x))
    net.train()
    assert not torch.equal(net(x), net(x))  # the student does


def masked(name: str = "ibot", **changes):
    run, data = tiny(name)
    method, _, pictures = make(replace(run, method=replace(run.method, **changes)), data)
    draws = method.views.draw(12, torch.Generator().manual_seed(1))
    return method, method.views(pictures.part.gather(torch.arange(12)), draws)


FAMILY = {
    "outputs": 5, "patches": 0.6, "teacher_temperature": 0.04, "teacher_temperature_end": 0.06,
    "patch_temperature": 0.07, "patch_temperature_end": 0.11, "temperature_epochs": 3,
}  # fmt: skip


@pytest.mark.parametrize("koleo", [0.0, 0.3])
@pytest.mark.parametrize("centring", ["centre", "sinkhorn"])
def test_the_whole_loss_equals_loops(centring, koleo):
    """Class tokens and patches have a centre, a temperature and a Sinkhorn of their own; each Sinkhorn spans both views."""
    run, data = tiny("dinov2")
    settings = replace(run.method, **FAMILY, centring=centring, koleo=koleo)
    method = make(replace(run, method=settings), data)[0].double()
    centre, patch_centre = numbers(5, seed=5, scale=0.3), numbers(5, seed=6, scale=0.3)
    method.centre.copy_(centre)
    method.patch_centre.copy_(patch_centre)
    student, teacher = numbers(4, 3, 5), numbers(2, 3, 5, seed=1, scale=0.4)
    patch, seen = numbers(2, 3, 2, 5, seed=2), numbers(2, 3, 2, 5, seed=3, scale=0.4)
    counts = torch.tensor([[2, 0, 1], [1, 2, 0]])
    weight = (torch.arange(2) < counts[..., None]).double() / counts[..., None].clamp(min=1)
    features, patch_mean = numbers(2, 3, 6, seed=4), numbers(2, 3, 5, seed=7)
    out = {"student": student, "teacher": teacher, "patch": patch, "patch_target": seen, "weight": weight}
    found = method.loss({**out, "features": features, "patch_mean": patch_mean}, torch.arange(3), at(10))

    def targets(rows: list[Tensor], c: Tensor, t: float) -> list[list[float]]:
        if centring == "centre":
            return [softmax(((row - c) / t).tolist()) for row in rows]
        return balanced([[math.exp(x / t) for x in row.tolist()] for row in rows], 3)

    views = [(v, b) for v in range(2) for b in range(3)]
    said = dict(zip(views, targets([teacher[i] for i in views], centre, 0.05)))  # half-way up at the second of 3 epochs
    pairs = [(g, v, b) for g in range(2) for v in range(4) for b in range(3) if g != v]
    total = sum(cross(said[g, b], softmax((student[v, b] / 0.1).tolist())) for g, v, b in pairs) / len(pairs)
    hidden = [(v, b, m) for v, b in views for m in range(int(counts[v, b]))]
    for (v, b, m), target in zip(hidden, targets([seen[i] for i in hidden], patch_centre, 0.09), strict=True):
        total += 0.6 * cross(target, softmax((patch[v, b, m] / 0.1).tolist())) / int(counts[v, b]) / 6
    for z in F.normalize(features, dim=2):
        for b in range(3):
            total -= koleo * math.log(min(float((z[b] - z[i]).norm()) for i in range(3) if i != b) + 1e-8) / 3
    assert found.loss.item() == pytest.approx(total, rel=1e-9)

    method.after_step(at(10), found.carry)
    torch.testing.assert_close(method.centre, 0.9 * centre + 0.1 * teacher.mean((0, 1)))
    torch.testing.assert_close(method.patch_centre, 0.9 * patch_centre + 0.1 * patch_mean.mean((0, 1)))


def test_dinov2_without_masks_and_with_a_centre_is_dino():
    run, data = tiny("dinov2")
    settings = replace(run.method, **FAMILY, centring="centre", koleo=0.0)
    method, _, pictures = make_double(replace(run, method=settings), data)
    method.centre.copy_(numbers(5, seed=5, scale=0.3))
    method.patch_centre.copy_(numbers(5, seed=6, scale=0.3))
    with torch.no_grad():
        method.mask_token.fill_(1.0)
        for i, p in enumerate(method.teacher.parameters()):
            p.add_(numbers(*p.shape, seed=i, scale=0.05))
    views = method.views(pictures.part.gather(torch.arange(6)), method.views.draw(6, torch.Generator().manual_seed(1)))
    views["mask"] = torch.zeros_like(views["mask"])
    names = [f.name for f in fields(DINOConfig)]
    dino = DINO(DINOConfig(**{n: getattr(settings, n) for n in names}), copy.deepcopy(method.student.encoder), data)  # type: ignore[arg-type]
    dino.double().load_state_dict({name: x for name, x in method.state_dict().items() if name in dino.state_dict()})
    pair = [m(views, torch.arange(6), at(10)).loss for m in (method, dino)]
    torch.testing.assert_close(*pair, rtol=1e-12, atol=0)
    student, teacher = outputs(dino, views)
    torch.testing.assert_close(pair[0], losses.dino(student, teacher, dino.centre, 0.1, 0.05))
    for loss in pair:
        loss.backward()
    theirs = dict(dino.student.named_parameters())
    for name, p in method.student.named_parameters():
        torch.testing.assert_close(p.grad, theirs[name].grad)


def outputs(method, views):
    """Logits of student and teacher, crop by crop, without the method's own `encode`."""
    student, teacher = method.student, method.teacher.module
    crops = [*views["global"], *views["local"]]
    with torch.no_grad():
        taught = [teacher.head(teacher.encoder(x)) for x in views["global"]]
    return [student.head(student.encoder(x)) for x in crops], taught


def apart(patch_head="own", **changes):
    """iBOT with a head of its own for patches, in float64, the teacher away from the student."""
    run, data = tiny("ibot")
    method, _, pictures = make_double(replace(run, method=replace(run.method, patch_head=patch_head, **changes)), data)
    with torch.no_grad():
        for i, p in enumerate(method.teacher.parameters()):
            p.add_(numbers(*p.shape, seed=i, scale=0.05))
    views = method.views(pictures.part.gather(torch.arange(6)), method.views.draw(6, torch.Generator().manual_seed(1)))
    return method, views, method.encode(views, at())


@pytest.mark.parametrize("centring", ["centre", "sinkhorn"])
def test_a_patch_head_is_for_patches_and_for_nothing_else(centring):
    method, views, out = apart(centring=centring)
    student, teacher, mask = method.student, method.teacher.module, views["mask"]
    for net in (student, teacher):
        own, other = (head.mlp[0].weight for head in (net.patch_head, net.head))
        assert own.shape == other.shape
        assert not torch.allclose(own, other)
    with torch.no_grad():
        for v, view in enumerate(views["global"]):
            tokens = student.encoder.tokens(view, mask[v], method.mask_token)
            taught = teacher.encoder.tokens(view)
            torch.testing.assert_close(out["student"][v], student.head(student.encoder.pooled(tokens)))
            torch.testing.assert_close(out["teacher"][v], teacher.head(teacher.encoder.pooled(taught)))
            for b in range(6):
                count, patches = int(mask[v, b].sum()), teacher.patch_head(taught[b, 1:])
                hidden = student.patch_head(tokens[b, 1:][mask[v, b]])
                torch.testing.assert_close(out["patch"][v, b, :count], hidden)
                torch.testing.assert_close(out["patch_target"][v, b, :count], patches[mask[v, b]])
                if centring == "centre":
                    torch.testing.assert_close(out["patch_mean"][v, b], patches.mean(0))
        for v, view in enumerate(views["local"]):
            torch.testing.assert_close(out["student"][2 + v], student.head(student.encoder(view)))
    assert int(mask.sum()) > 0


@pytest.mark.parametrize("alone", ["patch", "student"])
def test_each_head_learns_from_its_own_loss_only(alone):
    method, _, out = apart(unit_last=False)
    for name in {"patch", "student"} - {alone}:
        out[name] = out[name].detach()
    method.loss(out, torch.arange(6), at()).loss.backward()
    heads = {"patch": method.student.patch_head, "student": method.student.head}
    for name, head in heads.items():
        for p in head.parameters():
            if name == alone:
                assert p.grad is not None
                assert float(p.grad.abs().max()) > 0
            else:
                assert p.grad is None
    assert all(p.grad is None for p in method.teacher.parameters())


def test_patches_may_share_all_but_the_last_layer():
    method, views, out = apart("last", unit_last=False)
    student, mask = method.student, views["mask"]
    with torch.no_grad():
        tokens = student.encoder.tokens(views["global"][0], mask[0], method.mask_token)
        for b in range(6):
            hidden = student.patch_last(student.head.mlp(tokens[b, 1:][mask[0, b]]))
            torch.testing.assert_close(out["patch"][0, b, : len(hidden)], hidden)
    out["student"] = out["student"].detach()
    method.loss(out, torch.arange(6), at()).loss.backward()
    assert student.head.last.direction.grad is None
    assert all(
        float(p.grad.abs().max()) > 0 for p in (*student.patch_last.parameters(), *student.head.mlp.parameters())
    )
    late = {id(p) for group in method.param_groups() if group.get("start") for p in group["params"]}
    assert {id(p) for p in student.patch_last.parameters()} < late  # frozen at first, as the other last layer


def test_the_mask_token_does_not_decay():
    """Also where every bias and token of the encoder does."""
    config = OptimizerConfig(name="adamw", lr=0.1, weight_decay=0.5, scaling="none", decay_bias_and_norm=True)
    run, data = tiny("ibot", optimizer=config)
    method, optimizer, _ = make(run, data)
    bias = method.student.head.mlp[0].bias
    with torch.no_grad():
        method.mask_token.fill_(1.0)
        bias.fill_(1.0)
    for p in method.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    optimizer.step()
    assert torch.equal(method.mask_token, torch.ones_like(method.mask_token))
    torch.testing.assert_close(bias, torch.full_like(bias, 1 - 0.1 * 0.5))


def test_without_masks_ibot_is_dino():
    method, views = masked()
    views["mask"] = torch.zeros_like(views["mask"])
    out = method.encode(views, at())
    found = method.loss(out, torch.arange(12), at())
    assert float(found.logs["patch_loss"]) == 0
    t = method.config.teacher_temperature
    torch.testing.assert_close(found.loss, losses.dino(out["student"], out["teacher"], method.centre, 0.1, t))


def test_only_masked_patches_enter_the_patch_loss():
    method, views = masked()
    mask = views["mask"]
    out = method.encode(views, at())
    counts = mask.sum(2)
    assert out["patch"].shape[2] == method.views.masks.most >= int(counts.max())
    assert int((counts > 0).sum()) not in (0, counts.numel())
    torch.testing.assert_close(out["weight"].sum(2), (counts > 0).float())
    out["patch"].retain_grad()
    method.loss(out, torch.arange(12), at()).loss.backward()
    touched = out["patch"].grad.abs().sum(3) > 0
    assert torch.equal(touched, out["weight"] > 0)
    # the rows are those of the masked positions, in order
    teacher = method.teacher.module
    with torch.no_grad():
        seen = teacher.patches(teacher.encoder.tokens(views["global"].flatten(0, 1))[:, 1:]).unflatten(0, (2, -1))
    v, b = (int(i) for i in (counts == counts.max()).nonzero()[0])
    at_mask = seen[v, b][mask[v, b]]
    torch.testing.assert_close(out["patch_target"][v, b, : len(at_mask)], at_mask)
    torch.testing.assert_close(out["patch_mean"][v, b], seen[v, b].mean(0))


def test_small_crops_are_never_masked_and_the_teacher_sees_everything():
    method, views = masked()
    out = method.encode(views, at())
    views["mask"] = ~views["mask"]
    other = method.encode(views, at())
    torch.testing.assert_close(out["teacher"], other["teacher"])
    torch.testing.assert_close(out["student"][2:], other["student"][2:])
    assert not torch.allclose(out["student"][:2], other["student"][:2])


def test_sinkhorn_of_patches_ignores_padding():
    method, views = masked("dinov2", koleo=0.0)
    out = method.encode(views, at())
    loss = method.loss(out, torch.arange(12), at()).loss
    padding = (out["weight"] == 0)[..., None]
    out["patch_target"] = torch.where(padding, 50 * torch.randn_like(out["patch_target"]), out["patch_target"])
    torch.testing.assert_close(method.loss(out, torch.arange(12), at()).loss, loss)


def test_koleo_acts_on_each_whole_view_alone():
    method, views = masked("dinov2", koleo=0.5)
    out = method.encode(views, at())
    total = method.loss(out, torch.arange(12), at()).loss
    method.config = replace(method.config, koleo=0.0)
    rest = method.loss(out, torch.arange(12), at()).loss
    torch.testing.assert_close(total - rest, 0.5 * sum(losses.koleo(z) for z in out["features"]))


def test_layers_have_decaying_rates():
    """From the last normalisation down; the patch embedding alone is slower again, not the positions beside it."""
    run, data = tiny("dinov2")
    method, *_ = make(run, data)
    found = {id(p): group.get("lr_scale", 1.0) for group in method.param_groups() for p in group["params"]}
    encoder = method.student.encoder
    depth, seen = len(encoder.blocks), set()
    for name, p in encoder.named_parameters():
        kind, *rest = name.split(".")
        level = {"cls_token": 0, "pos_embed": 0, "patch_embed": 0, "norm": depth + 1}.get(kind)
        level = int(rest[0]) + 1 if level is None else level
        assert found[id(p)] == pytest.approx(0.9 ** (depth + 1 - level) * (0.2 if kind == "patch_embed" else 1)), name
        seen.add(kind)
    assert seen == {"cls_token", "pos_embed", "patch_embed", "blocks", "norm"}


@pytest.mark.parametrize("kind", ["block", "random"])
def test_masks_keep_their_promises(kind):
    masks = Masks(kind, 8, (0.1, 0.5), 0.5)
    found = masks.draw(400, 2, torch.Generator().manual_seed(0))
    counts = found.sum(2)
    assert found.shape == (400, 2, 64)
    assert int(counts.max()) <= masks.most == 32
    some = counts[counts > 0].double()
    assert 0.4 < len(some) / 800 < 0.6
    assert float(some.min()) >= int(0.1 * 64)  # blocks, too, hide what was drawn
    assert float(some.mean()) == pytest.approx(0.3 * 64, abs=2.5)
    share = found.double().mean((0, 1))
    assert float(share.min()) > 0.03  # every place is hidden at times
    again = masks.draw(400, 2, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)


def test_blocks_are_blocks():
    """Neighbours of hidden patches are hidden far more often than by chance."""
    together = {}
    for kind in ("block", "random"):
        found = Masks(kind, 12, (0.3, 0.3), 1.0).draw(200, 1, torch.Generator().manual_seed(0)).view(200, 12, 12)
        together[kind] = float((found[:, :, 1:] & found[:, :, :-1]).double().mean())
    assert together["block"] > 1.8 * together["random"]


def test_msn_drops_the_same_patches_everywhere_and_for_a_step():
    run, data = tiny("msn")
    method, _, pictures = make(run, data)
    seen: list[Any] = []

    def watched(x: Tensor, keep: Tensor | None = None) -> Tensor:
        seen.append(keep)
        return tokens(x, keep=keep)

    tokens = method.student["encoder"].tokens
    method.student["encoder"].tokens = watched
    views = method.views(pictures.part.gather(torch.arange(6)), method.views.draw(6, torch.Generator().manual_seed(0)))
    a, b = method.encode(views, at()), method.encode(views, at())
    assert torch.equal(a["anchor"], b["anchor"])
    assert seen[0].shape == (6, 16 - int(0.15 * 16))
    assert bool((seen[0] == seen[0][0]).all())


def test_msn_prototypes_learn_from_anchors_only():
    run, data = tiny("msn")
    method, _, pictures = make(run, data)
    views = method.views(pictures.part.gather(torch.arange(6)), method.views.draw(6, torch.Generator().manual_seed(0)))
    out = method.encode(views, at())
    assert not out["target"].requires_grad
    assert out["anchor"].shape == (3, 6, 32)
    method.loss(out, torch.arange(6), at()).loss.backward()
    assert float(method.prototypes.grad.abs().sum()) > 0


def test_msn_momentum_rises_in_a_straight_line():
    run, data = tiny("msn")
    method, *_ = make(run, data)
    with torch.no_grad():
        method.teacher.module["projector"][0].weight.zero_()
        weight = method.student["projector"][0].weight.clone()
    method.after_step(at(50), {})
    expected = (1 - (0.9 + 0.1 * 0.5 / 1.25)) * weight
    torch.testing.assert_close(method.teacher.module["projector"][0].weight, expected)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dino", {"teacher_temperature": 0.0}, "above 0"),
        ("dino", {"momentum": 1.5}, "from 0 to 1"),
        ("dino", {"outputs": 1}, "at least 2"),
        ("dino", {"momentum": 0.99, "momentum_end": 0.9}, "never falls"),
        ("msn", {"drop": 1.0}, "leaves no patch"),
        ("msn", {"sharpen": 0.0}, "above 0"),
    ],
)
def test_wrong_settings_are_refused(name, settings, message):
    with pytest.raises(WrongUse, match=message):
        {"dino": DINOConfig, "msn": MSNConfig}[name](**settings)


@pytest.mark.parametrize(("method", "config"), [(IBOT, IBOTConfig), (DINOv2, DINOv2Config), (MSN, MSNConfig)])
def test_methods_of_patches_want_an_encoder_with_patches(method, config):
    with pytest.raises(WrongUse, match="vit-small"):
        method(config(), build("fastnet-tiny", 3, 16), None)


def test_masks_want_the_right_method_and_encoder():
    run, data = tiny("ibot")
    with pytest.raises(WrongUse, match=r"--views\.mask block"):
        make(replace(run, views=replace(run.views, mask="none")), data)
    run, data = tiny("dino")
    with pytest.raises(WrongUse, match="hides no patches"):
        make(replace(run, views=replace(run.views, mask="block")), data)


def test_head_is_length_times_cosine():
    """Of the bottleneck and each direction, so that neither's scale matters."""
    head = Head(6, DINOConfig(hidden=32, bottleneck=16, outputs=24, unit_last=False)).double()
    with torch.no_grad():
        head.last.length.copy_(numbers(24, 1, seed=1).exp())
    x = numbers(4, 6)
    before, z = head(x).detach(), head.mlp(x).detach()
    direction, length = head.last.direction.detach(), head.last.length.detach()
    for i in range(4):
        for k in range(24):
            v, g = direction[k], float(length[k])
            dot = sum(float(a) * float(b) for a, b in zip(z[i], v))
            cosine = dot / math.sqrt(sum(float(a) ** 2 for a in z[i]) * sum(float(b) ** 2 for b in v))
            assert float(before[i, k]) == pytest.approx(g * cosine, abs=1e-12)
    with torch.no_grad():
        head.last.direction.mul_(3.0)
    torch.testing.assert_close(head(x), before)
    with torch.no_grad():
        for p in head.mlp[-1].parameters():
            p.mul_(7.0)
    torch.testing.assert_close(head.mlp(x), 7 * z)
    torch.testing.assert_close(head(x), before)
