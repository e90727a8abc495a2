"""Sharded parameters (FSDP2) on two processes: the same losses, weights and checkpoints as whole ones, in float64."""

import json
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timm.models.regnet import RegNet, RegNetCfg
from torch import Tensor, nn

import selfsight
from selfsight import checkpoint, cli, distributed, encoders, optim
from selfsight.data import DataSet
from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from selfsight.run import Run
from selfsight.train import build, steps
from tiny import CPU, Double, make_double, same, tiny
from two import spawn

pytestmark = pytest.mark.xdist_group("two")


class SmallRegNet(nn.Module):
    """Four blocks of RegNetY."""

    dim = 40

    def __init__(self) -> None:
        super().__init__()
        size = RegNetCfg(depth=4, w0=8, wa=12.0, wm=1.5, group_size=8, bottle_ratio=1.0, se_ratio=0.25, stem_width=8)
        self.net = RegNet(size, in_chans=3, num_classes=0)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


LARC = {"name": "lars", "lars_dialect": "larc", "decay_bias_and_norm": True, "lr": 0.3, "weight_decay": 1e-2}
MUON = {"name": "muon", "lr": 0.02, "clip_value": 1e-3, "weight_decay": 0.1}
CASES: dict[str, dict[str, Any]] = {
    "larc": {"optimizer": LARC},
    "sgd, clipped, checkpointed": {"optimizer": {"name": "sgd", "clip_norm": 0.05}, "checkpoint_activations": True},
    "larc, clipped by tensor, accumulated": {
        "optimizer": {**LARC, "clip_norm": 0.01, "clip_per": "tensor"}, "accumulate": 2
    },
    "muon, clipped by value, micro-batch": {"optimizer": MUON, "micro_batch": 16},
}  # fmt: skip
SLOW = {"adamw": {"optimizer": {"name": "adamw", "lr": 0.01}}}
TOTAL, MIDDLE = 5, 3


def case(name: str) -> tuple[Run[Any], DataSet]:
    """SwAV for a few steps, in one case with small crops; its prototypes rest in the first two."""
    settings = dict({**CASES, **SLOW}[name])
    run, data = tiny("swav")
    optimizer = replace(run.optimizer, **settings.pop("optimizer"))
    settings["method"] = replace(run.method, freeze_steps=2)
    settings["views"] = run.views if name == "larc" else replace(run.views, locals=0)
    return replace(run, optimizer=optimizer, steps=TOTAL, batch_size=32, encoder="custom", **settings), data


def make(run: Run[Any], data: DataSet, strategy: str) -> Any:
    """All in float64, so that the answer is about the mathematics."""
    torch.manual_seed(1)
    if run.encoder == "custom":
        method, pictures = build(run, data, CPU, Double(SmallRegNet()))
        method.double()
        method.views.float()
    else:
        method, _, pictures = make_double(run, data)
    if strategy == "fsdp":
        from selfsight.sharding import shard

        shard(method.to(memory_format=torch.contiguous_format), CPU)
    return method, optim.build(run.optimizer, method, int(run.batch_size)), pictures


def train(run: Run[Any], made: Any, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
    """Losses and norms of gradients of some steps, and the whole state afterwards."""
    method, optimizer, pictures = made
    done = [(float(d.loss), float(d.gradient)) for d in steps(method, optimizer, pictures, run, start, stop)]
    state = {name: distributed.whole(value).clone() for name, value in method.state_dict().items()}
    return {"losses and norms": torch.tensor(done), **state}


def trained(run: Run[Any], data: DataSet) -> dict[str, dict[str, Tensor]]:
    """The run on whole parameters without checkpointing, on shards, and, if it is checkpointed, with that alone."""
    kinds = {"plain": ("ddp", False), "fsdp": ("fsdp", run.checkpoint_activations)}
    if run.checkpoint_activations:
        kinds["checkpointed"] = ("ddp", True)
    found = {}
    for kind, (strategy, spare) in kinds.items():
        made = make(replace(run, checkpoint_activations=spare), data, strategy)
        before = made[2].sweep(made[0].embed, torch.arange(8)), made[2].sweep(made[0].encoder, torch.arange(8))
        found[kind] = {"share": torch.tensor(share(made[0])), "embedded": before[0], "encoded": before[1]}
        if isinstance(made[0].encoder, encoders.TokenEncoder):
            found[kind]["attention"] = made[2].sweep(made[0].encoder.attention, torch.arange(8))
        draws = made[0].views.draw(4, torch.Generator().manual_seed(0))
        with torch.no_grad():
            drawn = made[0].pictures(made[0].views(made[2].part.gather(torch.arange(4)), draws))
        found[kind] |= {f"drawn {name}": x for name, x in drawn.items()}
        found[kind] |= train(run, made)
    return found


def share(module: nn.Module) -> float:
    """Part of the parameters that this process holds."""
    mine = sum(distributed.shard(p).numel() for p in module.parameters())
    return mine / sum(p.numel() for p in module.parameters())


def keep(made: Any, path: Path, step: int) -> None:
    method, optimizer = (checkpoint.gathered(part.state_dict()) for part in made[:2])
    if distributed.rank() == 0:
        checkpoint.save(path, checkpoint.Checkpoint(step, method, optimizer, "", {}))
    checkpoint.save_encoder(path.with_name("encoder.safetensors"), made[0].encoder, {})
    distributed.barrier()


def go_on(run: Run[Any], data: DataSet, strategy: str, path: Path) -> dict[str, Tensor]:
    """From a checkpoint to the end, in new objects that began elsewhere."""
    made = make(run, data, strategy)
    train(run, made, 0, 1)
    saved = checkpoint.load(path)
    checkpoint.load_into(made[0], saved.method, str(path))
    checkpoint.load_optimizer(made[1], saved.optimizer)
    return train(run, made, saved.step)


def resumed(folder: Path) -> dict[str, dict[str, Tensor]]:
    """A run that breaks off and goes on, as it was and under the other strategy."""
    run, data = case("larc")
    made = make(run, data, "fsdp")
    train(run, made, 0, MIDDLE)
    keep(made, folder / "middle.pt", MIDDLE)
    return {strategy: go_on(run, data, strategy, folder / "middle.pt") for strategy in ("fsdp", "ddp")}


def tensors() -> dict[str, tuple[Tensor, Tensor]]:
    """What the functions of distributed.py make of shards, and what they should: pairs."""
    from selfsight.sharding import shard

    found = {}
    for rows in (5, 2, 1):  # uneven, even, and nothing for the second process
        net = nn.Linear(3, rows)
        values = torch.arange(3.0 * rows).view(rows, 3)
        shard(nn.Sequential(net), CPU)
        distributed.write(net.weight, values)
        found[f"{rows} written"] = distributed.whole(net.weight), values
        mine = distributed.shard(net.weight)
        found[f"{rows} norm"] = distributed.norms([mine, mine.flatten()], True), values.norm().expand(2)
        found[f"{rows} part"] = distributed.part(values, net.weight), mine
    return found


def work(folder: Path, names: list[str]) -> None:
    from selfsight import sharding

    rank = distributed.rank()
    for name in names:
        given = case(name) if name in SLOW else tiny(name, steps=2)
        torch.save(trained(*given), folder / f"{name}.{rank}")
    if names == list(FEW):
        for name in CASES:
            sharding.LARGE = 300 if "checkpointed" in name else 10**8  # single layers inside of blocks, too
            torch.save(trained(*case(name)), folder / f"{name}.{rank}")
        torch.save({"tensors": tensors(), **resumed(folder)}, folder / f"more.{rank}")


FEW = (
    "directpred",
    "deepcluster",
    "ibot",
)  # a teacher and a predictor set by hand; a sweep; parameters outside of networks


def launch(folder: Path, names: list[str]) -> Path:
    spawn(work, folder, names)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(tmp_path_factory.mktemp("fsdp"), list(FEW))


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"share"}:
        assert ours[name].shape == theirs[name].shape, name
        gap = (ours[name].double() - theirs[name].double()).abs().max() if ours[name].numel() else 0.0
        assert gap <= tolerance, f"{name} differs by {gap}"


@pytest.mark.parametrize("name", [*CASES, *FEW])
def test_shards_train_as_whole_parameters_do(name: str, folder: Path) -> None:
    first, second = (torch.load(folder / f"{name}.{rank}") for rank in (0, 1))
    for kind in first.keys() - {"fsdp"}:
        equal(first["fsdp"], first[kind])
    losses = "losses and norms"  # losses are those of each process's rows
    equal({**first["fsdp"], losses: torch.ones(())}, {**second["fsdp"], losses: torch.ones(())}, 0.0)
    assert first["plain"]["share"] == 1
    assert first["fsdp"]["share"] < 0.6


def test_prototypes_rest_and_then_learn(folder: Path) -> None:
    """The cases above cover both phases: the rates are not zero, and the frozen ones moved in the end."""
    found = torch.load(folder / "larc.0")["fsdp"]
    start = make(*case("larc"), "ddp")[0].state_dict()
    moved = {name for name in start if not torch.allclose(found[name], start[name], atol=1e-6)}
    assert {"prototypes.weight", "projector.0.weight", "encoder.net.net.stem.conv.weight"} <= moved


def test_checkpoints_hold_whole_tensors_and_go_on_exactly(folder: Path) -> None:
    straight = torch.load(folder / "larc.0")["fsdp"]
    more = torch.load(folder / "more.0")
    losses = straight["losses and norms"][MIDDLE:]
    expected = {**straight, "losses and norms": losses}
    for name in ("share", "embedded", "encoded"):
        expected.pop(name)
    assert same(more["fsdp"], expected)
    equal(more["ddp"], expected)
    alone = go_on(*case("larc"), "ddp", folder / "middle.pt")
    equal({**alone, "losses and norms": losses}, expected)  # in one process the losses are those of all rows


def test_an_exported_encoder_is_whole(folder: Path) -> None:
    saved, found = checkpoint.load(folder / "middle.pt").method, load_file(folder / "encoder.safetensors")
    assert {f"encoder.{name}" for name in found} == {name for name in saved if name.startswith("encoder.")}
    assert all(torch.equal(value, saved[f"encoder.{name}"]) for name, value in found.items())


def test_the_attention_of_a_sharded_transformer(folder: Path) -> None:
    for rank in (0, 1):
        assert torch.load(folder / f"ibot.{rank}")["fsdp"]["attention"].ndim == 4


def test_functions_of_shards(folder: Path) -> None:
    for rank in (0, 1):
        for name, (ours, theirs) in torch.load(folder / f"more.{rank}")["tensors"].items():
            torch.testing.assert_close(ours, theirs, msg=name)


@pytest.mark.slow
def test_every_method_can_be_sharded(tmp_path: Path) -> None:
    names = [*SLOW, *(name for name in METHODS if name not in FEW)]
    launch(tmp_path, names)
    for name in names:
        found = torch.load(tmp_path / f"{name}.0")
        equal(found["fsdp"], found["plain"])


def test_a_batch_that_processes_do_not_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the user's own torchrun, which the settings know nothing of."""
    monkeypatch.setattr(distributed, "world", lambda: 3)
    for changes in ({}, {"batch_size": 63, "micro_batch": 7}):
        with pytest.raises(WrongUse, match="3 processes: choose multiples of 3"):
            build(*tiny("swav", **changes), CPU)


TINY = "pretrain swav --recipe tiny --encoder fastnet-tiny --threads 1 --strategy fsdp"


def test_one_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(shlex.split(f"{TINY} --out run")) == 2
    assert "add --processes 2" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_interrupted_and_goes_on_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = (
        f"{TINY} --processes 2 --checkpoint-activations --epochs 40 --log-every 1 --checkpoint-every 2 --export-every 1"
    )
    command = [sys.executable, "-m", "selfsight", *shlex.split(line), "--json", "--out", "run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit, metrics = time.monotonic() + 120, tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < limit:
        if metrics.is_file() and '"step": 9' in metrics.read_text():
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 143, err
    assert "not timed under fsdp" in err
    saved = checkpoint.load(tmp_path / "run/checkpoints/last.pt")
    settings = tmp_path / "run/run.yaml"
    text = settings.read_text().replace("strategy: fsdp", "strategy: ddp").replace("processes: 2", "processes: 1")
    settings.write_text(text.replace("steps: 320", f"steps: {saved.step + 2}"))
    assert cli.run(["resume", "run", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["steps"] == saved.step + 2
    kept = selfsight.load(tmp_path / "run/checkpoints/encoder-0000008.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.state_dict().values())
