"""Settings that follow the data: what "auto" becomes, and why."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from selfsight.augment import POLICIES, suits
from selfsight.augment.config import overruled
from selfsight.augment.policies import entry
from selfsight.errors import WrongUse
from selfsight.methods import METHODS
from selfsight.recipes.common import ENCODERS_OF, POLICIES_OF, TILES_OF
from selfsight.run import Run


def _batch(pictures: int, cuda: bool, multiple: int) -> int:
    """The largest power of two with at least eight steps an epoch, at most 256 on a CPU and 1024 on a GPU."""
    most = 1024 if cuda else 256
    size = 2 ** max(1, int(math.log2(max(2, pictures // 8))))
    return max(multiple, min(most, size) // multiple * multiple)


def follow_pictures(
    run: Run[Any], *, image_size: int, channels: int, cuda: bool, policy_of_data: str = ""
) -> tuple[Run[Any], list[str]]:
    """Replace what follows from the look of the pictures: encoder, policy, tiles. See `resolve`."""
    choices: list[str] = []

    def choose(setting: str, value: Any, why: str) -> Any:
        choices.append(f"{setting} {value}: {why}")
        return value

    run = replace(run, image_size=image_size)
    if run.encoder == "auto":
        small = image_size <= 64 and not cuda
        why = f"{image_size} px views on {'a GPU' if cuda else 'a CPU'}"
        names = ("vit-mini", "vit-small") if METHODS[run.method_name].tokens else ("fastnet", "resnet18")
        names = ENCODERS_OF.get(run.method_name, names)
        run = replace(run, encoder=choose("encoder", names[0 if small else 1], why))
    if run.views.pipeline:
        ignored = ", ".join(["the policy", *(name.replace("_", "-") for name in overruled(run.views))])
        choose("pipeline", " ".join(run.views.pipeline.names), f"in place of {ignored}")
    elif run.views.policy == "auto":
        policy = POLICIES_OF.get(run.method_name, POLICIES_OF["simclr"])[0 if image_size <= 64 else 1]
        colours = POLICIES[policy][0].jitter > 0  # a method that lets colours be (it predicts pixels) keeps its own
        if policy_of_data and colours and suits(policy_of_data, channels):
            policy = choose("policy", policy_of_data, f"{run.data} asks for it in place of {policy}")
        elif suits(policy, channels):
            policy = choose("policy", policy, f"{run.method_name} at {image_size} px")
        else:
            policy = choose("policy", "plain", f"pictures have {channels} channel(s), colour operations need 3")
        run = replace(run, views=replace(run.views, policy=policy))
    else:
        entry(run.views.policy)  # refused now if there is none
    if run.method_name in TILES_OF and not run.views.tiles.cell:
        side, why, tiles = TILES_OF[run.method_name]
        run = replace(run, views=replace(run.views, tiles=tiles(choose("tiles", side(image_size), why))))
    return run, choices


def resolve(
    run: Run[Any], *, pictures: int, image_size: int, channels: int, cuda: bool, policy_of_data: str = ""
) -> tuple[Run[Any], list[str]]:
    """Replace every "auto" that follows from the data.

    Args:
        run: may hold "auto".
        pictures: number of training pictures.
        image_size: side of a whole view, as the data side decided.
        channels: of the pictures.
        cuda: a GPU does the work.
        policy_of_data: what the pictures ask for in place of the method's augmentation; "": nothing.

    Returns:
        The run without "auto" (but precision), with `steps` fixed, and each choice with its reason.

    Raises:
        WrongUse: a batch larger than the set, or a run without a step.
    """
    run, choices = follow_pictures(
        run, image_size=image_size, channels=channels, cuda=cuda, policy_of_data=policy_of_data
    )

    def choose(setting: str, value: Any, why: str) -> Any:
        choices.append(f"{setting} {value}: {why}")
        return value

    multiple = run.processes * run.accumulate
    if run.batch_size == "auto":
        size = _batch(pictures, cuda, multiple)
        run = replace(run, batch_size=choose("batch size", size, f"{pictures} training pictures"))
    assert isinstance(run.batch_size, int)
    if run.batch_size > pictures:
        raise WrongUse(
            f"--batch-size {run.batch_size} is larger than the {pictures} training pictures: "
            f"choose at most {pictures // multiple * multiple}, or give more pictures"
        )
    per_epoch = pictures // run.batch_size
    if run.epochs == "auto":
        seen = 20_000_000 if cuda else 300_000
        epochs = float(min(800 if cuda else 100, max(1, round(seen / pictures))))
        why = f"about {seen:,} pictures seen on {'a GPU' if cuda else 'a CPU'}"
        run = replace(run, epochs=choose("epochs", epochs, why) if not run.steps else math.ceil(run.steps / per_epoch))
    assert not isinstance(run.epochs, str)
    by_epochs = round(run.epochs * per_epoch)
    total = min(run.steps, by_epochs) if run.steps and by_epochs else run.steps or by_epochs
    if total < 1:
        raise WrongUse(f"--epochs {run.epochs} and --steps {run.steps} make no step: choose at least one step")
    return replace(run, steps=total), choices


def fit_warmup(run: Run[Any], per_epoch: int) -> tuple[Run[Any], list[str]]:
    """Shorten a warm-up that would fill more than half of the run: the peak rate would come late or never."""
    half = run.steps / per_epoch / 2
    if run.schedule.warmup_epochs <= half:
        return run, []
    told = f"warm-up {half:.3g} epochs: {run.schedule.warmup_epochs:g} would be more than half of the run"
    return replace(run, schedule=replace(run.schedule, warmup_epochs=half)), [told]
