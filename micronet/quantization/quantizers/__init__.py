"""Quantizers of a layer's input: by a moving range, by a learned step; where a step starts."""

__all__ = ["inputs", "learned", "least_error"]
