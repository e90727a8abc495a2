"""Data sets: names, folders, lists and arrays, opened as parts whose pictures are at hand or decoded ahead."""

from selfsight import plugins
from selfsight.data.catalogue import DATASETS, Known
from selfsight.data.objects import from_objects
from selfsight.data.opening import open_data
from selfsight.data.part import DataSet, Part

__all__ = ["DATASETS", "DataSet", "Known", "Part", "from_objects", "open_data"]

plugins.add("selfsight.data", DATASETS, lambda _, found: isinstance(found, Known))
