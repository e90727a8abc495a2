"""The registry of transforms of the project of eleven methods: names in the order of a YAML file, each with `apply_prob`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfsight.errors import WrongUse, perhaps

_JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
_STANDARD: list[dict[str, Any]] = [
    {"jitter": {"apply_prob": 0.8, **_JITTER}},
    {"gray": {"apply_prob": 0.2}},
    {"crop": {"scale": [0.2, 1.0], "interpolation": "bilinear"}},
    {"flip": {"apply_prob": 0.5}},
]  #: the policy `seed001`

_NAMES = (
    "gaussian_blur", "color_jitter", "random_gray", "random_crop", "random_resized_crop", "center_crop", "resize",
    "random_flip", "to_tensor", "normalize", "rand_aug", "cutout", "multi_crop",
)  # fmt: skip


def views_from(transforms: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Dotted settings of the views; remarks are added to `notes`. WrongUse for an unknown transform or argument."""
    settings: dict[str, Any] = {}
    steps: list[dict[str, Any]] = []
    for name, arguments in transforms.items():
        if name in ("train", "train_transforms"):  # a level more
            return settings | views_from(arguments, notes)
        if name not in _NAMES:
            raise WrongUse(f"unknown transform {name!r}.{perhaps(str(name), list(_NAMES))}")
        given = dict(arguments or {})
        if name == "multi_crop":
            settings |= _multi_crop(given)
            continue
        step = _step(name, given, settings, notes)
        if given:
            raise WrongUse(f"transform {name} has no argument {next(iter(given))!r}: leave it out")
        if step:
            steps.append(step)
    if steps and not _same_steps(steps, settings):
        settings["views.pipeline"] = steps
    return settings


def _same_steps(steps: list[dict[str, Any]], settings: dict[str, Any]) -> bool:
    """Whether the steps are the project's usual ones; a crop of another area is a setting of the policy."""
    crop: dict[str, Any] = next((step["crop"] for step in steps if "crop" in step), {})
    scale = crop.get("scale")
    if steps != [{"crop": {**step["crop"], "scale": scale}} if "crop" in step else step for step in _STANDARD]:
        return False
    if scale != [0.2, 1.0]:
        settings["views.scale"] = scale
    return True


def _step(name: str, given: dict[str, Any], settings: dict[str, Any], notes: list[str]) -> dict[str, Any] | None:
    """A step of a pipeline, or None for what is done anyway. Arguments that are understood are taken out of `given`."""
    share = {"apply_prob": float(given.pop("apply_prob"))} if "apply_prob" in given else {}
    if name == "color_jitter":
        return {"jitter": {"apply_prob": 1.0, **share, **{key: float(given.pop(key, 0.0)) for key in _JITTER}}}
    if name == "random_gray":
        return {"gray": {"apply_prob": float(given.pop("p", share.get("apply_prob", 0.2)))}}
    if name == "random_flip":
        return {"flip": {"apply_prob": float(given.pop("p", share.get("apply_prob", 0.5)))}}
    if name == "random_resized_crop":
        _side(given, settings)
        scale = [float(v) for v in given.pop("scale", (0.08, 1.0))]
        ratio = {"ratio": [float(v) for v in given.pop("ratio")]} if "ratio" in given else {}
        return {"crop": {**share, "scale": scale, "interpolation": "bilinear", **ratio}}
    if name == "gaussian_blur":
        sigma = given.pop("sigma", (0.1, 2.0))
        given.pop("kernel_size", None)
        return {"blur": {**share, "sigma": [float(v) for v in sigma]}}
    if name == "random_crop":
        side, padding = _side(given, settings) or 32, float(given.pop("padding", 4))
        notes.append("random_crop: a translation by as many pixels, the gap filled by reflection")
        return {"shift": {**share, "share": padding / side}}
    if name == "rand_aug":
        count = int(given.pop("n", 2))
        notes.append("rand_aug: the published ranges, of which most did nothing or everything there")
        return {"randaugment": {**share, "operations": count}}
    if name == "cutout":
        holes = int(given.pop("n_holes", 1))
        length = float(given.pop("length", 16))
        if holes != 1:
            notes.append(f"cutout: one hole, not {holes}, as published")
        return {"cutout": {**share, "side": length / float(settings.get("image_size", 32))}}
    if name in ("center_crop", "resize"):
        _side(given, settings)
        notes.append(f"{name}: views have the image size anyway")
        return None
    if name == "normalize":
        given.pop("mean", None), given.pop("std", None)
        notes.append("normalize: by the published numbers of the data set")
        return None
    return None  # to_tensor


def _side(given: dict[str, Any], settings: dict[str, Any]) -> int | None:
    """The argument `size`, which becomes the image size."""
    size = given.pop("size", None)
    if size is None:
        return None
    settings["image_size"] = int(size[0] if isinstance(size, list | tuple) else size)
    return int(settings["image_size"])


def _multi_crop(given: dict[str, Any]) -> dict[str, Any]:
    names = {
        "n_global": "views.views", "num_global": "views.views", "n_local": "views.locals", "num_local": "views.locals",
        "local_size": "views.local_size",
    }  # fmt: skip
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key == "global_size":
            found["image_size"] = int(value)
        elif key == "threshold":  # small crops are smaller than this share of the picture, whole views larger
            found |= {"views.scale": [float(value), 1.0], "views.local_scale": [0.05, float(value)]}
        elif key in names:
            found[names[key]] = int(value)
        else:
            raise WrongUse(
                f"multi_crop has no argument {key!r}.{perhaps(str(key), [*names, 'global_size', 'threshold'])}"
            )
    return found
