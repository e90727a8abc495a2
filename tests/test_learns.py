"""Promise 8: every shipped recipe learns. Minutes long: `make gate`."""

from dataclasses import replace

import pytest

from selfsight import pretraining
from selfsight.methods import METHODS
from selfsight.recipes import recipe

MARGIN = {"simclr": 0.25, "byol": 0.15, "swav": 0.15, "deepcluster": 0.10}  #: k-NN above the untrained encoder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", METHODS)
def test_the_shapes_recipe_beats_the_untrained_encoder(name, tmp_path):
    run = replace(recipe(name, "shapes"), out=str(tmp_path / name), quiet=True)
    result = pretraining.start(run)
    summary = result.summary
    assert result.code == 0
    assert summary["health"] == "healthy", summary["why"]
    assert summary["holdout"]["top1"] >= summary["untrained"] + MARGIN[name], summary


def test_a_short_run_learns(tmp_path):
    """The quick form of the gate, for CI: a minute of SimCLR moves k-NN clearly."""
    run = replace(
        recipe("simclr", "shapes"), data="shapes:32:2500", encoder="fastnet-tiny", holdout=500.0, epochs=8.0, batch_size=128,
        out=str(tmp_path / "r"), quiet=True, threads=1,
    )  # fmt: skip
    summary = pretraining.start(run).summary
    assert summary["holdout"]["top1"] >= summary["untrained"] + 0.05, summary
    assert summary["health"] == "healthy", summary["why"]
