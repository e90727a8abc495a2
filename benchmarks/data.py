"""Work on files of pictures, beside plain loops: python benchmarks/data.py [NAME ...] [FOLDER].

FOLDER holds pictures, in any tree; without one, drawn pictures are written as JPEG files first. Wall time is what a user
waits; CPU time counts what others on the machine do not disturb.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from speed import RESULTS, machine, paired, pictures, version

FEW = 5_000  #: pictures of the comparison with a loop
TARGET = 60.0  #: seconds for 50,000 small JPEG files on two cores
MANY = 100_000  #: small files of the comparison with a loop that fills an array
PHOTOS, WORKERS, BATCH = 2304, 2, 64  #: pictures of 500 x 375, processes that decode them, pictures of a step


def doctor(folder: Path) -> dict[str, Any]:
    """`selfsight check` of a folder; and of some of its files, beside a loop that only decodes them, with Pillow."""
    from selfsight.data.files import from_folder
    from selfsight.data.spans import Spans
    from selfsight.doctor import check

    paths = [Path(span.path) for span in Spans.of(from_folder(folder).train.paths or [])]
    wall, cpu, found = timed(lambda: check(folder))
    some = paths[:: max(1, len(paths) // FEW)][:FEW]

    def loop() -> None:
        for path in some:
            with Image.open(path) as picture:
                picture.convert("RGB").load()

    with tempfile.TemporaryDirectory() as place:
        listed = Path(place) / "some.txt"
        listed.write_text("".join(f"{path.absolute()}\n" for path in some))
        ours, theirs, ratios = paired(lambda: check(listed), loop, rounds=3)
        _, our_cpu, _ = timed(lambda: check(listed))
        _, their_cpu, _ = timed(loop)
    return {
        "pictures": len(paths), "seconds": round(wall, 1), "cpu_seconds": round(cpu, 1),
        "seconds_for_50000": round(wall * 50_000 / len(paths), 1), "target": TARGET,
        "found": {kind: finding.count for kind, finding in found.findings.items()},
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "beside_a_loop": {
            "pictures": len(some), "seconds": round(ours, 2), "seconds_of_the_loop": round(theirs, 2),
            "times_faster": round(statistics.median(ratios), 2), "cpu_times_of_the_loop": round(our_cpu / their_cpu, 2),
        },
    }  # fmt: skip


def store(folder: Path) -> dict[str, Any]:
    """100,000 small files to the cache, as `open_data` does it, beside a loop in one process, with Pillow.

    Opening includes all it does: listing, labels, hashes, headers, statistics, the file of the cache.
    """
    from selfsight.data import open_data
    from selfsight.data.files import from_folder
    from selfsight.data.spans import Spans

    given = [span.path for span in Spans.of(from_folder(folder).train.paths or [])]
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        many, homes = Path(place) / "many", iter(range(1000))
        for i in range(MANY):
            file = many / f"{i // 10_000}" / f"{i}{Path(given[i % len(given)]).suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            os.link(given[i % len(given)], file)

        def opened(home: int) -> Any:
            return open_data(str(many), root=Path(place) / f"home-{home}", holdout=0, log=lambda _: None)

        def loop() -> None:
            paths = [os.path.join(inside, name) for inside, _, names in os.walk(many) for name in names]
            out: np.ndarray[Any, Any] | None = None
            for i, path in enumerate(paths):
                with Image.open(path) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
                out = np.empty((len(paths), *pixels.shape), np.uint8) if out is None else out
                out[i] = pixels

        ours, theirs, ratios = paired(lambda: opened(next(homes)), loop, rounds=5)
        again = [timed(lambda: opened(0))[0] for _ in range(5)]
        cpu = [cpu_of(lambda: opened(next(homes))), cpu_of(loop)]
    return {
        "pictures": MANY, "seconds": round(ours, 2), "seconds_of_the_loop": round(theirs, 2),
        "times_faster": round(statistics.median(ratios), 2), "range": [round(min(ratios), 2), round(max(ratios), 2)],
        "cpu_seconds": round(cpu[0], 2), "cpu_seconds_of_the_loop": round(cpu[1], 2),
        "seconds_of_the_second_start": round(statistics.median(again), 2), "best": round(min(again), 2),
        "target": "at least 3 times faster on two cores, second start below 2 s", "load": os.getloadavg()[0],
    }  # fmt: skip


def jpeg(folder: Path) -> dict[str, Any]:
    """Views of photos: two of 224 px of each file of 500 x 375, from the files to normalised tensors.

    Ours as the training loop has them: workers decode and cut, the main process does the colours. Beside it lightly's
    transform on torchvision's ImageFolder, with as many workers in a DataLoader.
    """
    from selfsight.augment import ViewsConfig, build
    from selfsight.data import open_data
    from selfsight.data.processes import cores
    from selfsight.machine import keep_memory
    from selfsight.rng import Stream, generator

    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        photos = Path(place) / "photos"
        size = photographs(photos, folder)
        data = open_data(
            str(photos), root=Path(place), image_size=224, holdout=0, cache="off", workers=WORKERS, log=lambda _: None
        )
        views = build(
            ViewsConfig(policy="simclr", interpolation="bilinear"), 224, 3, data.mean, data.std
        )  # as lightly's
        keep_memory()  # as every run on a CPU does
        torch.set_num_threads(
            max(1, cores() - WORKERS)
        )  # as --threads would be given: the workers have the other cores

        def ours() -> int:
            order = torch.randperm(len(data.train), generator=generator(0, Stream.ORDER, 0))
            steps = [
                (rows, views.draw(len(rows), generator(0, Stream.VIEWS, i)))
                for i, rows in enumerate(order.split(BATCH))
            ]
            feed = data.train.feed(steps, views)
            return sum(views(crops, draws)["global"][:, :, 0, 0, 0].numel() for crops, (_, draws) in zip(feed, steps))

        found: dict[str, Any] = {
            "pictures": PHOTOS,
            "mean_bytes": size,
            "workers": WORKERS,
            "policy": "simclr, bilinear, 2 x 224 px",
        }
        if not version("lightly"):
            return found | {"views_per_second": round(2 * PHOTOS / timed(ours)[0]), "left_out": ["lightly"]}
        from lightly.transforms import SimCLRTransform
        from torch.utils.data import DataLoader
        from torchvision.datasets import ImageFolder

        peer = ImageFolder(str(photos), transform=SimCLRTransform(input_size=224))

        def theirs() -> int:
            loader = DataLoader(peer, BATCH, shuffle=True, num_workers=WORKERS)
            return sum(view[:, 0, 0, 0].numel() for pair, _ in loader for view in pair)

        assert ours() == theirs() == 2 * PHOTOS
        a, b, ratios = paired(ours, theirs, rounds=5)
        cpu = [cpu_of(ours), cpu_of(theirs)]
    return found | {
        "views_per_second": round(2 * PHOTOS / a), "views_per_second_of_lightly": round(2 * PHOTOS / b),
        "times_faster": round(statistics.median(ratios), 2), "range": [round(min(ratios), 2), round(max(ratios), 2)],
        "cpu_ms_a_view": round(500 * cpu[0] / PHOTOS, 2), "cpu_ms_a_view_of_lightly": round(500 * cpu[1] / PHOTOS, 2),
        "lightly": version("lightly"), "target": "at least 2 times as fast", "load": os.getloadavg()[0],
    }  # fmt: skip


def photographs(folder: Path, source: Path) -> int:
    """Files of 500 x 375 of a size and a sharpness that photos have, from small pictures; their mean size in bytes."""
    from selfsight.data.files import from_folder
    from selfsight.data.spans import Spans

    small = [span.path for span in Spans.of(from_folder(source).train.paths or [])][:2000]
    rng, sizes = np.random.default_rng(0), []
    for i in range(PHOTOS):
        canvas = Image.new("RGB", (512, 384))
        for x, y in np.ndindex(4, 3):  # a mosaic: edges and areas at several scales
            with Image.open(small[rng.integers(len(small))]) as tile:
                canvas.paste(tile.convert("RGB").resize((128, 128), Image.Resampling.BICUBIC), (128 * x, 128 * y))
        pixels = np.asarray(canvas.crop((0, 0, 500, 375)), np.float32) + rng.normal(0, 10, (375, 500, 3))
        file = folder / f"{i % 4}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=85)
        sizes.append(file.stat().st_size)
    return round(statistics.mean(sizes))


def cpu_of(work: Callable[[], Any]) -> float:
    """CPU seconds, those of the processes it started included."""

    def spent() -> float:
        found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(used.ru_utime + used.ru_stime for used in found)

    before = spent()
    work()
    return spent() - before


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall and CPU seconds, all threads counted, and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def drawn(folder: Path, count: int = 10_000) -> None:
    """Pictures of `shapes` as JPEG files, a thousand a folder."""
    from torchvision.transforms.functional import to_pil_image

    for i, picture in enumerate(pictures(count)):
        file = folder / f"{i // 1000}" / f"{i}.jpg"
        file.parent.mkdir(exist_ok=True)
        to_pil_image(picture).save(file)


BENCHMARKS = {"doctor": doctor, "store": store, "jpeg": jpeg}


def main() -> None:
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    names = [word for word in sys.argv[1:] if word in BENCHMARKS] or list(BENCHMARKS)
    given = [Path(word) for word in sys.argv[1:] if word not in BENCHMARKS]
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        os.environ["SELFSIGHT_HOME"] = home
        folder = given[0] if given else Path(home) / "drawn"
        if not given:
            folder.mkdir()
            drawn(folder)
        for name in names:
            found = {**BENCHMARKS[name](folder), "machine": machine()}
            (RESULTS / f"data-{name}.json").write_text(json.dumps(found, indent=2) + "\n")
            print(name, json.dumps(found, indent=2), flush=True)


if __name__ == "__main__":
    main()
