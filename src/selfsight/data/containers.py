"""Which names mean files that hold many pictures: tar shards, HDF5, Parquet, Arrow, sets of the Hub."""

from collections import Counter
from pathlib import Path

from selfsight.data import files
from selfsight.data.files import Request, Source
from selfsight.data.spans import is_remote
from selfsight.errors import WrongUse

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


def find(request: Request) -> Source | None:
    """The set of a name, None if it is of another kind. Modules are imported where they are needed.

    Raises:
        WrongUse: what is wrong with the files, and what to do.
    """
    name = request.name
    if name.startswith("hf:"):
        from selfsight.data.hub import from_hub

        return from_hub(request)
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if name.lower().endswith(_COMPRESSED):
        raise WrongUse(
            f"{name} is compressed, so that no picture in it can be read by itself; unpack it to a .tar or to a folder "
            "(pictures are compressed already: it grows little)"
        )
    if is_remote(name) or suffix == ".tar" or (not path.exists() and any(sign in name for sign in "{*")):
        return _from_shards(name, request)
    if path.is_dir():
        return _in_folder(path, request)
    if not path.is_file():
        return None
    if suffix in (".h5", ".hdf5"):
        from selfsight.data.hdf5 import from_hdf5

        return from_hdf5(path, request)
    if suffix in (".parquet", ".arrow"):
        from selfsight.data import tables

        return (tables.from_parquet if suffix == ".parquet" else tables.from_arrow)(path, request)
    return None


def _in_folder(path: Path, request: Request) -> Source | None:
    """Shards or tables in a folder that holds no pictures."""
    from selfsight.data import tables

    if tables.is_saved(path):
        return tables.from_arrow(path, request)
    others: Counter[str] = Counter()
    if next(files.walk(path, others), None) is not None:
        return None
    if others[".tar"]:
        return _from_shards(str(path), request)
    return tables.from_parquet(path, request) if others[".parquet"] else None


def _from_shards(name: str, request: Request) -> Source:
    from selfsight.data.shards import from_shards

    return from_shards(name, request)
