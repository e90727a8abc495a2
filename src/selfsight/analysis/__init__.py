"""What an encoder learned, looked at: nothing here trains."""

from selfsight.analysis.attention import attention_maps, mass_mask, save_attention
from selfsight.analysis.eigenspace import Eigenspace, decompose, read_run
from selfsight.analysis.figure import save_drawn, table

__all__ = [
    "Eigenspace", "attention_maps", "decompose", "mass_mask", "read_run", "save_attention", "save_drawn", "table",
]  # fmt: skip
