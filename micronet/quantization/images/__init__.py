"""A first layer that reads the grey values of images: the layer, and how they were normalized.

How grey values are rounded is ``quantizers.images``; what images are, ``micronet.data``.
"""

__all__ = ["inputs", "layer", "moments"]
