"""The verb `plan`."""

from __future__ import annotations

import json
from typing import Any

from selfsight.arguments import take
from selfsight.verbs.pretrain import settings

ABOUT = """Time, memory and the batch that fits, measured on some steps; nothing is written. Takes the flags of `pretrain`.

Example: selfsight plan simclr --data ~/photos --epochs 200 --batch-size 512

Also: --json (all of it, with the resolved settings)."""


def main(argv: list[str]) -> int:
    """Run the verb; its exit code."""
    as_json, argv = take(argv, "--json", valued=False)
    chosen = settings(argv, "plan", ABOUT)
    from selfsight.planning import plan

    found = plan(chosen, measure=True)
    print(json.dumps(found) if as_json else told(found))
    return 0


def told(found: dict[str, Any]) -> str:
    """A few lines on what a run would cost."""
    run = found["settings"]
    minutes = found["seconds"] / 60
    time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    peak, most, largest = found["peak_memory_mib"], found["memory_mib"], found["largest_batch"]
    lines = [
        f"run           {run['method']['name']}, {run['encoder']}, {run['image_size']} px, {found['pictures']:,} pictures",
        f"length        {found['steps']:,} steps of {run['batch_size']} pictures, {found['steps_per_epoch']:,} an epoch",
        f"time          {time} ({found['seconds_per_step']:.3g} s a step, {found['views_per_second']:,} views/s)",
        f"memory        {'not told by this system' if peak is None else f'{peak:,} MiB of {most:,} MiB'}",
    ]
    if largest is not None:
        larger = "a larger loss: --micro-batch" if largest < 4 * run["batch_size"] else "nine tenths of the memory"
        lines.append(f"batch         up to about {largest:,} pictures fit ({larger})")
    return "\n".join([*lines, f"measured      {found['measured']}"])
