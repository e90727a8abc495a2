"""The verbs of the command line: a file each, with `main(argv) -> exit code`. They parse, call the library, print."""

from importlib import import_module

VERBS = {
    "pretrain": ("pretrain [METHOD] --data DATA", "train an encoder; METHOD is simclr unless named"),
    "plan": ("plan [METHOD] --data DATA", "time, memory and the batch that fits, before anything runs"),
    "resume": ("resume RUN", "go on with an interrupted run, exactly"),
    "evaluate": ("evaluate RUN", "k-NN, linear classifiers, fine-tuning, robustness, scores without labels"),
    "embed": ("embed RUN --data DATA --out F", "features of pictures as .npz, .csv or .parquet"),
    "export": ("export RUN --format timm", "the encoder for other programs"),
    "report": ("report RUN [RUN ...]", "one HTML page that opens offline"),
    "panel": ("panel RUN [RUN ...]", "losses, contrastive and linear accuracies in one picture"),
    "compare": ("compare --methods A,B", "methods at one length: means, deviations, tests over seeds"),
    "sweep": ("sweep METHOD --grid NAME=A,B", "every combination of settings, ranked on held-out pictures"),
    "labels": ("labels RUN|METHOD", "accuracy by number of labels, with and without pre-training"),
    "eigenspace": (
        "eigenspace RUN [RUN ...]",
        "figures of a predictor's eigenspace (byol, simsiam, directpred, directcopy)",
    ),
    "figures": ("figures RUN --out DIR", "maps, neighbours, clusters, confusions, spectra as PNG"),
    "check": ("check DATA [--against DATA]", "what is wrong with pictures: broken, odd, copies, leaks, classes"),
    "preview": ("preview DATA", "a picture of pictures and their augmented views"),
    "list": ("list [WHAT]", "methods, encoders, data, recipes, policies, protocols"),
}
"""Name -> how it is written, what it does."""


def run(verb: str, argv: list[str]) -> int:
    """Run a verb of VERBS with its arguments; its exit code."""
    return int(import_module(f"selfsight.verbs.{verb}").main(argv))
