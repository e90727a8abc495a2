"""What an encoder learned, looked at: nothing here trains."""

from selfsight.analysis.attention import attention_maps, mass_mask, save_attention
from selfsight.analysis.puzzles import save_puzzles

__all__ = ["attention_maps", "mass_mask", "save_attention", "save_puzzles"]
