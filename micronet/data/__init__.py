"""Data sets by name or folder, image files, augmentation, and batches in a fixed order.

The order of images is a function of seed and position, so that a run can go on anywhere.
"""

# The modules that other packages may use; the others are this one's own.
__all__ = ["augmentation", "batches", "datasets", "device_decoding", "preprocessing", "seeds"]
