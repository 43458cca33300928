"""Compression inside of training loops that other packages run: Lightning, Transformers."""

# The modules that other packages may use; the others are this one's own.
__all__ = ["lightning", "transformers"]
