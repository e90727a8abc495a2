"""`hf:OWNER/NAME`: a data set of the Hugging Face Hub, as the Parquet files that the Hub has of nearly all."""

from pathlib import Path
from typing import Any

from selfsight.data.files import Request, Source, top_of
from selfsight.data.tables import from_parquet_files
from selfsight.errors import WrongUse, perhaps

_REVISIONS = (None, "refs/convert/parquet")  # as uploaded, else as the Hub converted it


def from_hub(request: Request) -> Source:
    """`hf:OWNER/NAME`, `hf:OWNER/NAME:FOLDER` where the set has several configurations, each in a folder.

    Raises:
        WrongUse: it is not on this machine and --download was not given, or the name is wrong.
    """
    repository, _, chosen = request.name.removeprefix("hf:").partition(":")
    if not repository.strip("/"):
        raise WrongUse(f"{request.name!r}: write hf:OWNER/NAME, such as hf:ylecun/mnist")
    try:
        import huggingface_hub as hub
    except ImportError:
        raise WrongUse("hf: needs the package huggingface-hub: pip install 'selfsight[huggingface]'") from None
    errors = []
    for revision in _REVISIONS:
        try:
            base = _fetch(hub, repository, revision, chosen, request.download)
        except WrongUse:
            raise
        except Exception as error:  # no network, no such set, gated: the hub's client raises many things
            errors.append(" ".join(str(error).split())[:150] or type(error).__name__)
            continue
        files = sorted(base.rglob("*.parquet"))
        if files:
            _one_of([file.relative_to(base).as_posix() for file in files], f"hf:{repository}", chosen)
            files = [file for file in files if _in(file.relative_to(base).as_posix(), chosen)]
            return from_parquet_files(files, base, request)
        errors.append("it has no Parquet files")
    if not request.download:
        raise WrongUse(
            f"{request.name!r} is not on this machine, and nothing is fetched unasked: add --download, or fetch it by "
            f"`huggingface-cli download --repo-type dataset {repository}`"
        )
    raise WrongUse(f"{request.name!r} could not be fetched ({errors[0]}); check the name and the network")


def _fetch(hub: Any, repository: str, revision: str | None, chosen: str, download: bool) -> Path:
    """Folder of the snapshot on this machine."""
    wanted = ["*.parquet"]
    if download:
        everything = hub.list_repo_files(repository, repo_type="dataset", revision=revision)
        listed = [file for file in everything if file.endswith(".parquet")]
        _one_of(listed, f"hf:{repository}", chosen)
        wanted = [file for file in listed if _in(file, chosen)]
    found = hub.snapshot_download(
        repository, repo_type="dataset", revision=revision, allow_patterns=wanted, local_files_only=not download
    )
    return Path(found)


def _in(file: str, chosen: str) -> bool:
    return not chosen or file.startswith(f"{chosen}/")


def _one_of(files: list[str], name: str, chosen: str) -> None:
    """Refuse a choice that the set does not have, and a set of several configurations without a choice."""
    folders = sorted({top_of(file) for file in files} - {""})
    if chosen and not any(_in(file, chosen) for file in files) and files:
        raise WrongUse(f"{name} has no folder {chosen!r}.{perhaps(chosen, folders)}")
    if not chosen and len(folders) > 1:
        raise WrongUse(f"{name} has several configurations: choose one of {', '.join(folders[:20])}, as {name}:FOLDER")
