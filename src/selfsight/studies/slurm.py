"""A job array for SLURM: a task does one cell of a study."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from selfsight.studies.study import Study


def script(study: Study, command: Sequence[str]) -> str:
    """An sbatch script.

    Args:
        study: its folder takes the logs.
        command: the words after `selfsight` that ask for this study; `--cell` is added.

    Two minutes before its time limit a task gets a SIGTERM and writes a checkpoint; submitting the script again goes
    on, and passes over what is done.
    """
    logs = study.folder.resolve() / "slurm"
    logs.mkdir(exist_ok=True)  # sbatch does not make it, and a job without a place for its log dies silently
    words = shlex.join([sys.executable, "-m", "selfsight", *command])
    return "\n".join([
        "#!/bin/bash",
        f"#SBATCH --job-name=selfsight-{study.kind}",
        f"#SBATCH --array=0-{len(study.cells) - 1}",
        f"#SBATCH --output={logs}/%A_%a.log",
        "#SBATCH --signal=B:TERM@120",
        "# Partition, time, CPUs and GPUs belong to sbatch: sbatch --time=4:00:00 --gres=gpu:1 --cpus-per-task=8 SCRIPT",
        "# Submit it again after an interruption. Then gather the table with:",
        f"#   {words} --collect",
        "set -eu",
        f"cd {shlex.quote(str(Path.cwd()))}",
        f'exec {words} --cell "$SLURM_ARRAY_TASK_ID"',
        "",
    ])  # fmt: skip
