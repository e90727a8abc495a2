"""BYOL, SimSiam, DirectPred and DirectCopy with the eigenspace experiment: `--model M --name DIR`, and `test --name DIR`.

The options of the project's train.py and test.py; its presets are the recipes of recipes/siamese.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selfsight.errors import WrongUse
from selfsight.recipes import RECIPES
from selfsight.references.translation import Command, Option, Translation, evaluate, merge, options, pretrain

ABOUT = """BYOL, SimSiam, DirectPred, DirectCopy on CIFAR-10:
  python main.py --model byol|simsiam|directpred|directcopy --name DIR [--symmetry] [--eigenspace]
                 [--one_layer_predictor] [--epochs_pretraining 101] [--epochs_finetuning 50]
  python main.py test --name DIR [--only_vis]"""

MODELS = ("byol", "simsiam", "directpred", "directcopy")
TRAIN = (
    Option(("model",), choices=MODELS),
    Option(("name",)),
    Option(("symmetry",), bool),
    Option(("eigenspace",), bool),
    Option(("one_layer_predictor",), bool),
    Option(("epochs_pretraining",), int),
    Option(("epochs_finetuning",), int),
)
TEST = (Option(("name",)), Option(("only_vis",), bool), Option(("epochs_finetuning",), int))
EIGENSPACE_EVERY = 5  #: epochs between two records
PROTOCOL, EPOCHS = "linear-seed004", 50  #: the classifier: Adam, a polynomial rate, batch 128
FEATURES = "features.npz"  #: in the run folder


def asked(argv: Sequence[str]) -> bool:
    """Whether a command line is this project's."""
    return bool(argv) and (
        argv[0] in ("test", "train") or {"--model", "--only_vis", "--only-vis"} & _flags(argv) != set()
    )


def _flags(argv: Sequence[str]) -> set[str]:
    return {token.split("=", 1)[0] for token in argv}


def translate(argv: Sequence[str]) -> Translation:
    """Training or test; WrongUse for what the project's programs refuse."""
    if argv[0] == "test" or "--only_vis" in argv or "--only-vis" in argv:
        return _test(argv[1:] if argv[0] == "test" else argv)
    return _train(argv[1:] if argv[0] == "train" else argv)


def _train(argv: Sequence[str]) -> Translation:
    given = options(argv, TRAIN, "train")
    for needed in ("model", "name"):
        if needed not in given:
            raise WrongUse(f"--{needed} is missing: python main.py --model {'|'.join(MODELS)} --name DIR")
    model, name, notes = given["model"], given["name"], []
    closed = model.startswith("direct")
    one, symmetric = given.get("one_layer_predictor", False), given.get("symmetry", False)
    if closed and symmetric:
        notes.append(f"--symmetry: the predictor that {model} computes is symmetric already, nothing is added")
    if closed and one:
        notes.append(
            f"--one_layer_predictor: the predictor that {model} computes is one matrix already, nothing is added"
        )
    linear = "-linear" if one and not closed else ""
    tied = "-symmetric" if symmetric and not closed and not linear else ""
    base = RECIPES[f"{model}-cifar10-101{linear}{tied}"]()
    run = merge(base, out=name, epochs=float(given.get("epochs_pretraining", 101)))
    if symmetric and linear:
        run = merge(run, method={"symmetric": True})
    eigenspace = given.get("eigenspace", False)
    run = merge(run, probe={"study_every": float(EIGENSPACE_EVERY) if eigenspace else -1.0})
    notes.append("the test part is asked once, at the end; a tenth of the training part watches the training")
    last = classify(name, given.get("epochs_finetuning", EPOCHS), "--out", f"{name}/{FEATURES}")
    figures: tuple[Command, ...] = (("eigenspace", name),) if eigenspace else ()
    return Translation((pretrain(run, base), last, *figures), tuple(notes))


def _test(argv: Sequence[str]) -> Translation:
    given = options(argv, TEST, "test")
    if "name" not in given:
        raise WrongUse("--name is missing: python main.py test --name DIR [--only_vis]")
    name = given["name"]
    if not (Path(name) / "run.yaml").is_file():
        raise WrongUse(f"{name!r} is no run folder: train it first, python main.py --model MODEL --name {name}")
    notes: list[str] = []
    pictures: tuple[Command, ...] = (("eigenspace", name),)
    if not list((Path(name) / "study").glob("*.npz")):
        notes, pictures = ["no figures: the run kept no eigenspace, train with --eigenspace"], ()
    if given.get("only_vis"):
        return Translation(pictures, tuple(notes))
    stored = Path(name) / FEATURES
    notes.append(
        "the classifier is fitted once more to the stored features: with the --epochs_finetuning of the training, its number"
    )
    epochs = given.get("epochs_finetuning", EPOCHS)
    return Translation((classify(str(stored) if stored.is_file() else name, epochs), *pictures), tuple(notes))


def classify(target: str, epochs: int, *more: str) -> Command:
    """Linear evaluation of a run, or of its stored features."""
    return evaluate(target, ["knn", PROTOCOL], {PROTOCOL: {"epochs": epochs}} if epochs != EPOCHS else None, *more)
