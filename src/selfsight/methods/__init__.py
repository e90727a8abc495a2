"""The methods, one file each. A new method is one file and one line here."""

from selfsight.core import Method
from selfsight.errors import WrongUse, perhaps
from selfsight.methods.byol import BYOL
from selfsight.methods.deepcluster import DeepCluster
from selfsight.methods.simclr import SimCLR
from selfsight.methods.swav import SwAV

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "byol": BYOL,
    "swav": SwAV,
    "deepcluster": DeepCluster,
}


def method_named(name: str) -> type[Method]:
    """The class of a method; WrongUse with a suggestion for an unknown name."""
    if name not in METHODS:
        raise WrongUse(f"unknown method {name!r}.{perhaps(name, set(METHODS))}")
    return METHODS[name]


def name_of(config: object) -> str:
    """The name of the method that a config belongs to."""
    return next(name for name, method in METHODS.items() if method.Config is type(config))
