"""HDF5 files: arrays of pictures called images, x or data, labels or y, and the same with `test_` before them.

Legend: N pictures, H, W height and width, C channels.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from selfsight.data.files import Request, Source, from_named, to_pixels
from selfsight.data.store import CACHE_LIMIT, Built, cached, fits_on_disk
from selfsight.errors import WrongUse

_ROWS = 256  # that are read at a time


def from_hdf5(file: Path, request: Request) -> Source:
    """Pictures and labels of an .h5 file.

    Plain uint8 arrays are mapped from the file. Others, chunked or compressed, are read into memory, or above the limit
    of the cache row by row into a file beside it.

    Raises:
        WrongUse: h5py is missing, or there are no arrays of pictures.
    """
    try:
        import h5py
    except ImportError:
        raise WrongUse(f"{file} needs the package h5py: pip install 'selfsight[hdf5]'") from None
    notices: list[str] = []
    try:
        with h5py.File(file, "r") as opened:
            sets = {name: item for name, item in opened.items() if isinstance(item, h5py.Dataset)}
            return from_named(sets, str(file), lambda item, what: _pixels(item, what, file, request, notices), notices)
    except WrongUse:
        raise
    except Exception as error:  # h5py raises a different thing for each kind of damage
        raise WrongUse(f"{file} cannot be read as HDF5 ({' '.join(str(error).split())[:100]})") from None


def _pixels(data: Any, what: str, file: Path, request: Request, notices: list[str]) -> Tensor:
    """(N, C, H, W) uint8 of one array."""
    if data.dtype.kind not in "buif":
        raise WrongUse(f"{what} holds {data.dtype}; pictures are arrays of uint8, uint16 or floats in 0..1")
    at = data.id.get_offset()
    if data.dtype == np.uint8 and at is not None and data.size:
        # copy-on-write: one copy in memory for all processes, and torch gets the writable array it wants
        return to_pixels(np.memmap(file, np.uint8, "c", offset=at, shape=data.shape), what, notices)
    if data.size <= CACHE_LIMIT:
        return to_pixels(data[()], what, notices)
    return _by_rows(data, what, file, request, notices)


def _by_rows(data: Any, what: str, file: Path, request: Request, notices: list[str]) -> Tensor:
    if data.dtype != np.uint8:
        raise WrongUse(f"{what} is {data.dtype} and larger than {CACHE_LIMIT >> 30} GiB; store it as uint8")
    if not fits_on_disk(request.root, data.size):
        raise WrongUse(
            f"{what} is compressed or chunked and must be unpacked once, {data.size >> 20:,} MiB, and {request.root} has "
            "no room; make some, give another --data-root, or store it without chunks"
        )
    stamp = file.stat()
    key = hashlib.blake2b(repr([what, stamp.st_size, stamp.st_mtime_ns]).encode(), digest_size=16).hexdigest()
    channels = to_pixels(data[:1], what).shape[1]

    def build() -> Built:
        request.log(f"unpacking {what}, {data.size >> 20:,} MiB, once")
        for start in range(0, len(data), _ROWS):
            yield from to_pixels(data[start : start + _ROWS], what)

    store = cached(request.root / "store" / f"hdf5-{key}", channels, build)[0]
    assert store.uniform is not None
    return store.uniform
