"""The files in configs/ are the recipes, and `pretrain --config` takes them."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from selfsight import configs
from selfsight import run as runs
from selfsight.methods import METHODS
from selfsight.recipes import RECIPES
from selfsight.run import Run
from selfsight.verbs.pretrain import settings

FOLDER = Path(__file__).parent.parent / "configs"


def test_the_folder_holds_what_is_generated(tmp_path: Path) -> None:
    """`make configs` would change nothing: no file is missing, stale or edited."""
    written = {path.name: path.read_text() for path in configs.write(tmp_path / "configs")}
    assert written == {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert set(METHODS) <= set(configs.FILES)


@pytest.mark.parametrize("name", configs.FILES)
def test_a_file_is_its_recipe(name: str) -> None:
    run = RECIPES[configs.FILES[name]]()
    plain = yaml.safe_load(configs.text(run))
    assert plain["method"] == runs.to_dict(run)["method"]  # every setting of the method can be seen
    alone = dict(plain)
    assert runs.from_dict(alone, Run(method=type(run.method)())) == run  # the file says it all, without the recipe


@pytest.mark.parametrize("name", ["byol", "mae", "jigsaw", "dino-cifar10-1000-eleven", "simclr-svhn-801-sqrt"])
def test_pretrain_takes_them(name: str) -> None:
    run = settings(["--config", str(FOLDER / f"{name}.yaml")])
    assert run == RECIPES[configs.FILES[name]]()
    changed = settings(["--config", str(FOLDER / f"{name}.yaml"), "--data", "shapes", "--epochs", "3"])
    assert changed == dataclasses.replace(run, data="shapes", epochs=3.0)
