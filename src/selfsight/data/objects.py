"""Pictures that a program holds, as a part: for `embed`. Legend: N pictures, C channels, H, W height and width."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selfsight.data import decode, files
from selfsight.data.feed import BadFiles, Decoded, printable
from selfsight.data.part import Part
from selfsight.data.reading import Settings, read_all, refuse_bad, try_probe
from selfsight.data.spans import Spans
from selfsight.data.store import Resident, in_memory
from selfsight.errors import WrongUse


def with_channels(pixels: Tensor, channels: int) -> Tensor:
    """(N, c, H, W) uint8 -> (N, C, H, W): gray is repeated, RGB weighed to gray, alpha laid on white.

    Raises:
        WrongUse: no such conversion.
    """
    found = pixels.shape[1]
    if found == channels:
        return pixels
    if channels == 3 and found == 1:
        return pixels.expand(-1, 3, -1, -1)
    if channels == 3 and found == 4:
        alpha = pixels[:, 3:].float() / 255
        return (pixels[:, :3] * alpha + 255 * (1 - alpha)).round().to(torch.uint8)
    if channels == 1 and found == 3:
        weight = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
        return (pixels * weight).sum(1, keepdim=True).round().to(torch.uint8)
    raise WrongUse(f"pictures with {found} channels cannot be turned into {channels}; leave channels at 0")


def from_objects(
    objects: Any,
    *,
    channels: int = 3,
    image_size: int = 0,
    bad_files: BadFiles = "error",
    log: Callable[[str], None] = print,
) -> Part:
    """Pictures that a program holds: a list of paths, of PIL images, of uint8 arrays, or one array of all.

    Arrays: (H, W), (H, W, C) or (C, H, W) in a list, (N, H, W), (N, H, W, C) or (N, C, H, W) as one. `image_size`:
    what they will be used at: larger files and PIL images are reduced, to twice that; 0 keeps every pixel. Paths are
    read when they are needed.

    Raises:
        WrongUse: something else, nothing at all, or a file that cannot be read (`bad_files="error"`).
    """
    if isinstance(objects, np.ndarray | Tensor):
        return Part(Resident.of(with_channels(files.to_pixels(np.asarray(objects), "the array"), channels)))
    items = list(objects)
    if not items:
        raise WrongUse("there are no pictures in the list; give at least one")
    settings = Settings(channels, image_size, bad_files, 0, "off", Path(), log)
    if all(isinstance(item, str | Path) for item in items):
        return _from_paths([Path(item).expanduser() for item in items], settings)
    store, bad = in_memory(channels, (_object(item, i, settings) for i, item in enumerate(items)))
    refuse_bad(bad, [f"picture {i}" for i in range(len(items))], bad_files)
    keep = torch.tensor(sorted(set(range(len(items))) - {i for i, _ in bad}), dtype=torch.int64)
    return Part(store, index=keep)


def _from_paths(paths: list[Path], settings: Settings) -> Part:
    # under `skip` a first pass decodes, so that no picture stands in for another and `index` is exact
    if settings.bad_files == "error":
        bad = [(i, found) for i, found in enumerate(map(try_probe, paths)) if isinstance(found, str)]
    else:
        bad, first = [], 0
        for block in (read.block for read in read_all(Spans.of(paths), settings, 16)):
            bad += [(first + place, why) for place, why in block.bad]
            first += block.files
    names = [str(path) for path in paths]
    refuse_bad(bad, names, settings.bad_files)
    lost = {i for i, _ in bad}
    for i, why in bad:
        settings.log(f"skipped {printable(names[i])}: {why}")
    keep = [i for i in range(len(paths)) if i not in lost]
    if not keep:
        raise WrongUse(f"no readable picture among {len(paths)} files ({bad[0][1]}); check the paths")
    store = Decoded([paths[i] for i in keep], settings.channels, settings.shorter, settings.bad_files, settings.log)
    return Part(store, index=torch.tensor(keep), names=[names[i] for i in keep])


def _object(item: Any, position: int, settings: Settings) -> Tensor | str:
    if isinstance(item, str | Path | Image.Image):
        try:
            source = item.copy() if isinstance(item, Image.Image) else item  # reading may change a PIL image
            return decode.read(source, settings.channels, settings.shorter)
        except decode.Unreadable as error:
            return str(error)
    array = np.asarray(item)
    if array.ndim not in (2, 3):
        raise WrongUse(f"picture {position} is {type(item).__name__} {array.shape}; give paths, PIL images or arrays")
    return with_channels(files.to_pixels(array[None], f"picture {position}"), settings.channels)[0]
