"""Reports on run folders. Nothing here trains or needs the training code; a run may be unfinished or cut short.

`selfsight.report` is this package and, called, its function `report`.
"""

import sys
from types import ModuleType
from typing import Any

from selfsight.report.curves import curves
from selfsight.report.page import report
from selfsight.report.read import RunFolder, read_run


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return report(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

__all__ = ["RunFolder", "curves", "read_run", "report"]
