"""Optional loggers beside the files of a run folder. Nothing here is imported unless it was asked for."""

import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from selfsight.errors import WrongUse, perhaps


class Sink(Protocol):
    """Something that takes numbers."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """Flush and end."""


def open_sink(name: str, folder: Path, config: Mapping[str, Any], resume_step: int | None) -> Sink:
    """The logger of that name, for the run in `folder`; `resume_step`: numbers from this step on come anew.

    Raises:
        WrongUse: there is no such logger, or its package is not installed.
    """
    if name not in SINKS:
        raise WrongUse(f"no logger {name!r}.{perhaps(name, set(SINKS))}")
    return SINKS[name](folder, config, resume_step)


def check(names: Iterable[str]) -> None:
    """Refuse loggers that are not there, before a run begins. Raises WrongUse as `open_sink` does."""
    for name in names:
        if name not in SINKS:
            raise WrongUse(f"no logger {name!r}.{perhaps(name, set(SINKS))}")
        _load(name, name)


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, folder: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        _load("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step)
        if resume_step is None:
            self.writer.add_text("config", "    " + json.dumps(config, indent=2, default=str).replace("\n", "\n    "))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """Weights & Biases; account, project and offline mode as its own environment variables say."""

    def __init__(self, folder: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        wandb = _load("wandb", "wandb")
        known = _remembered(folder, "wandb") if resume_step is not None else None
        self.run = wandb.init(
            dir=str(folder), name=folder.name, config=dict(config), id=known, resume="allow" if known else None
        )
        _remember(folder, "wandb", str(self.run.id))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({**values, "step": step})  # not its own counter, which refuses steps that come again on resume

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """MLflow; tracking server and experiment as its own environment variables say."""

    def __init__(self, folder: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        self.mlflow = _load("mlflow", "mlflow")
        known = _remembered(folder, "mlflow") if resume_step is not None else None
        run = self.mlflow.start_run(run_id=known) if known else self.mlflow.start_run(run_name=folder.name)
        if not known:
            self.mlflow.log_params({name: str(value)[:500] for name, value in _flat(config).items()})
        _remember(folder, "mlflow", run.info.run_id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        self.mlflow.end_run()


SINKS: dict[str, Callable[[Path, Mapping[str, Any], int | None], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
}


def _load(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise WrongUse(f"the logger {extra} is not installed; pip install selfsight[{extra}]") from None


def _remembered(folder: Path, name: str) -> str | None:
    path = folder / "loggers.json"
    return json.loads(path.read_text()).get(name) if path.is_file() else None


def _remember(folder: Path, name: str, value: str) -> None:
    path = folder / "loggers.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**known, name: value}))


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
