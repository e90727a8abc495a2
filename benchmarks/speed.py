"""Speed, as ratios measured side by side in one run: python benchmarks/speed.py [NAME ...].

Each pair is timed in alternation and the median of the ratios is reported, so that a machine that others use as well
still gives a fair answer. Peers that are not installed are left out, and the result says so.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5


def clock(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS
) -> tuple[float, float, list[float]]:
    """Median seconds of both, and the ratios theirs / ours of each round, timed in alternation."""
    ours(), theirs()
    pairs = [(clock(ours), clock(theirs)) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), [b / a for a, b in pairs]


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def pictures(count: int) -> Tensor:
    from selfsight.data import open_data

    return open_data(f"shapes:32:{count}", holdout=0).train.gather(torch.arange(count)).pixels


def augmentation() -> dict[str, Any]:
    """Views per second of the two-view SimCLR policy at 32 px; peers make the same policy their own way."""
    from selfsight import augment
    from selfsight.rng import Stream, generator

    batch = 512
    x = pictures(batch)
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.25)
    modes = {
        mode: augment.build(augment.ViewsConfig(policy="simclr-cifar", colour=mode), 32, 3, mean, std)
        for mode in ("fast", "exact")
    }

    def ours(mode: str) -> Callable[[], object]:
        return lambda: modes[mode](x, modes[mode].draw(batch, generator(0, Stream.VIEWS, 0)))

    peers: dict[str, Callable[[], object]] = {}
    if version("kornia"):
        import kornia.augmentation as K

        chain = K.AugmentationSequential(
            K.RandomResizedCrop((32, 32), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
            K.RandomHorizontalFlip(),
            K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
            K.RandomGrayscale(p=0.2),
            K.Normalize(mean, std),
            data_keys=["input"],
        )
        peers["kornia"] = lambda: [chain(x.float() / 255) for _ in range(2)]
    few = 64  # per-image pipelines are slow: fewer pictures, same unit
    if version("lightly"):
        from lightly.transforms.simclr_transform import SimCLRTransform
        from torchvision.transforms.functional import to_pil_image

        transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
        pils = [to_pil_image(p) for p in x[:few]]
        peers["lightly"] = lambda: [transform(p) for p in pils]
    from torchvision.transforms import v2

    each = v2.Compose([
        v2.RandomResizedCrop(32, scale=(0.08, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean.tolist(), std.tolist()),
    ])  # fmt: skip
    peers["torchvision v2"] = lambda: [each(p) for p in x[:few] for _ in range(2)]
    found: dict[str, Any] = {"batch": batch, "views_per_picture": 2, "policy": "simclr-cifar"}
    for mode in modes:
        ours(mode)()
        found[f"{mode}_views_per_second"] = round(2 * batch / statistics.median(clock(ours(mode)) for _ in range(15)))
    for name, peer in peers.items():
        _, theirs, ratios = paired(ours("fast"), peer)
        scale = 1.0 if name == "kornia" else batch / few
        found[name] = {
            "version": version(name.split()[0]), "views_per_second": round(2 * batch / (theirs * scale)),
            "fast_is_times_faster": round(statistics.median(ratios) * scale, 1),
            "range": [round(min(ratios) * scale, 1), round(max(ratios) * scale, 1)],
        }  # fmt: skip
    found["left_out"] = [p for p in ("kornia", "lightly") if not version(p)]
    return found


def training() -> dict[str, Any]:
    """Our loop against a bare loop: same encoder and projector, forward, NT-Xent, backward and step on fixed views."""
    from selfsight import optim
    from selfsight.losses import nt_xent
    from selfsight.recipes import recipe
    from selfsight.session import open_for, prepare
    from selfsight.train import build, steps

    device = torch.device("cpu")
    run = replace(
        recipe("simclr", "cifar10-200"),
        data="shapes:32:2560",
        holdout=0.0,
        epochs=100,
        precision="fp32",
        batch_size=64,
    )
    data = open_for(run, device)
    run, _ = prepare(run, data, device)
    method, pictures = build(run, data, device)
    optimizer = optim.build(run.optimizer, method, 64)
    loop = steps(method, optimizer, pictures, run)

    bare, _ = build(run, data, device)
    bare_optimizer = optim.build(run.optimizer, bare, 64)
    views = method.views(
        pictures.part.gather(torch.arange(64)), method.views.draw(64, torch.Generator().manual_seed(0))
    )
    x = views["global"].flatten(0, 1)

    def step() -> None:
        z1, z2 = bare.projector(bare.encoder(x)).chunk(2)  # type: ignore[operator]
        nt_xent(z1, z2, 0.2).backward()
        bare_optimizer.step()
        bare_optimizer.zero_grad(set_to_none=True)

    bare.train()
    ours, theirs, ratios = paired(lambda: next(loop), step, rounds=7)
    return {
        "network": "resnet18, 32 px, batch 64 (128 views), fp32", "views_per_second": round(128 / ours, 1),
        "bare_views_per_second": round(128 / theirs, 1), "ours_to_bare": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)], "target": "at least 0.90",
    }  # fmt: skip


def start_up() -> dict[str, Any]:
    """Seconds of `selfsight --help`, best and median of seven."""
    times = [
        clock(lambda: subprocess.run([sys.executable, "-m", "selfsight", "--help"], check=True, capture_output=True))
        for _ in range(7)
    ]
    return {"best": round(min(times), 3), "median": round(statistics.median(times), 3), "target": "below 0.5"}


_KMEANS = """
import resource, sys, torch
import torch.nn.functional as F
from selfsight.assign import kmeans
rows = F.normalize(torch.randn(50000, 256, generator=torch.Generator().manual_seed(0)) + 0.3, dim=1)
kmeans(rows[:100], 10, 1, torch.Generator().manual_seed(0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kmeans(rows, 1000, 2, torch.Generator().manual_seed(0))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def clustering() -> dict[str, Any]:
    """k-means of 50,000 x 256 into 1,000 clusters, 20 iterations, against faiss; memory above that of the data."""
    from selfsight.assign import kmeans

    grown = subprocess.run([sys.executable, "-c", _KMEANS], check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = {
        "rows": 50000, "dim": 256, "k": 1000, "iterations": 20, "peak_mib_above_data": round(float(grown)),
        "target": "at least 1 times faiss at an inertia within 1 %, below 200 MiB",
    }  # fmt: skip
    rows = F.normalize(torch.randn(50000, 256, generator=torch.Generator().manual_seed(0)) + 0.3, dim=1)
    inertia: dict[str, float] = {}

    def ours() -> None:
        labels, centroids = kmeans(rows, 1000, 20, torch.Generator().manual_seed(0))
        inertia["ours"] = float((rows - centroids[labels]).square().sum())

    if not version("faiss-cpu"):
        return {**found, "seconds": round(statistics.median(clock(ours) for _ in range(3)), 2), "left_out": ["faiss"]}
    import faiss

    def theirs() -> None:
        k = faiss.Kmeans(256, 1000, niter=20, seed=0, max_points_per_centroid=50000, min_points_per_centroid=1)
        k.train(rows.numpy())
        inertia["faiss"] = float(k.index.search(rows.numpy(), 1)[0].sum())

    faiss.omp_set_num_threads(torch.get_num_threads())
    a, b, ratios = paired(ours, theirs)
    return found | {
        "seconds": round(a, 2), "faiss_seconds": round(b, 2), "times_faster": round(statistics.median(ratios), 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
        "inertia_to_faiss": round(inertia["ours"] / inertia["faiss"], 4), "faiss": version("faiss-cpu"),
    }  # fmt: skip


def sinkhorn() -> dict[str, Any]:
    """Codes of a SwAV batch, against the linear form of its authors; an iteration of SeLa's solver for a data set."""
    from selfsight.assign import balanced_labels
    from selfsight.assign import sinkhorn as codes

    rng = torch.Generator().manual_seed(0)
    scores = F.normalize(torch.randn(4096, 128, generator=rng)) @ F.normalize(torch.randn(3000, 128, generator=rng)).T

    def linear() -> None:
        m = (scores / 0.05).exp().T
        m /= m.sum()
        for _ in range(3):
            m /= m.sum(1, keepdim=True) * len(m)
            m /= m.sum(0, keepdim=True) * m.shape[1]
        (m * m.shape[1]).T.contiguous()

    a, b, ratios = paired(lambda: codes(scores, 0.05, 3), linear)
    found: dict[str, Any] = {
        "swav 4096 x 3000, 3 iterations": {
            "seconds": round(a, 3), "linear_seconds": round(b, 3), "times_faster": round(statistics.median(ratios), 2)
        },
        "target": "sela: below 1 s an iteration on two cores",
    }  # fmt: skip
    x, w, bias = torch.randn(50000, 512, generator=rng), torch.randn(3000, 512, generator=rng) / 32, torch.zeros(3000)
    for name, cache in (("kept", 2**30), ("computed anew", 0)):

        def solve(iterations: int, cache: int = cache) -> float:
            return clock(lambda: balanced_labels(x, w, bias, 25.0, iterations=iterations, tolerance=1e-9, cache=cache))

        solve(1)
        each = statistics.median((solve(6) - solve(1)) / 5 for _ in range(3))
        found[f"sela 50,000 x 512, 3,000 labels, logits {name}"] = {"seconds_an_iteration": round(each, 2)}
    return found


_STEP = """
import sys, time, resource, torch
from dataclasses import replace
from selfsight import optim
from selfsight.recipes import recipe
from selfsight.session import open_for, prepare
from selfsight.train import build, steps
encoder, (batch, micro, accumulate, spare) = sys.argv[1], map(int, sys.argv[2:])
device = torch.device("cpu")
run = replace(recipe("simclr", "cifar10-200"), data="shapes:32:1024", holdout=0.0, epochs=100, precision="fp32",
              encoder=encoder, batch_size=batch, micro_batch=micro, accumulate=accumulate, checkpoint_activations=bool(spare),
              threads=torch.get_num_threads())
data = open_for(run, device)
run, _ = prepare(run, data, device)
method, pictures = build(run, data, device)
optimizer = optim.build(run.optimizer, method, batch)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
losses = [float(done.loss) for done in steps(method, optimizer, pictures, run, 0, 2)]
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter() - start, losses[0])
"""


def two_steps(
    batch: int, micro: int = 0, accumulate: int = 1, spare: int = 0, encoder: str = "resnet18"
) -> dict[str, float]:
    """Peak memory above that of the built model, time and loss of two steps of SimCLR in a process of their own."""
    command = [sys.executable, "-c", _STEP, encoder, *map(str, (batch, micro, accumulate, spare))]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    grown = (float(out[1]) - float(out[0])) / 1024
    return {"peak_mib": round(grown), "seconds": round(float(out[2]), 1), "loss": round(float(out[3]), 4)}


def micro_batches() -> dict[str, Any]:
    """Peak memory and time of two steps of SimCLR at batch 512: whole, cached gradients, and plain accumulation."""

    found: dict[str, Any] = {
        "network": "resnet18, 32 px, SimCLR, fp32, memory above that of the built model",
        "batch 512": two_steps(512), "batch 512 --micro-batch 32": two_steps(512, 32),
        "batch 512 --accumulate 16": two_steps(512, 0, 16), "batch 32": two_steps(32),
    }  # fmt: skip
    whole, micro = found["batch 512"], found["batch 512 --micro-batch 32"]
    found["memory_ratio"] = round(micro["peak_mib"] / whole["peak_mib"], 3)
    found["time_ratio"] = round(micro["seconds"] / whole["seconds"], 2)
    return found


def activations() -> dict[str, Any]:
    """Peak memory and time of two steps of SimCLR at batch 32, with and without --checkpoint-activations."""
    rounds = [tuple(two_steps(32, spare=spare, encoder="resnet50") for spare in (0, 1)) for _ in range(3)]
    return {
        "network": "resnet50, 32 px, SimCLR, fp32, memory above that of the built model",
        "plain": rounds[0][0], "checkpointed": rounds[0][1],
        "memory_ratio": round(statistics.median(b["peak_mib"] / a["peak_mib"] for a, b in rounds), 3),
        "time_ratio": round(statistics.median(b["seconds"] / a["seconds"] for a, b in rounds), 2),
    }  # fmt: skip


def multi_crop() -> dict[str, Any]:
    """A step of SwAV (ResNet-18, batch 64) on 2 x 32 + 6 x 18 px against one on 2 x 32 px; the pixels are 1.95 times."""
    from selfsight import optim
    from selfsight.recipes import recipe
    from selfsight.session import open_for, prepare
    from selfsight.train import build, steps

    def training(small: int) -> Callable[[], object]:
        run = recipe("swav", "cifar10-200")
        views = replace(run.views, locals=small, local_size=18 if small else 0)
        run = replace(
            run, data="shapes:32:640", holdout=0, batch_size=64, views=views, precision="fp32", device="cpu", epochs=100
        )
        device = torch.device("cpu")
        data = open_for(run, device)
        run, _ = prepare(run, data, device)
        method, pictures = build(run, data, device)
        loop = steps(method, optim.build(run.optimizer, method, 64), pictures, run)
        return lambda: [next(loop) for _ in range(2)]

    plain, crops, ratios = paired(training(0), training(6))
    return {
        "seconds_2x32": round(plain / 2, 3), "seconds_2x32_6x18": round(crops / 2, 3),
        "times": round(statistics.median(ratios), 2), "ratios": [round(r, 2) for r in ratios],
    }  # fmt: skip


BENCHMARKS = {
    "multi_crop": multi_crop,
    "micro_batches": micro_batches,
    "activations": activations,
    "augmentation": augmentation,
    "training": training,
    "start_up": start_up,
    "clustering": clustering,
    "sinkhorn": sinkhorn,
}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    found = {
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "python": platform.python_version(), "when": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found["cpu"] = next(
            (line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line), "?"
        )
    return found


def main() -> None:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    names = sys.argv[1:] or list(BENCHMARKS)
    RESULTS.mkdir(exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory() as home:
            os.environ["SELFSIGHT_HOME"] = home
            found = {**BENCHMARKS[name](), "machine": machine()}
        (RESULTS / f"speed-{name}.json").write_text(json.dumps(found, indent=2) + "\n")
        print(name, json.dumps(found, indent=2), flush=True)


if __name__ == "__main__":
    main()
