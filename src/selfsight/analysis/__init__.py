"""What an encoder learned, looked at: nothing here trains."""

from selfsight.analysis.attention import attention_maps, mass_mask, save_attention

__all__ = ["attention_maps", "mass_mask", "save_attention"]
