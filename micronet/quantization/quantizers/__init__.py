"""Quantizers of a layer's input: by a range, a learned step, an image; where a step starts."""

__all__ = ["images", "inputs", "learned", "least_error"]
