"""Weights that jump to and fro between two levels of their quantizer, and what is done about them.

``Oscillations`` follows the integers that ``weight_grid`` reads from the layers.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = ["following"]
