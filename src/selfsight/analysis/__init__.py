"""What an encoder learned, looked at: nothing here trains."""

from selfsight.analysis.attention import attention_maps, mass_mask, save_attention
from selfsight.analysis.figure import save_drawn, table

__all__ = ["attention_maps", "mass_mask", "save_attention", "save_drawn", "table"]
