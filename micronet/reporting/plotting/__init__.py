"""Plots as SVG text, without scripts, fonts or links."""

# The modules that other packages may use; the others are this one's own.
__all__ = ["charts"]
