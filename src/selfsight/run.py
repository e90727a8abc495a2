"""A run: every setting of a pre-training in one frozen dataclass; to and from YAML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import yaml

from selfsight.augment import ViewsConfig
from selfsight.encoders import EncoderConfig, settings_of
from selfsight.errors import WrongUse
from selfsight.methods import method_named, name_of
from selfsight.methods.simclr import SimCLRConfig
from selfsight.optim import OptimizerConfig, ScheduleConfig
from selfsight.plain import merge
from selfsight.plain import plain as to_plain
from selfsight.tables import ACCURACIES

M = TypeVar("M")


@dataclass(frozen=True)
class ProbeConfig:
    """What is measured while training; labels serve this alone and never reach a method."""

    every: float = 0
    """Epochs between two measurements of accuracy and health; 0: about ten in the run, at least an epoch apart; -1: off."""
    protocols: tuple[Literal["knn", "ridge", "linear"], ...] = ("knn", "ridge")
    """What held-out pictures are asked by, on features of the frozen encoder: nearest neighbours, ridge regression,
    logistic regression (the slowest)."""
    monitor: Literal["knn", "ridge", "linear", "loss", "rank"] = "knn"
    """What checkpoints/best.pt is the best by, on held-out pictures: top-1 of a protocol, the loss (the lowest), or the
    effective rank of the features. Loss and rank need no labels."""
    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """Temperature of the votes' weights."""
    bank: int = 10000
    """Training pictures in the bank of the k-NN while training; the final measurement takes all. 0: all."""
    queries: int = 2000
    """Held-out pictures asked while training; the final measurement takes all. 0: all."""
    samples: int = 1024
    """Pictures that the health monitors look at."""
    study_every: float = 0
    """Epochs between two records in study/ of what a method lets be studied, such as the eigenspace of the siamese family;
    0: with every measurement; -1: off."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.temperature <= 0:
            raise WrongUse("probe.k must be at least 1 and probe.temperature above 0 (20 and 0.07 are usual)")
        wrong = any(gap < 0 and gap != -1 for gap in (self.every, self.study_every))
        if min(self.bank, self.queries) < 0 or self.samples < 2 or wrong:
            raise WrongUse(
                "probe.bank, queries must not be negative, samples at least 2, every and study_every >= 0 (or -1: off)"
            )
        if self.monitor in ACCURACIES and self.monitor not in self.protocols and self.protocols:
            raise WrongUse(
                f"--probe.monitor {self.monitor} is not measured: add it to --probe.protocols "
                f"({' '.join(self.protocols)}), or choose another monitor"
            )


@dataclass(frozen=True)
class Run(Generic[M]):
    """Every setting of a pre-training. Sizes are global: `batch_size` is the whole batch of all processes."""

    method: M
    """The method's own settings."""
    data: str = "shapes"
    """A built-in set (see `selfsight list data`), a folder, an .npz/.npy file, or a list of paths (.txt, .csv)."""
    data_root: str | None = None
    """Where named sets and the cache live; default: ~/.cache/selfsight."""
    download: bool = False
    """Allow the download of a named set that is missing."""
    image_size: int | Literal["auto"] = "auto"
    """Side of a whole view in pixels; auto: from the median picture, at most 96 on a CPU."""
    channels: int = 0
    """Channels of the pictures: 1 gray, 3 colour; 0: as the files say."""
    holdout: float | Literal["auto"] = "auto"
    """Part of the training pictures kept for the k-NN (below 1: a share, else a count); auto: 0.1 if labelled."""
    fraction: float = 1.0
    """Share of the training pictures that is used (a seeded choice)."""
    per_class: int = 0
    """Training pictures per class that are used (a seeded choice); 0: all."""
    bad_files: Literal["skip", "error"] = "skip"
    """Unreadable files: skip (counted, listed in the log) or end the run."""
    exclude: str | None = None
    """A list of pictures to leave out, a name on each line; `selfsight check DATA --exclude FILE` writes one."""
    cache: Literal["auto", "memory", "disk", "off"] = "auto"
    """Where decoded pictures live: memory, a file mapped into memory, or nowhere (decoded each time)."""
    workers: int | None = None
    """Processes that decode pictures; default: as many as help."""
    shuffle_window: int = 0
    """Shards that are shuffled among each other: an epoch goes through the shards in a random order, so many at a time, and
    reads them nearly from start to end, as slow disks and networks want it. 0: all pictures are shuffled."""

    encoder: str = "resnet18"
    """The network that learns (see `selfsight list encoders`)."""
    net: EncoderConfig = field(default_factory=EncoderConfig)
    """How the encoder is built."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """How views are made."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How parameters move."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """How the learning rate moves."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """What is measured while training."""

    epochs: float | Literal["auto"] = "auto"
    """Passes over the training pictures; auto: from their number and the device."""
    steps: int = 0
    """Optimizer steps; 0: from the epochs. The smaller of all given lengths holds."""
    max_minutes: float = 0
    """Time for the training: some steps are timed first, and the number of steps is then fixed. 0: no limit."""
    batch_size: int | Literal["auto"] = "auto"
    """Pictures per optimizer step, over all processes; auto: from the number of pictures and the device."""
    accumulate: int = 1
    """Micro-batches per optimizer step: less memory; a loss that compares samples then sees each one alone."""
    micro_batch: int = 0
    """Pictures, over all processes, that are encoded at a time: the memory of so many, with the loss and gradient of the
    whole batch (but batch normalisation sees the parts). Each picture is encoded twice. 0: the whole batch at once."""
    checkpoint_activations: bool = False
    """Residual blocks keep their input only and are computed again in the backward pass: less memory, the same result."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 if a start-up probe finds it right and faster, else fp32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    processes: int = 1
    """Processes on this machine; above 1, torchrun starts them."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp: each process holds the whole network; fsdp: its share of every parameter, gradient and optimizer state."""
    threads: int = 0
    """CPU threads of each process; 0: as torch chooses."""
    deterministic: bool = False
    """Refuse operations that are not deterministic (a CPU run is deterministic without it)."""
    seed: int = 0
    """Seed of everything random."""

    out: str | None = None
    """Run folder; default: runs/METHOD-DATA-NNN."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: int = 0
    """Steps between two checkpoints; 0: each minute and each epoch."""
    export_every: float = 0
    """Epochs between two kept copies of the encoder in checkpoints/; 0: the last one only."""
    log_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Loggers beside the files of the run folder."""
    quiet: bool = False
    """No progress on the console."""
    recipe: str = ""
    """Name of the recipe that the defaults came from."""

    def __post_init__(self) -> None:
        def refuse(wrong: bool, message: str) -> None:
            if wrong:
                raise WrongUse(message)

        for name, value in _numbers(self, ""):
            refuse(not math.isfinite(value), f"--{name} is {value}: give a finite number")
        refuse(self.epochs != "auto" and self.epochs < 0, f"--epochs is {self.epochs}, must not be negative")
        refuse(self.steps < 0, f"--steps is {self.steps}, must not be negative (0: from the epochs)")
        refuse(self.max_minutes < 0, f"--max-minutes is {self.max_minutes}, must not be negative (0: no limit)")
        refuse(
            self.batch_size != "auto" and self.batch_size < 2, f"--batch-size is {self.batch_size}, must be at least 2"
        )
        refuse(self.accumulate < 1, f"--accumulate is {self.accumulate}, must be at least 1")
        refuse(self.micro_batch < 0, f"--micro-batch is {self.micro_batch}, must not be negative (0: the whole batch)")
        refuse(
            self.micro_batch > 0 and self.accumulate > 1,
            "--micro-batch keeps the whole batch's loss, --accumulate does not: leave out one of the two",
        )
        refuse(self.processes < 1, f"--processes is {self.processes}, must be at least 1")
        refuse(
            self.micro_batch % self.processes != 0,
            f"--micro-batch {self.micro_batch} is not divisible by --processes {self.processes}: choose a multiple",
        )
        refuse(
            self.image_size != "auto" and self.image_size < 8, f"--image-size is {self.image_size}, must be at least 8"
        )
        refuse(not 0 < self.fraction <= 1, f"--fraction is {self.fraction}, must be above 0 and at most 1")
        refuse(self.holdout != "auto" and self.holdout < 0, f"--holdout is {self.holdout}, must not be negative")
        refuse(self.per_class < 0, f"--per-class is {self.per_class}, must not be negative (0: all)")
        refuse(self.log_every < 1, f"--log-every is {self.log_every}, must be at least 1")
        refuse(self.checkpoint_every < 0, f"--checkpoint-every is {self.checkpoint_every}, must not be negative")
        refuse(self.export_every < 0, f"--export-every is {self.export_every}, must not be negative")
        refuse(self.threads < 0, f"--threads is {self.threads}, must not be negative (0: as torch chooses)")
        refuse(self.channels not in (0, 1, 3), f"--channels is {self.channels}: give 1, 3 or 0 (as the files say)")
        refuse(self.workers is not None and self.workers < 0, f"--workers is {self.workers}, must not be negative")
        refuse(self.shuffle_window < 0, f"--shuffle-window is {self.shuffle_window}, must not be negative (0: all)")
        refuse(self.seed < 0, f"--seed is {self.seed}, must not be negative")
        if isinstance(self.batch_size, int):
            parts = self.processes * self.accumulate
            refuse(
                bool(self.micro_batch) and self.batch_size % self.micro_batch != 0,
                f"--batch-size {self.batch_size} is not divisible by --micro-batch {self.micro_batch}: choose a divisor",
            )
            refuse(
                self.batch_size % parts != 0,
                f"--batch-size {self.batch_size} is not divisible by {parts} (--processes {self.processes} times "
                f"--accumulate {self.accumulate}): choose a multiple of {parts}",
            )

    @property
    def method_name(self) -> str:
        """Name of the method in METHODS."""
        return name_of(self.method)


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Flag name and value of every float in nested settings."""
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            flag = f.name.replace("_", "-")
            yield from _numbers(getattr(value, f.name), f"{name}.{flag}" if name else flag)
    elif isinstance(value, tuple):
        for entry in value:
            yield from _numbers(entry, name)
    elif isinstance(value, float):
        yield name, value


DEFAULT = Run(method=SimCLRConfig())


def to_dict(run: Run[Any]) -> dict[str, Any]:
    """Plain nested dict; `method` carries its name as `name`."""
    plain = to_plain(run)
    plain["method"] = {"name": run.method_name, **plain["method"]}
    return plain


def from_dict(plain: Mapping[str, Any], base: Run[Any] | None = None) -> Run[Any]:
    """A Run from a nested dict; what the dict leaves out comes from `base` (or the defaults).

    Raises:
        WrongUse: unknown key (with a suggestion), value of a wrong type, or another method than `base`'s settings.
    """
    plain = dict(plain)
    base = base or DEFAULT
    name = method_in(plain) or base.method_name
    inner = plain.pop("method", None)
    method = {k: v for k, v in inner.items() if k != "name"} if isinstance(inner, Mapping) else {}
    config_type = method_named(name).Config
    default = base.method if type(base.method) is config_type else config_type()
    plain.pop("provenance", None)
    if isinstance(plain.get("net"), Mapping):
        plain["net"] = settings_of(plain["net"])
    settings = merge(Run, base, plain, "", skip="method")
    return dataclasses.replace(settings, method=merge(config_type, default, method, "method."))


def method_in(plain: Mapping[str, Any]) -> str | None:
    """The method that nested settings name, if they do: `method: NAME`, or `name` in the group `method`."""
    method = plain.get("method")
    name = method.get("name") if isinstance(method, Mapping) else method
    if not (method is None or isinstance(method, Mapping | str)) or not (name is None or isinstance(name, str)):
        raise WrongUse(f"method: expected a name or a group of settings with a name, found {method!r}")
    return name


def to_yaml(run: Run[Any], provenance: Mapping[str, Any] | None = None) -> str:
    """YAML text of the run, and of where it came from."""
    plain = to_dict(run)
    if provenance:
        plain["provenance"] = dict(provenance)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in a YAML text. Raises WrongUse if it is not one."""
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WrongUse(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(plain, dict):
        raise WrongUse(f"{where} is not a run: expected a mapping such as 'method: {{name: simclr}}'")
    return plain


def load(path: str | Path, base: Run[Any] | None = None) -> Run[Any]:
    """A Run from a YAML file."""
    return from_dict(read_file(path), base)


def read_file(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises WrongUse if there is no such file or it holds something else."""
    path = Path(path)
    if not path.is_file():
        raise WrongUse(f"no file {str(path)!r}: give a YAML file of settings, such as the run.yaml of a run folder")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"{str(path)!r} is not readable text ({type(error).__name__}): give another file") from None
    return read_yaml(text, str(path))
