"""The methods under Lightning's Trainer: its callbacks, loggers and checkpoints around our steps.

    run = selfsight.api.settings("byol", data="~/photos", epochs=50)
    module = Pretraining(run)
    lightning.Trainer(**module.length(), callbacks=...).fit(module)
    module.save_encoder("encoder.safetensors")

The steps are those of `train.steps`, so losses equal those of `selfsight pretrain` to the last bit, and a Trainer that starts
from a checkpoint of its own goes on exactly, in the middle of an epoch as well. On one device: for several, `selfsight pretrain
--processes` does what a strategy of the Trainer cannot know, such as batch statistics and candidates over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader

from selfsight import checkpoint
from selfsight.errors import WrongUse
from selfsight.machine import pick_device
from selfsight.run import Run
from selfsight.session import Session, choose_precision, open_for, prepare
from selfsight.train import Done, steps


class Pretraining(lightning.LightningModule):
    """A run as a LightningModule: one `training_step` is one optimizer step.

    Args:
        run: as `selfsight.api.settings` makes it; `out`, `processes` and what is measured on the way belong to the Trainer here.
        encoder: a module with `.dim` instead of the named one.

    Attributes:
        method: the method; `method.encoder` is what training leaves behind.
        run: the resolved settings.
        choices: what "auto" became, and why.

    Raises:
        WrongUse: the settings or the data are wrong.
    """

    def __init__(self, run: Run[Any], encoder: nn.Module | None = None) -> None:
        super().__init__()
        if run.processes > 1 or run.strategy != "ddp":
            raise WrongUse("under Lightning a run has one process: leave out processes and strategy")
        device = pick_device(run.device)
        data = open_for(run, device)
        run, self.choices = prepare(run, data, device)
        self.session = Session(run, data, device, encoder)
        self.session.run, why = choose_precision(run, self.session.method, device)
        self.choices.append(why)
        self.run, self.method = self.session.run, self.session.method
        self.automatic_optimization = False
        self._steps: Iterator[Done] | None = None

    def length(self) -> dict[str, Any]:
        """What the Trainer must be told: the run's length and device. Half precision, where chosen, is inside the steps."""
        device = self.session.device
        where = {"cuda": "gpu"}.get(device.type, device.type)
        devices: Any = [device.index or 0] if device.type == "cuda" else 1
        return {"max_steps": self.run.steps, "max_epochs": -1, "accelerator": where, "devices": devices}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The run's optimizer; its rates follow the run's schedule, set by the steps."""
        return self.session.optimizer

    def train_dataloader(self) -> DataLoader[Any]:
        """As many items as an epoch has steps: which pictures a step sees is a function of its number."""
        return DataLoader(range(self.session.per_epoch), batch_size=None)  # type: ignore[arg-type]

    def on_train_start(self) -> None:
        """Begin at the step that the Trainer's checkpoint is of."""
        if self.trainer.world_size > 1:
            raise WrongUse("Pretraining trains on one device: give Trainer(devices=1)")
        self.session.done = self.global_step
        optimizer: Any = self.optimizers()  # Lightning's, which counts steps
        self._steps = steps(self.method, optimizer, self.session.train, self.run, self.global_step)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """One optimizer step; logs `loss`, the method's own numbers and the rate."""
        assert self._steps is not None
        done = next(self._steps)
        self.session.done = done.step.index + 1
        self.log("loss", done.loss, prog_bar=True)
        self.log_dict({**done.logs, "lr": done.rate})

    def on_train_end(self) -> None:
        """End the steps: workers that decode pictures stop."""
        self._steps = None

    def save_encoder(self, path: str | Path) -> None:
        """Write the encoder as `selfsight.load` reads it."""
        checkpoint.save_encoder(Path(path), self.method.encoder, self.session.header())
