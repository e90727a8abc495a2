"""Pipelines of augmentation from files, text and plain values: what `views.pipeline` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from selfsight.augment import Pipeline
from selfsight.errors import WrongUse


def read_pipeline(given: Any) -> Pipeline:
    """A Pipeline from one, from lists and mappings, from the name of a YAML file, or from YAML text that begins with [ or {.

    Raises:
        WrongUse: no such file, no valid YAML, or a step that is wrong.
    """
    if isinstance(given, Pipeline):
        return given
    if not isinstance(given, str):
        return Pipeline.parse(given)
    text, where = given, "views.pipeline"
    if not given.lstrip().startswith(("[", "{")):
        path = Path(given).expanduser()
        where = f"views.pipeline: {str(path)!r}"
        if not path.is_file():
            raise WrongUse(f"{where} is no file: give a YAML file of steps, or steps as text such as '[crop, flip]'")
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise WrongUse(f"{where} is not readable text ({type(error).__name__}): give another file") from None
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WrongUse(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    return Pipeline.parse(plain)


def as_text(pipeline: Pipeline) -> str:
    """One line that `read_pipeline` takes."""
    return yaml.safe_dump(pipeline.plain(), default_flow_style=True, sort_keys=False, width=float("inf")).strip()
