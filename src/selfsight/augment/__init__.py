"""Augmentation of whole batches: draw every random number, then apply on the device."""

from selfsight import plugins
from selfsight.augment.config import ViewsConfig
from selfsight.augment.multicrop import MultiCrop, multi_crop
from selfsight.augment.pipeline import Pipeline
from selfsight.augment.plan import Group
from selfsight.augment.policies import ENTRIES, POLICIES, Entry, Policy, suits
from selfsight.augment.sheet import columns, preview
from selfsight.augment.steps import STEPS, Step
from selfsight.augment.tiles import TilesConfig
from selfsight.augment.views import Crops, build

__all__ = [
    "ENTRIES",
    "POLICIES",
    "STEPS",
    "Crops",
    "Entry",
    "Group",
    "MultiCrop",
    "Pipeline",
    "Policy",
    "Step",
    "TilesConfig",
    "ViewsConfig",
    "build",
    "columns",
    "multi_crop",
    "preview",
    "suits",
]


def _is_step(name: str, found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Step) and found.name == name


def _is_entry(name: str, found: object) -> bool:
    if isinstance(found, Entry):
        POLICIES[name] = found.views
    return isinstance(found, Entry)


plugins.add("selfsight.steps", STEPS, _is_step)
plugins.add("selfsight.policies", ENTRIES, _is_entry)
