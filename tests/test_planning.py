"""What a run costs, told before it starts."""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from selfsight import api, cli, pacing
from selfsight.session import Session, due, open_for, prepare

CPU = torch.device("cpu")
TINY = "plan simclr --recipe tiny --device cpu --precision fp32"


def session(**given: object) -> Session:
    run = api.settings("simclr", "tiny", device="cpu", precision="fp32", **given)
    data = open_for(run, CPU)
    return Session(prepare(run, data, CPU)[0], data, CPU)


def test_a_plan_writes_nothing_and_says_what_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(shlex.split(f"{TINY} --json")) == 0
    found = json.loads(capsys.readouterr().out)
    run = found["settings"]
    assert found["steps"] == run["steps"] > 0
    assert found["seconds"] >= found["steps"] * found["seconds_per_step"] * 0.99 > 0
    assert 100 < found["peak_memory_mib"] < found["memory_mib"]  # an interpreter with torch holds more than 100 MiB
    assert found["largest_batch"] > run["batch_size"]
    assert not list(tmp_path.iterdir())
    assert cli.run(shlex.split(TINY)) == 0
    said = capsys.readouterr().out
    assert f"{found['steps']:,} steps of {run['batch_size']} pictures" in said
    assert "pictures fit" in said


def test_minutes_become_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(shlex.split(f"{TINY} --max-minutes 0.001 --json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 1  # a twentieth of a second holds no more
    assert "--max-minutes 0.001 allows 1 steps" in found["measured"]


def test_shards_are_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(shlex.split(f"{TINY} --strategy fsdp")) == 2
    assert "leave out --strategy" in capsys.readouterr().err


def test_the_time_of_a_run_is_that_of_its_parts() -> None:
    one, pace = session(), pacing.Pace(step=2.0, epoch_start=10.0, look=100.0)
    for count in (1, one.per_epoch, 3 * one.per_epoch + 1):
        looks = len(due(one.run.probe.every, count, one.per_epoch)) + 3
        assert pace.seconds(one, count) == 2 * count + 10 * math.ceil(count / one.per_epoch) + 100 * looks


def test_the_state_is_put_back() -> None:
    one = session()
    kept = {name: value.clone() for name, value in one.method.state_dict().items()}
    found = pacing.pace(one)
    assert found.step > 0
    assert all(torch.equal(value, kept[name]) for name, value in one.method.state_dict().items())
    buffers = [
        value for state in one.optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    assert not any(buffer.any() for buffer in buffers)  # as new


def test_memory_is_a_line() -> None:
    memory = pacing.line_through((64, 1_000), (128, 1_640))
    assert memory == (360.0, 10.0)
    assert memory.largest(2_360) == 200
    assert memory.largest(100) == 0
    assert pacing.line_through((64, 500), (128, 400)).of_picture == 1.0  # noise: never less than nothing


PEAK = """
import torch
from selfsight import pacing
cpu = torch.device("cpu")
gone = torch.ones(512 << 20, dtype=torch.uint8)
del gone
pacing.forget_peak(cpu)
before = pacing.peak(cpu)
block = torch.ones(256 << 20, dtype=torch.uint8)
held = pacing.peak(cpu)
assert 250 << 20 < held - before < 280 << 20, (before, held)
assert pacing.available(cpu) > 256 << 20
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not tell a process's peak")
def test_the_peak_is_of_what_came_after() -> None:
    """In a process of its own: others keep memory that was freed, so that a new block adds nothing."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
