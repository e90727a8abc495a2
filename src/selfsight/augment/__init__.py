"""Augmentation of whole batches: draw every random number, then apply on the device."""

from selfsight.augment.apply import Group
from selfsight.augment.config import ViewsConfig
from selfsight.augment.multicrop import MultiCrop, multi_crop
from selfsight.augment.policies import ENTRIES, POLICIES, Entry, Policy, suits
from selfsight.augment.sheet import preview
from selfsight.augment.tiles import TilesConfig
from selfsight.augment.views import Crops, build

__all__ = [
    "ENTRIES",
    "POLICIES",
    "Crops",
    "Entry",
    "Group",
    "MultiCrop",
    "Policy",
    "TilesConfig",
    "ViewsConfig",
    "build",
    "multi_crop",
    "preview",
    "suits",
]
