"""The loop. It never asks which method it trains; read core.py first.

rates -> before_step -> order, draws, own rows -> views -> forward, backward -> optimizer -> after_step
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from selfsight import augment, distributed, encoders, optim
from selfsight.batchnorm import frozen_statistics, sync_batch_norm
from selfsight.core import Method, Step
from selfsight.data import DataSet, Part
from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from selfsight.passes import Batch, Pass, Pixels, forward_backward, to_device
from selfsight.recompute import checkpoint_blocks
from selfsight.rng import Stream, generator, seed_of
from selfsight.run import Run


@contextmanager
def evaluating(module: Any, train: bool = False) -> Iterator[None]:
    """No gradient inside, and eval mode, or train mode with running statistics that stand still; flags come back."""
    parts = list(module.modules()) if isinstance(module, nn.Module) else []
    flags = [m.training for m in parts]
    try:
        for m in parts:
            m.training = train
        with torch.no_grad(), frozen_statistics(module) if train and parts else nullcontext():
            yield
    finally:
        for m, training in zip(parts, flags, strict=True):
            m.training = training


class Pictures:
    """A part of the data set as a method sees it (core.Data); `views` is the method's."""

    def __init__(self, part: Part, image_size: int, channels: int, device: torch.device, classes: int = 0) -> None:
        self.part, self.image_size, self.channels, self.device = part, image_size, channels, device
        self.classes = classes
        self.views: Any = None  # set by `build`, since the views are built with the method
        self.tiles = 0  # as well

    def __len__(self) -> int:
        return len(self.part)

    def plain(self, rows: Tensor, size: int | None = None) -> Tensor:
        """Whole pictures without augmentation: (b,) -> (b, C, S, S) normalised, on the device."""
        return self.views.plain(to_device(self.part.gather(rows), self.device), size or self.image_size)

    def augmented(self, rows: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """The first whole view of pictures: (b,), their draws -> (b, C, s, s) normalised, on the device."""
        first: Tensor = self.views(to_device(self.part.gather(rows), self.device), draws)["global"][0]
        return first

    def sweep(
        self,
        fn: Callable[[Tensor], Tensor],
        rows: Tensor | None = None,
        chunk: int = 256,
        *,
        rng: torch.Generator | None = None,
        train: bool = False,
    ) -> Tensor:
        """Apply `fn` to every picture (or to `rows`), in order; see core.Data. Every process does its share.

        In train mode batch statistics are those of `chunk` pictures, whatever the number of processes; the last chunk
        is filled up from the start.
        """
        rows = torch.arange(len(self)) if rows is None else rows
        count, world = len(rows), distributed.world()
        at = torch.arange(-(-count // chunk) * chunk if train else count) % count
        done: list[Tensor] = []
        with evaluating(fn if isinstance(fn, nn.Module) else getattr(fn, "__self__", None), train):
            for part in at.split(chunk if train else chunk * world):  # parts end where draws do
                mine = distributed.own(torch.arange(-(-len(part) // world) * world) % len(part))
                if rng is None:
                    x = self.plain(rows[part[mine]])
                else:
                    made = [self.views.draw(chunk, rng) for _ in range(-(-len(part) // chunk))]
                    draws = {name: torch.cat([draw[name] for draw in made])[mine] for name in made[0]}
                    x = self.augmented(rows[part[mine]], draws)
                done.append(distributed.gather(fn(x))[: len(part)])
            return torch.cat(done)[:count]


class Done(NamedTuple):
    """What one optimizer step reports. Tensors stay on the device: reading them costs a synchronisation."""

    step: Step
    loss: Tensor  #: () of this process's rows, as the logs: the mean over processes is the global batch's
    logs: dict[str, Tensor]
    gradient: Tensor  #: () norm before clipping
    rate: float  #: learning rate of groups with lr_scale 1
    views: int  #: views made for the global batch
    waited: float  #: seconds that this process waited for its pictures


def build(
    run: Run[Any], data: DataSet, device: torch.device, encoder: nn.Module | None = None
) -> tuple[Method, Pictures]:
    """The method with its encoder and views, initialised from the run's seed; and the training pictures.

    Args:
        run: resolved (no "auto" left).
        data: what it trains on.
        device: where.
        encoder: a module with `.dim` instead of the named one.

    Raises:
        WrongUse: the views do not fit the method.
    """
    cls = METHODS[run.method_name]
    wanted, asked = cls.global_views, run.views.views
    if asked < wanted or (asked > wanted and not cls.more_views):
        raise WrongUse(
            f"{run.method_name} reads {'at least ' * cls.more_views}{wanted} whole views, not {asked}: "
            f"set --views.views {wanted}"
        )
    if cls.labelled and (data.train.labels is None or bool((data.train.labels < 0).any())):
        raise WrongUse(
            f"{run.method_name} learns from labels, and pictures of {run.data!r} have none: choose another method"
        )
    if run.views.locals and not cls.local_views:
        raise WrongUse(
            f"{run.method_name} reads no local crops: leave out --views.locals, or choose a method such as swav"
        )
    if run.views.mask not in (cls.masked or ("none",)):
        kinds = " or ".join(cls.masked)
        how = f"hides patches: set --views.mask {kinds}" if kinds else "hides no patches: leave out --views.mask"
        raise WrongUse(f"{run.method_name} {how}")
    if cls.tiled != bool(run.views.tiles.grid):
        how = "reads tiles: set --views.tiles.grid 3" if cls.tiled else "reads no tiles: leave out --views.tiles.grid"
        raise WrongUse(f"{run.method_name} {how}")
    low, high = run.views.mask_ratio
    if cls.even_masks and not low == high < 1 == run.views.mask_share:
        raise WrongUse(
            f"{run.method_name} hides equally many patches in every view: set --views.mask-share 1, and --views.mask-ratio to "
            "one number below 1, such as 0.6 0.6"
        )
    if cls.placed and not run.views.places:
        raise WrongUse(f"{run.method_name} compares the same places of two views: add --views.places")
    assert isinstance(run.image_size, int)
    torch.manual_seed(seed_of(run.seed, Stream.INIT))
    if encoder is None:
        encoder = encoders.build(run.encoder, data.channels, run.image_size, run.net)
    train_data = Pictures(data.train, run.image_size, data.channels, device, len(data.classes or ()))
    train_data.views = augment.build(
        run.views, run.image_size, data.channels, data.mean, data.std, int(getattr(encoder, "patch", 0))
    )
    train_data.tiles = run.views.tiles.grid**2
    method = cls(run.method, encoder, train_data)
    method.views = train_data.views
    if run.shuffle_window and (train_data.part.shards() is None or method.reorders):
        raise WrongUse(
            f"{run.method_name} chooses the order of the pictures itself: leave out --shuffle-window"
            if method.reorders
            else f"the pictures of {run.data!r} are not read from shards while training: leave out --shuffle-window, or, of "
            "shards, add --cache off"
        )
    assert isinstance(run.batch_size, int)
    batch, world = run.batch_size // run.accumulate, distributed.world()
    if batch % world or run.micro_batch % world:  # torchrun's processes, which the settings do not know of
        raise WrongUse(
            f"--batch-size {run.batch_size} (--accumulate {run.accumulate}, --micro-batch {run.micro_batch}) does not "
            f"divide among {world} processes: choose multiples of {world}"
        )
    method.check(batch, (run.micro_batch or batch) // world)
    encoders.check_side(encoder, run.image_size, "image-size")
    flags = {"global": "views.size", "local": "views.local-size", "tiles": "views.tiles.size"}
    for name, (_, side) in method.views.shapes.items():
        encoders.check_side(encoder, side, flags[name])
    if world > 1:
        sync_batch_norm(method)
    if run.checkpoint_activations:
        checkpoint_blocks(method)
    if run.strategy == "fsdp":
        from selfsight.sharding import shard  # a slow import

        shard(method, device)
        return method.to(device), train_data  # shards have no other layout
    return method.to(device).to(memory_format=torch.channels_last), train_data


def order(seed: int, epoch: int, count: int, shards: Tensor | None = None, window: int = 0) -> Tensor:
    """The order of the pictures in an epoch: (N,) int64.

    `shards`: (N,) which one each picture lies in. With a `window` they come in a random order, and the pictures of so many
    at a time are shuffled.
    """
    rng = generator(seed, Stream.ORDER, epoch)
    rows = torch.randperm(count, generator=rng)
    if shards is None or not window:
        return rows
    turn = torch.randperm(int(shards.max()) + 1, generator=rng) // window
    return rows[turn[shards[rows]].argsort(stable=True)]


def steps(
    method: Method,
    optimizer: torch.optim.Optimizer,
    data: Pictures,
    run: Run[Any],
    start: int = 0,
    stop: int | None = None,
) -> Iterator[Done]:
    """Train from step `start` to `stop`, yielding after each step. State is in `method` and `optimizer` alone.

    Args:
        method: built by `build`; its state is that of step `start`.
        optimizer: built by `optim.build`.
        data: the training pictures.
        run: resolved; `run.steps` is the length of the whole run, which schedules refer to.
        start: optimizer steps done.
        stop: where to end; default: the end of the run.
    """
    assert isinstance(run.batch_size, int)
    batch, seed, per_epoch = run.batch_size, run.seed, len(data) // run.batch_size
    stop = run.steps if stop is None else min(stop, run.steps)
    epochs = range(start // per_epoch, -(-stop // per_epoch))
    whole = [(max(start, e * per_epoch), min(stop, (e + 1) * per_epoch)) for e in epochs]
    model = distributed.wrap(Pass(method))
    peak = optim.peak_rate(run.optimizer, batch)
    views = batch * sum(count for count, _ in method.views.shapes.values())
    waiting: deque[tuple[Tensor, dict[str, Tensor]]] = deque()
    shards = data.part.shards() if run.shuffle_window else None

    def at(index: int, stream: Stream, key: int) -> Step:
        return Step(index, run.steps, per_epoch, generator(seed, stream, key))

    def ahead(first: int, last: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Rows and draws of this process, step by step; decoders may run ahead of the loop."""
        epoch, rows = -1, torch.empty(0)
        for index in range(first, last):
            if index // per_epoch != epoch:
                epoch = index // per_epoch
                chosen = method.order(at(epoch * per_epoch, Stream.ORDER, epoch)) if method.reorders else None
                rows = order(seed, epoch, len(data), shards, run.shuffle_window) if chosen is None else chosen
            draws = method.views.draw(batch, generator(seed, Stream.VIEWS, index))
            own = distributed.own(rows[index % per_epoch * batch :][:batch])
            waiting.append((own, {name: distributed.own(d) for name, d in draws.items()}))
            yield waiting[-1]

    def fed() -> Iterator[Pixels]:
        """Pictures of the steps. What reorders is asked for an epoch's rows when the loop has got there."""
        for first, last in whole if method.reorders else [(start, stop)]:
            yield from data.part.feed(ahead(first, last), method.views)

    method.train()
    feed = fed()
    for index in range(start, stop):
        step = at(index, Stream.SHARED, index)
        factor = optim.factor(run.schedule, step)
        optim.set_rates(optimizer, peak, factor, optim.decay_factor(run.optimizer, step, run.schedule.stretch))
        torch.manual_seed(seed_of(seed, Stream.SHARED, index))
        method.before_step(step, data)
        optim.forget(optimizer, step)
        began = time.perf_counter()
        images = next(feed)
        waited = time.perf_counter() - began
        rows, draws = waiting.popleft()
        labels = data.part.labels[rows] if method.labelled and data.part.labels is not None else None
        batch_of = Batch(method, to_device(images, data.device), draws, rows, labels, data.device)
        outputs = forward_backward(model, batch_of, step, run)
        optim.drop_unstarted(optimizer, index)
        gradient = optim.clip(method.parameters(), run.optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            carry = {name: torch.cat([out.carry[name].detach() for out in outputs]) for name in outputs[0].carry}
            method.after_step(step, {name: distributed.gather(rows) for name, rows in carry.items()})
            loss = torch.stack([out.loss.detach() for out in outputs]).mean()
            logs = {name: torch.stack([out.logs[name].float() for out in outputs]).mean() for name in outputs[0].logs}
        yield Done(step, loss, logs, gradient, peak * factor, views, waited)
