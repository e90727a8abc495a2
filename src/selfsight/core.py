"""The protocol: what a method is. Read this first, then train.py.

Legend of shapes used all over the package: V views, B batch, N samples, C channels, D features, K classes or prototypes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

Views = dict[str, Tensor]
"""Name -> (V, B, ...): views of one shape share one tensor. Float pictures are normalised."""


class Images(NamedTuple):
    """Pictures of one batch as they come from the data side."""

    pixels: Tensor  #: (B, C, H, W) uint8; smaller pictures are padded at the right and the bottom
    sizes: Tensor | None = None  #: (B, 2) int64 true height and width on the CPU; None: every picture is H x W


class Output(NamedTuple):
    """What a method's forward returns."""

    loss: Tensor  #: () to minimise
    logs: dict[str, Tensor] = {}  #: () each, only logged
    carry: dict[str, Tensor] = {}  #: (rows, ...) each: what after_step folds into buffers


@dataclass(frozen=True)
class Step:
    """Where training is."""

    index: int  #: number of optimizer steps done
    total: int  #: number of optimizer steps of the whole run
    per_epoch: int  #: optimizer steps of one epoch
    rng: torch.Generator  #: the same on every rank; for the two hooks

    @property
    def progress(self) -> float:
        """0 at the first step, towards 1 at the end: every schedule is a function of this."""
        return self.index / self.total

    @property
    def epoch(self) -> int:
        """Epoch of this step, from 0."""
        return self.index // self.per_epoch

    @property
    def epoch_starts(self) -> bool:
        """True at the first step of an epoch."""
        return self.index % self.per_epoch == 0

    def fresh(self) -> torch.Generator:
        """`rng` from its start, for draws inside `encode` and `loss`: the same at every call and on every rank."""
        return torch.Generator().manual_seed(self.rng.initial_seed())


class Data(Protocol):
    """What a method may know of the data: never a label."""

    image_size: int  #: side of a whole view in pixels
    channels: int
    tiles: int  #: tiles that a picture is cut into, 0: none
    classes: int  #: number of classes, 0 without labels: for the supervised reference points

    def __len__(self) -> int:
        """N, number of training pictures."""
        ...

    def sweep(
        self, fn: Callable[[Tensor], Tensor], *, rng: torch.Generator | None = None, train: bool = False
    ) -> Tensor:
        """Apply `fn` to every picture, in index order, without gradient, in eval mode of the module that `fn` is.

        fn: normalised (b, C, S, S) float -> (b, ...); a module, or a method of one.
        rng: None: whole pictures without augmentation. A generator: the first of the method's whole views, drawn from it.
        train: in train mode instead; batch statistics are those of parts of the data, running ones stand still.

        Returns (N, ...) on the device, equal on every process. The training mode is as before afterwards.
        """
        ...


class ViewMaker(Protocol):
    """The augmentation of a method: every random number first, then pure, batched work on the device."""

    def draw(self, count: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Every random number for `count` pictures, on the CPU: name -> (count, ...)."""
        ...

    def __call__(self, images: Tensor | Images | dict[str, Tensor], draws: dict[str, Tensor]) -> Views:
        """uint8 pictures of B rows and their draws -> views. A dict holds pictures that are cropped already."""
        ...


class Method(nn.Module):
    """A self-supervised method. Built as `METHODS[name](config, encoder, data)`; `views` is set by the builder.

    A step is `loss(encode(views))`. Both are deterministic and change nothing but batch statistics; state lives in
    parameters and persistent buffers that exist after `__init__`, and changes in the two hooks only.
    """

    Config: ClassVar[type]  #: frozen dataclass of the method's settings
    sample_mean: ClassVar[bool] = False  #: the loss is a mean over samples, so accumulation equals the whole batch
    global_views: ClassVar[int] = 2  #: how many whole views the method reads
    more_views: ClassVar[bool] = False  #: it reads more of them, too
    local_views: ClassVar[bool] = False  #: it reads small crops, too
    tokens: ClassVar[bool] = False  #: it works on the tokens of a transformer
    masked: ClassVar[tuple[str, ...]] = ()  #: kinds of views.mask it reads: "mask", (V, B, T) bool, or see MultiBlock
    even_masks: ClassVar[bool] = False  #: each mask must hide equally many patches
    indexed: ClassVar[bool] = False  #: its loss rests on what it keeps of each training picture, by `index`
    tiled: ClassVar[bool] = False  #: it reads views["tiles"], (T, B, C, t, t), and "shuffle", (1, B, T) uniforms
    placed: ClassVar[bool] = False  #: it reads views["place"], (V, B, 4): where the whole views lie in their pictures
    labelled: ClassVar[bool] = False  #: it reads views["label"], (1, B) int64; supervised reference points only
    reorders: bool = False  #: `order` says what an epoch sees; decoding then never runs ahead into the next epoch
    encoder: nn.Module  #: (B, C, S, S) -> (B, D), what training leaves behind
    views: Any  #: a ViewMaker

    def encode(self, views: Views, step: Step) -> Views:
        """What the loss compares, of some rows: name -> (V, b, ...). Every trainable parameter acts here."""
        raise NotImplementedError

    def loss(self, outputs: Views, index: Tensor, step: Step) -> Output:
        """From what `encode` made of this process's rows to their loss. `index`: (B,) int64, which pictures they are."""
        raise NotImplementedError

    def forward(self, views: Views, index: Tensor, step: Step) -> Output:
        """`loss` of `encode`. The two are apart so that `--micro-batch` can encode a large batch in parts."""
        return self.loss(self.encode(views, step), index, step)

    def check(self, batch: int, part: int) -> None:
        """Raise WrongUse if the settings do not fit the numbers of pictures.

        batch: that a loss sees, over all processes. part: that one process encodes at a time.
        """

    def study(self, data: Data, rng: torch.Generator) -> dict[str, Tensor]:
        """Arrays to keep for a later analysis, such as matrices whose spectra matter. It changes nothing.

        data: some training pictures. rng: for their views. Both are the same at every time of a run.
        """
        return {}

    def pictures(self, views: Views) -> dict[str, Tensor]:
        """What to draw of some pictures for the report: heading -> (B, C, H, W), normalised as `views` are."""
        return {}

    def before_step(self, step: Step, data: Data) -> None:
        """Optional hook, before the views of a step are made."""

    def order(self, step: Step) -> Tensor | None:
        """Optional hook of a method that `reorders`: the rows that an epoch sees, (N,) int64 on the CPU, repeats allowed.

        Asked after `before_step` of the epoch's first step, and again wherever a run resumes inside the epoch: a pure
        function of state that changes at epoch starts only, and of `step`, the epoch's first, whose rng is the epoch's.
        None: every picture once, in random order.
        """
        return None

    def after_step(self, step: Step, carry: dict[str, Tensor]) -> None:
        """Optional hook, after the optimizer's step. `carry` holds the rows of *all* ranks, detached."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of trainable parameters: `params`, and any of start (step), lr_scale, lr_fixed, momentum, weight_decay, fresh.

        fresh: every so many epochs the group's optimizer starts anew.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def assignment(self) -> Tensor | None:
        """Cluster of every training picture, (N,) or (H, N) int64: each probe compares it with the labels, if any."""
        return None

    def after_encoder(self) -> dict[str, nn.Module]:
        """Layers behind the encoder whose outputs can be asked for, each reading the one before it: name -> (B, D) to (B, d).

        In order, under the field's names: "projector", then perhaps "predictor".
        """
        return {}

    def embed(self, images: Tensor) -> Tensor:
        """(B, C, S, S) normalised -> (B, D) for the health monitors; default: the projector's output, else the encoder's."""
        features: Tensor = self.encoder(images)
        projector = self.after_encoder().get("projector")
        return features if projector is None else projector(features)

    def constant_loss(self, batch: int) -> float | None:
        """The loss of constant outputs at this global batch size, a sign of collapse; None: it has no such value."""
        return None
