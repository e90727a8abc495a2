"""selfsight: learn visual representations from unlabelled pictures.

Names are imported on first use, so that `import selfsight` and `selfsight --help` are quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from selfsight._version import __version__
from selfsight.errors import WrongUse

if TYPE_CHECKING:
    from selfsight.analysis.figures import figures as figures
    from selfsight.analysis.summary import analyse as analyse
    from selfsight.api import embed as embed
    from selfsight.api import evaluate as evaluate
    from selfsight.api import load as load
    from selfsight.api import pretrain as pretrain
    from selfsight.api import resume as resume
    from selfsight.data import DATASETS as DATASETS
    from selfsight.doctor import check as check
    from selfsight.encoders import ENCODERS as ENCODERS
    from selfsight.formats import export as export
    from selfsight.methods import METHODS as METHODS
    from selfsight.recipes import RECIPES as RECIPES
    from selfsight.run import Run as Run

_HOME = {
    "DATASETS": "data",
    "ENCODERS": "encoders",
    "METHODS": "methods",
    "RECIPES": "recipes",
    "Run": "run",
    "analyse": "analysis.summary",
    "check": "doctor",
    "embed": "api",
    "evaluate": "api",
    "export": "formats",
    "figures": "analysis.figures",
    "load": "api",
    "pretrain": "api",
    "resume": "api",
}
__all__ = ["WrongUse", "__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'selfsight' has no attribute {name!r}")
    value = getattr(import_module(f"selfsight.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
