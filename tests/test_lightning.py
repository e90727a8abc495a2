"""The methods under Lightning's Trainer are those of the loop."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from selfsight import WrongUse, api, optim
from selfsight import load as load_encoder
from selfsight.session import open_for, prepare
from selfsight.train import build, steps

L = pytest.importorskip("lightning", reason="needs the extra `lightning`")

from selfsight.integrations.lightning import Pretraining  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore")


def settings(method: str) -> Any:
    return api.settings(method, "tiny", device="cpu", precision="fp32", threads=1)


class Losses(L.Callback):  # type: ignore[name-defined]
    """Every loss."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.found.append(float(trainer.callback_metrics["loss"]))


def fit(module: Any, folder: Path, losses: Losses, checkpoint: Path | None = None, **more: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            **{**module.length(), **more}, callbacks=[losses], logger=False, enable_progress_bar=False, enable_checkpointing=False,
            enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(module, ckpt_path=checkpoint, weights_only=False) if checkpoint else trainer.fit(module)
    return trainer


def unbroken(method: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    run = settings(method)
    data = open_for(run, CPU)
    run, _ = prepare(run, data, CPU)
    built, pictures = build(run, data, CPU)
    optimizer = optim.build(run.optimizer, built, int(run.batch_size))
    losses = [float(done.loss) for done in steps(built, optimizer, pictures, run)]
    return losses, built.state_dict()


@pytest.mark.parametrize("method", ["simclr", "byol", "swav", "deepcluster", "mae"])
def test_losses_and_state_are_those_of_the_loop(method: str, tmp_path: Path) -> None:
    losses, state = unbroken(method)
    module, seen = Pretraining(settings(method)), Losses()
    trainer = fit(module, tmp_path, seen)
    assert seen.found == losses
    assert trainer.global_step == len(losses) == module.run.steps
    assert all(torch.equal(value, state[name]) for name, value in module.method.state_dict().items())
    module.save_encoder(tmp_path / "encoder.safetensors")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean, std = module.method.views.mean, module.method.views.std
        want = module.method.encoder.eval()((x - mean.reshape(1, -1, 1, 1)) / std.reshape(1, -1, 1, 1))
        assert torch.allclose(load_encoder(tmp_path / "encoder.safetensors")(x), want, atol=1e-6)


@pytest.mark.parametrize("method", ["byol", "deepcluster"])
def test_a_checkpoint_of_the_trainer_goes_on_exactly(method: str, tmp_path: Path) -> None:
    losses, state = unbroken(method)
    first = Losses()
    trainer = fit(Pretraining(settings(method)), tmp_path, first, max_steps=3)  # inside an epoch
    assert first.found == losses[:3]
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    module, rest = Pretraining(settings(method)), Losses()
    fit(module, tmp_path, rest, tmp_path / "three.ckpt")
    assert rest.found == losses[3:]
    assert all(torch.equal(value, state[name]) for name, value in module.method.state_dict().items())


def test_several_processes_are_refused() -> None:
    with pytest.raises(WrongUse, match="one process"):
        Pretraining(api.settings("simclr", "tiny", processes=2))
