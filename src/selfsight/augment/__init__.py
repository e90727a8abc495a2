"""Augmentation of whole batches: draw every random number, then apply on the device."""

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
