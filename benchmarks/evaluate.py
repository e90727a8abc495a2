"""Evaluation beside the bare work in it, and beside faiss and scikit-learn: python benchmarks/evaluate.py [NAME ...] [FILE.npz].

FILE.npz: features of pictures as `selfsight evaluate --out` writes them, for the linear classifiers; without one, a mixture of
ten classes is drawn. Ratios are medians over rounds that are timed in alternation; of the wall clock, and of the CPU time of all
threads, which other programs on the machine hardly disturb.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait for a busy core must not count as work

import torch
import torch.nn.functional as F
from torch import Tensor

from speed import RESULTS, machine, version

ROUNDS = 5
BANK, QUERIES, DIM, K = 50_000, 10_000, 512, 20


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds, all threads counted."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def beside(works: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[tuple[float, float]]]:
    """Seconds (wall, CPU) of each piece of work in each round; the order turns from round to round."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for i in range(rounds):
        for name in [*works][:: 1 if i % 2 else -1]:
            found[name].append(timed(works[name]))
    return found


def ratios(times: dict[str, list[tuple[float, float]]], ours: str, theirs: str) -> dict[str, Any]:
    """How many times the time of `theirs` ours takes."""
    each = [[a[i] / b[i] for a, b in zip(times[ours], times[theirs], strict=True)] for i in (0, 1)]
    return {
        "wall": round(statistics.median(each[0]), 3), "cpu": round(statistics.median(each[1]), 3),
        "wall_range": [round(min(each[0]), 3), round(max(each[0]), 3)],
        "cpu_range": [round(min(each[1]), 3), round(max(each[1]), 3)],
    }  # fmt: skip


def seconds(times: list[tuple[float, float]]) -> dict[str, float]:
    """The least of the rounds."""
    return {"wall": round(min(w for w, _ in times), 2), "cpu": round(min(c for _, c in times), 2)}


SIZES = (("fastnet", 60_000, 12), ("resnet18", 1_536, 6))  #: encoder, pictures, parts that are timed in alternation


def extraction(features: Path | None, sizes: tuple[tuple[str, int, int], ...] = SIZES) -> dict[str, Any]:
    """`embed` of pictures in memory, beside the same network on ready batches in inference mode, 256 at a time."""
    from selfsight import encoders
    from selfsight.checkpoint import Encoder
    from selfsight.embedding import embed

    found: dict[str, Any] = {"target": "at least 0.95 of the bare network's speed"}
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    for name, count, parts in sizes:
        pictures = torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        torch.manual_seed(0)
        net = encoders.build(name, 3, 32).eval()
        ours = Encoder(net, mean, std, {"image_size": 32}).eval()

        def bare(net: torch.nn.Module, batches: list[Tensor]) -> Tensor:
            with torch.inference_mode():
                return torch.cat([net(x) for x in batches])

        times: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": []}
        embed(ours, pictures[:512].numpy())
        for i, part in enumerate(pictures.chunk(parts)):
            batches = [*((part / 255 - 0.5) / 0.25).split(256)]
            works: list[tuple[str, Callable[[], object]]] = [
                ("ours", partial(embed, ours, part.numpy(), device="cpu")),
                ("bare", partial(bare, net, batches)),
            ]
            for which, work in works[:: 1 if i % 2 else -1]:
                times[which].append(timed(work))
        wall, cpu = ([round(count / sum(t[i] for t in times[which])) for which in ("ours", "bare")] for i in (0, 1))
        speed = ratios(times, "bare", "ours")
        found[name] = {
            "pictures": count, "pictures_per_second": wall[0], "bare_pictures_per_second": wall[1],
            "pictures_per_cpu_second": cpu[0], "bare_pictures_per_cpu_second": cpu[1], "speed_to_bare": speed,
        }  # fmt: skip
    return found


def mixture(count: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Classes that overlap, in correlated and rectified features: (count, DIM) and (count,)."""
    rng = torch.Generator().manual_seed(0)
    centres = 0.12 * torch.randn(classes, DIM, generator=rng)
    labels = torch.randint(classes, (count,), generator=rng)
    mixed = torch.randn(DIM, DIM, generator=rng) / 20
    return ((centres[labels] + torch.randn(count, DIM, generator=rng)) @ mixed).relu(), labels


_MEMORY = """
import re, sys, torch
def peak():  # of this program: what getrusage says is never below what the one that started it had
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.path.insert(0, sys.argv[1])
from evaluate import BANK
from selfsight.evaluate import knn_accuracy
torch.set_num_threads(2)
x, labels = torch.empty(60000, 512), torch.arange(60000) % 10
for part in x.split(1000):  # without anything else that is large
    part.normal_()
knn_accuracy(x[:100], labels[:100], x[:100], labels[:100])
before = peak()
knn_accuracy(x[:BANK], labels[:BANK], x[BANK:], labels[BANK:])
print((peak() - before) / 1024)
"""


def knn(features: Path | None) -> dict[str, Any]:
    """10,000 x 50,000 x 512: accuracy of the 20 nearest, beside the bare product with top-k, and beside faiss."""
    from selfsight.evaluate import knn_accuracy

    x, labels = mixture(BANK + QUERIES)
    bank, asked = x[:BANK], x[BANK:]

    def bare() -> None:
        rows, columns = F.normalize(asked), F.normalize(bank)
        for part in rows.split(1000):
            (part @ columns.T).topk(K, dim=1)

    works: dict[str, Callable[[], object]] = {
        "ours": lambda: knn_accuracy(bank, labels[:BANK], asked, labels[BANK:], k=K),
        "bare": bare,
    }
    if version("faiss-cpu"):
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())

        def flat() -> None:
            index = faiss.IndexFlatIP(DIM)
            index.add(F.normalize(bank).numpy())
            index.search(F.normalize(asked).numpy(), K)

        works["faiss"] = flat
    times = beside(works)
    command = [sys.executable, "-c", _MEMORY, str(Path(__file__).parent)]
    grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {
        "bank": BANK, "queries": QUERIES, "dim": DIM, "k": K,
        "target": "at most 1.3 times the bare product with top-k, not slower than faiss IndexFlatIP",
        "seconds": {name: seconds(times[name]) for name in works},
        "times_of_bare": ratios(times, "ours", "bare"),
        "peak_mib_above_data": round(float(grown)), "whole_table_mib": round(BANK * QUERIES * 4 / 2**20),
    }  # fmt: skip
    if "faiss" in works:
        return found | {"times_of_faiss": ratios(times, "ours", "faiss"), "faiss": version("faiss-cpu")}
    return found | {"left_out": ["faiss"]}


def linear(features: Path | None) -> dict[str, Any]:
    """Ridge and logistic regression on 50,000 x 512 features with ten classes, beside scikit-learn's."""
    import sklearn
    from sklearn.linear_model import LogisticRegression, RidgeClassifierCV

    from selfsight.evaluate import logistic, ridge
    from selfsight.evaluate.linear import RIDGE_STRENGTHS
    from selfsight.evaluate.stored import read

    if features is None:
        x, y = mixture(BANK + QUERIES)
        train, labels, test, test_labels = x[:BANK], y[:BANK], x[BANK:], y[BANK:]
    else:
        sets, _ = read(features)
        assert sets.train is not None
        assert sets.labels is not None
        assert sets.test_labels is not None
        train, labels, test, test_labels = sets.train, sets.labels, sets.test, sets.test_labels
    results: dict[str, dict[str, Any]] = {}

    def keep(name: str, work: Callable[[], dict[str, Any]]) -> Callable[[], None]:
        def run() -> None:
            results[name] = work()

        return run

    works: dict[str, Callable[[], object]] = {
        "ridge": keep("ridge", lambda: ridge(train, labels, test, test_labels)),
        "logistic": keep("logistic", lambda: logistic(train, labels, test, test_labels)),
    }
    times = beside(works, 3)
    mean, std = train.double().mean(0), train.double().std(0, correction=0).clamp(min=1e-12)
    a, b = (((part.double() - mean) / std).numpy() for part in (train, test))
    theirs: dict[str, Any] = {
        "ridge": RidgeClassifierCV(alphas=[len(train) * s for s in RIDGE_STRENGTHS]),
        "logistic": LogisticRegression(C=1 / (len(train) * results["logistic"]["strength"]), max_iter=1000),
    }
    found: dict[str, Any] = {
        "rows": len(train), "dim": train.shape[1], "test_rows": len(test),
        "features": "a drawn mixture" if features is None else features.stem, "scikit-learn": sklearn.__version__,
        "target": "ridge below 5 s, logistic regression below 30 s, within 0.3 points of scikit-learn's",
    }  # fmt: skip
    for name, model in theirs.items():
        wall, cpu = timed(partial(model.fit, a, labels.numpy()))
        score = float(model.score(b, test_labels.numpy()))
        found[name] = {
            "seconds": seconds(times[name]), "top1": results[name]["top1"], "strength": results[name]["strength"],
            "scikit_learn_seconds": {"wall": round(wall, 2), "cpu": round(cpu, 2)}, "scikit_learn_top1": score,
            "points_apart": round(100 * (results[name]["top1"] - score), 3),
        }  # fmt: skip
    return found


BENCHMARKS = {"knn": knn, "linear": linear, "extraction": extraction}


def main() -> None:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    names = [word for word in sys.argv[1:] if word in BENCHMARKS] or list(BENCHMARKS)
    features = next((Path(word) for word in sys.argv[1:] if word not in BENCHMARKS), None)
    path = RESULTS / "evaluate.json"
    for name in names:
        key = f"{name} of {features.stem}" if name == "linear" and features else name
        found = {**BENCHMARKS[name](features), "machine": {**machine(), "load": round(os.getloadavg()[0], 1)}}
        kept = {**(json.loads(path.read_text()) if path.is_file() else {}), key: found}
        path.write_text(json.dumps(kept, indent=2) + "\n")
        print(key, json.dumps(found, indent=2), flush=True)


if __name__ == "__main__":
    main()
