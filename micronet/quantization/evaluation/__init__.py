"""What a quantized network's evaluation needs besides its layers.

Functions between layers in their one arithmetic, and layers that are called instead of gone around.
"""

__all__ = ["exact_functions", "fast_paths"]
