"""Tar shards at size: python benchmarks/shards.py [MEMBERS] [FOLDER]. Writes shards of tiny pictures, measures, deletes them.

Time of the index, of the next opening, memory of the main process and of a worker while batches stream, and whether a
stream that begins in the middle gives what the unbroken one gives.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from selfsight.augment import ViewsConfig, build
from selfsight.data import open_data
from selfsight.data.feed import Decoded
from selfsight.rng import Stream, generator
from speed import RESULTS, machine

PER_SHARD, BATCH, STEPS, MIDDLE, WORKERS = 10_000, 256, 40, 23, 2
LIMIT = 1.5 * 2**30  #: bytes of the whole process


def write(folder: Path, members: int) -> int:
    """Shards with a picture and a label each; bytes written."""
    pictures = []
    for i in range(64):
        out = io.BytesIO()
        noise = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((32, 32)).save(out, "JPEG", quality=60)
        pictures.append(out.getvalue())
    for start in range(0, members, PER_SHARD):
        with tarfile.open(folder / f"train-{start // PER_SHARD:06}.tar", "w") as tar:
            for i in range(start, min(start + PER_SHARD, members)):
                for name, data in ((f"{i:08}.jpg", pictures[i % 64]), (f"{i:08}.cls", str(i % 1000).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
            tar.members.clear()  # type: ignore[attr-defined]
    return sum(file.stat().st_size for file in folder.iterdir())


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    members = int(sys.argv[1]) if sys.argv[1:] else 1_000_000
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if sys.argv[2:] else None) as place:
        folder, home = Path(place) / "shards", Path(place) / "home"
        folder.mkdir()
        found: dict[str, Any] = {"members": members, "bytes": write(folder, members), "memory before": resident()}

        def opened() -> Any:
            return open_data(str(folder), root=home, image_size=32, holdout=0, cache="off", workers=WORKERS)

        start = time.perf_counter()
        opened()
        found["seconds to open, with the index"] = round(time.perf_counter() - start, 1)
        start = time.perf_counter()
        data = opened()
        found["seconds to open again"] = round(time.perf_counter() - start, 1)
        assert isinstance(data.train.store, Decoded)
        views = build(ViewsConfig(policy="simclr"), 32, 3, data.mean, data.std)

        def steps(first: int) -> Any:
            order = torch.randperm(members, generator=generator(0, Stream.ORDER, 0))
            for step in range(first, STEPS):
                rows = order[step * BATCH % (members - BATCH) :][:BATCH]
                yield rows, views.draw(BATCH, generator(0, Stream.VIEWS, step))

        most, whole, start = resident(), [], time.perf_counter()
        for crops in data.train.feed(steps(0), views):
            most = max(most, resident())
            whole.append(int(crops["global"].long().sum()))
        found["pictures per second"] = round(BATCH * STEPS / (time.perf_counter() - start))
        rest = [int(crops["global"].long().sum()) for crops in data.train.feed(steps(MIDDLE), views)]
        found["memory while streaming"] = most
        # ru_maxrss counts KiB on Linux; of the children it is the largest one
        found["largest memory, main process"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["largest memory, a child"] = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        found["within 1.5 GiB"] = found["largest memory, main process"] <= LIMIT
        found["resumes exactly"] = rest == whole[MIDDLE:]
    found["machine"] = machine()
    (RESULTS / "shards.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
